"""
Decides how many agents a pool should have now, and says why.

Pure: policy, pool, outlook and history in, a decision out; the live loop, the simulator and the
tests call this. First the policy's rule names a wanted size in slots, then the agents to keep on
standby are added, and the common bounds are applied to both together.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from scaling import bounds, sizing
from scaling import standby as standbys
from scaling.demand import Demand, Outlook
from scaling.history import History
from scaling.policies import Mode, Policy, Rule
from scaling.pool import PoolState as PoolState
from scaling.standby import Moves, Plan, Sizes


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What a rule asks for, in slots, and the sentence that says why (a form for the inputs).

    reserve: of the slots, those held only because a launch takes its time: a wake does not, so that
    agents on standby stand in for them.
    """

    slots: int
    said: str
    reserve: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """
    How many agents there should be.

    current, target, wanted: agents, those on standby included; wanted: before the bounds; bounds:
    which of them changed it, in order. plan: how the target is shared out; moves: what leads there.
    action: `scale_up`, `scale_down` or `no_action` (the seed's three); agents that only wake or are
    set aside are growth and shrinking, too. is_carried_out: the mode is auto.
    """

    at: float
    action: str
    current: int
    target: int
    plan: Plan
    moves: Moves
    wanted: int
    said: str
    bounds: tuple[str, ...]
    is_carried_out: bool
    inputs: Mapping[str, Any]

    @property
    def reason(self) -> str:
        """The sentence that says why; written when it is asked for."""
        return self.said.format_map(self.inputs)


def decide(
    *, policy: Policy, pool: PoolState, demand: Demand, history: History, now: float
) -> Decision:
    """Return the decision for this moment; changes nothing but what `demand` knows of the time."""
    inputs = _inputs(pool)
    sizes = pool.sizes
    if policy.mode == Mode.OFF:
        plan = Plan(sizes.total, sizes.ready, sizes.standby)
        return _made(plan, plan.target, "scaling is off", (), policy, sizes, inputs, now)
    if missing := _missing(policy, pool, now):
        size = policy.fallback_size or 0
        plan = Plan(max(sizes.total, size), max(sizes.ready, size), sizes.standby)
        return _made(plan, plan.target, missing, ("fallback",), policy, sizes, inputs, now)
    wish = _wish(policy.rule, policy, pool, demand, now, inputs)
    plan, wanted, named = _planned(policy, pool, sizes, history, wish, now)
    return _made(plan, wanted, wish.said, named, policy, sizes, inputs, now)


def alternatives(
    *, policy: Policy, pool: PoolState, demand: Demand, now: float
) -> list[tuple[str, int, str]]:
    """Return what each other rule would ask for now: its name, agents, its sentence."""
    found = []
    for rule in RULES:
        if rule == policy.rule or rule in _FIXED:
            continue
        inputs = _inputs(pool)
        wanted = _wish(rule, policy, pool, demand, now, inputs)
        agents = pool.sized(wanted.slots + pool.held_back.slots)
        found.append((str(rule), agents, wanted.said.format_map(inputs)))
    return found


def _inputs(pool: PoolState) -> dict[str, Any]:
    return {
        "ready": pool.ready,
        "busy": pool.busy,
        "starting": pool.starting,
        "waiting": pool.waiting,
    }


def _planned(
    policy: Policy, pool: PoolState, sizes: Sizes, history: History, wish: Wanted, now: float
) -> tuple[Plan, int, tuple[str, ...]]:
    """
    Add the standby to a rule's wish, bound both together, and share out what is left.

    Returns: the plan; agents wanted before the bounds; which bounds changed it.
    """
    named: list[str] = []
    spare = standbys.wanted(
        policy.standby,
        rate=pool.rate,
        startup_s=policy.startup_s if pool.startup_s is None else pool.startup_s,
        slots_per_agent=pool.slots_per_agent,
    )
    stood_for = min(spare * pool.slots_per_agent, max(0, wish.reserve))
    # Whoever is held back comes on top of all that is wished for; the largest size counts them.
    held_back = pool.sized(pool.held_back.slots)
    asked = pool.sized(wish.slots - stood_for + pool.held_back.slots) - held_back
    if policy.rule == Rule.STATIC:
        asked = policy.size  # said in agents, whatever slots they have
    shaped = bounds.shaped(policy, pool, asked, named) + held_back
    low, high = bounds.least_and_most(policy, now)
    span = (low + held_back, high)
    on_duty = max(shaped, span[0], sizes.busy)
    # Whom an operator put on standby is woken as any other, but not let go for being too many.
    woken = min(sizes.standby, max(0, on_duty - sizes.ready))
    spare = max(spare, min(pool.kept, sizes.standby - woken))
    target = bounds.paced(policy, pool, history, sizes.total, shaped + spare, now, named)
    target = bounds.limited(policy, pool, history, target, spare, span, now, named)
    if target == sizes.total >= high:
        missing, least = shaped + spare - high, max(span[0], sizes.busy)
        target = bounds.made_room(policy, pool, history, target, missing, least, now, named)
    # What the bounds leave is for work first, for the standby afterwards.
    standby = min(spare, max(0, target - on_duty))
    return Plan(target, target - standby, standby), asked + held_back + spare, tuple(named)


def _made(
    plan: Plan,
    wanted: int,
    said: str,
    named: tuple[str, ...],
    policy: Policy,
    sizes: Sizes,
    inputs: dict[str, Any],
    now: float,
) -> Decision:
    moves = standbys.moves(sizes, plan)
    action = "no_action"
    if plan.target != sizes.total:
        action = "scale_up" if plan.target > sizes.total else "scale_down"
    elif moves.wake or moves.set_aside:
        action = "scale_up" if moves.wake else "scale_down"
    if sizes.standby or plan.standby:
        said += "; {standby} on standby, {standby_wanted} wanted"
        inputs |= {"standby": sizes.standby, "standby_wanted": plan.standby}
        moved = {"wake": moves.wake, "set_aside": moves.set_aside, "cold": moves.cold}
        inputs |= {name: count for name, count in moved.items() if count}
    return Decision(
        at=now,
        action=action,
        current=sizes.total,
        target=plan.target,
        plan=plan,
        moves=moves,
        wanted=wanted,
        said=said,
        bounds=named,
        is_carried_out=policy.mode == Mode.AUTO,
        inputs=inputs,
    )


def _missing(policy: Policy, pool: PoolState, now: float) -> str:
    """Return why the inputs can't be decided on; empty: they can."""
    if pool.observed_at is not None and now - pool.observed_at > policy.stale_s:
        return f"what is known is {now - pool.observed_at:.0f} s old; the size is kept"
    if policy.rule == Rule.CLASSIC:
        for name in ("rate", "service_s", "average_wait_s"):
            if getattr(pool, name) is None:
                return f"{name} is not known; the size is kept"
    return ""


def _wish(
    rule: Rule, policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """
    Return what a rule asks for; what could serve nobody who waits is no supply for them.

    The rule sees the pool without it, and it comes on top: it stays until nobody waits, as an idle
    one may. What the rule holds beyond whoever is there or waits is for whatever comes: for that
    any agent will do that is not held back.
    """
    seen = pool.of_use
    wish = RULES[rule](policy, seen, demand, now, inputs)
    if pool.held_back.slots:
        inputs["held_back"] = pool.held_back.slots
        wish = replace(wish, said=wish.said + "; {held_back} of the slots are held back")
    if not pool.apart.slots or rule in _FIXED:
        return wish
    does = min(pool.apart.free, max(0, wish.slots - seen.busy - seen.waiting))
    inputs["apart"] = pool.apart.slots
    return Wanted(
        wish.slots + pool.apart.slots - does,
        said=wish.said + "; {apart} of the slots could serve nobody who waits",
        reserve=max(0, wish.reserve - does),
    )


# -- rules -----------------------------------------------------------------------------------------

Size = Callable[[Policy, PoolState, Demand, float, dict[str, Any]], Wanted]


def _classic(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """The seed's rule: thresholds, wait limits, Little's law, the forecast's peak ratio."""
    rate, service_s, wait_s = pool.rate or 0.0, pool.service_s or 0.0, pool.average_wait_s or 0.0
    size = pool.supply
    # The seed's busy agents over all agents, those that are starting included.
    used = pool.busy / max(size, 1)
    target = policy.target_utilization
    little = sizing.little(rate=rate, service_s=service_s, target_share=target)
    peak = pool.peak_demand_ratio
    inputs.update(
        rate=rate, service_s=service_s, average_wait_s=wait_s, utilization=used, peak=peak
    )
    if policy.as_written:
        return _classic_as_written(policy, pool, math.ceil(little * peak), used, wait_s)
    # Mended: a backlog counts, either sign is enough, and zero can be left.
    asked = math.ceil((pool.busy + pool.waiting) / target)
    needed = max(math.ceil(little * peak), asked)
    is_short = used > policy.scale_up_threshold or wait_s > policy.max_acceptable_wait_time
    if (is_short or pool.waiting > size - pool.busy) and needed > size:
        most = size + max(math.ceil(size * policy.max_scale_up_ratio), pool.waiting, 1)
        return Wanted(min(needed, most), f"busy {used:.0%}, average wait {wait_s:.0f} s")
    is_idle = used < policy.scale_down_threshold and wait_s < policy.min_useful_wait_time
    if is_idle and not pool.waiting and needed < size:
        least = math.floor(size * (1 - policy.max_scale_down_ratio))
        return Wanted(max(needed, least), f"only {used:.0%} busy, and nobody waits")
    return Wanted(size, f"busy {used:.0%}, average wait {wait_s:.0f} s: within the limits")


def _classic_as_written(
    policy: Policy, pool: PoolState, needed: int, used: float, wait_s: float
) -> Wanted:
    size = pool.supply
    if used > policy.scale_up_threshold and wait_s > policy.max_acceptable_wait_time:
        most = size + math.ceil(size * policy.max_scale_up_ratio)
        return Wanted(
            max(min(needed, most), size + 1),
            f"High utilization ({used:.2f}) and wait time ({wait_s:.1f}s)",
        )
    if used < policy.scale_down_threshold and wait_s < policy.min_useful_wait_time:
        least = math.ceil(size * (1 - policy.max_scale_down_ratio))
        return Wanted(
            min(max(needed, least, pool.busy), size),
            f"Low utilization ({used:.2f}) and short wait times",
        )
    return Wanted(size, "Metrics within acceptable range")


def _utilization(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """Kubernetes' HPA on the used share of ready slots."""
    slots = sizing.by_utilization(
        size=pool.ready,
        used=pool.busy,
        target=policy.target_utilization,
        tolerance=policy.tolerance,
    )
    if not pool.ready and pool.waiting:
        slots = 1
    share = pool.busy / pool.ready if pool.ready else 0.0
    return Wanted(slots, f"busy {share:.0%} of {policy.target_utilization:.0%} wanted")


def _queue(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """KEDA's way: so many requests, waiting and running, for each slot."""
    slots = sizing.by_queue(
        size=pool.ready,
        waiting=pool.waiting,
        busy=pool.busy,
        per_slot=policy.target_per_agent,
        tolerance=policy.tolerance,
    )
    return Wanted(slots, f"{pool.waiting} waiting and {pool.busy} running")


def _warm(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """What is asked for, and k more."""
    slots = pool.busy + pool.waiting + math.ceil(policy.k)
    inputs["k"] = policy.k
    return Wanted(slots, "{busy} busy, {waiting} waiting, {k:g} to spare")


def _schedule(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """Nothing but the calendar's bounds, and never less than what is busy."""
    return Wanted(0, "the calendar decides")


def _static(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """Always the same size."""
    return Wanted(policy.size * pool.slots_per_agent, f"always {policy.size}")


def _predictive(
    policy: Policy, pool: PoolState, demand: Demand, now: float, inputs: dict[str, Any]
) -> Wanted:
    """The lead-time newsvendor: what is asked for, and a learnt reserve for what will be."""
    seen: Outlook = demand.outlook(now)
    # No more than are busy can end, and serve whoever waits.
    helped = min(pool.waiting, pool.busy)
    reserve = max(math.ceil(seen.spare - 0.5), -helped) + seen.announced
    inputs.update(
        expected=seen.expected,
        held=seen.held,
        ending=seen.ending,
        announced=seen.announced,
        share=math.exp(seen.log_share),
        lead_s=seen.lead_s,
    )
    said = _AHEAD if seen.lead_s >= 0.5 else _FAST
    if seen.surge is not None and seen.surge.held > reserve:
        reserve, said = seen.surge.held, seen.surge.said
        inputs.update(seen.surge.inputs(now))
    return Wanted(
        pool.busy + pool.waiting + reserve,
        reserve=reserve,
        said="{busy} busy, {waiting} waiting; " + said,
    )


# Of what comes while an agent starts up.
_AHEAD = (
    "in {lead_s:.0f} s {expected:.1f} more are expected, room is held for {held:.1f};"
    " {ending:.1f} will end"
)
_FAST = "an agent starts within what a request may wait"


# Those that do not look at who waits.
_FIXED = (Rule.SCHEDULE, Rule.STATIC)

RULES: Mapping[Rule, Size] = {
    Rule.CLASSIC: _classic,
    Rule.UTILIZATION: _utilization,
    Rule.QUEUE: _queue,
    Rule.WARM: _warm,
    Rule.SCHEDULE: _schedule,
    Rule.STATIC: _static,
    Rule.PREDICTIVE: _predictive,
}
