"""
Decides how many agents a pool should have now, and says why.

Pure: policy, pool, outlook and history in, a decision out; the live loop, the simulator and the
tests call this. First the policy's rule names a wanted size in slots, then the common bounds are
applied in the order of `_bounded`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from scaling import schedule, sizing
from scaling.demand import Demand, Outlook
from scaling.history import History
from scaling.policies import Mode, Policy, Rule


@dataclass(frozen=True, slots=True)
class PoolState:
    """
    A pool as it stands; all but the sizes of agents in slots, one lease each.

    ready: slots of agents that are idle or busy. starting: slots still to come. Draining agents
    supply nothing and are not counted. rate: arrivals per second, last ten minutes. service_s:
    mean of the last 500. average_wait_s: of those started in the last 300 s and those waiting.
    oldest_wait_s: of those waiting. None: not known.
    """

    ready: int
    busy: int
    starting: int = 0
    waiting: int = 0
    rate: float | None = None
    service_s: float | None = None
    average_wait_s: float | None = None
    peak_demand_ratio: float = 1.0
    slots_per_agent: int = 1
    observed_at: float | None = None

    @property
    def supply(self) -> int:
        """Slots that are there or coming."""
        return self.ready + self.starting


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a rule asks for, in slots, and the sentence that says why (a form for the inputs)."""

    slots: int
    said: str


@dataclass(frozen=True, slots=True)
class Decision:
    """
    How many agents there should be.

    action: `scale_up`, `scale_down` or `no_action` (the seed's three). wanted: agents before the
    bounds; bounds: which of them changed it, in order. is_carried_out: the mode is auto.
    """

    at: float
    action: str
    current: int
    target: int
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
    current = math.ceil(pool.supply / pool.slots_per_agent)
    inputs = _inputs(pool)
    if policy.mode == Mode.OFF:
        return _made(current, current, current, "scaling is off", (), policy, inputs, now)
    missing = _missing(policy, pool, now)
    if missing:
        size = max(current, policy.fallback_size or 0)
        return _made(current, size, size, missing, ("fallback",), policy, inputs, now)
    wanted = RULES[policy.rule](policy, pool, demand, now, inputs)
    agents = math.ceil(wanted.slots / pool.slots_per_agent)
    target, bounds = _bounded(policy, pool, history, current, agents, now)
    return _made(current, target, agents, wanted.said, bounds, policy, inputs, now)


def alternatives(
    *, policy: Policy, pool: PoolState, demand: Demand, now: float
) -> list[tuple[str, int, str]]:
    """Return what each other rule would ask for now: its name, agents, its sentence."""
    found = []
    for rule, size in RULES.items():
        if rule in (policy.rule, Rule.SCHEDULE, Rule.STATIC):
            continue
        inputs = _inputs(pool)
        wanted = size(policy, pool, demand, now, inputs)
        agents = math.ceil(wanted.slots / pool.slots_per_agent)
        found.append((str(rule), agents, wanted.said.format_map(inputs)))
    return found


def _inputs(pool: PoolState) -> dict[str, Any]:
    return {
        "ready": pool.ready,
        "busy": pool.busy,
        "starting": pool.starting,
        "waiting": pool.waiting,
    }


def _made(
    current: int,
    target: int,
    wanted: int,
    said: str,
    bounds: tuple[str, ...],
    policy: Policy,
    inputs: Mapping[str, Any],
    now: float,
) -> Decision:
    action = "no_action"
    if target != current:
        action = "scale_up" if target > current else "scale_down"
    carried = policy.mode == Mode.AUTO
    return Decision(now, action, current, target, wanted, said, bounds, carried, inputs)


def _missing(policy: Policy, pool: PoolState, now: float) -> str:
    """Return why the inputs can't be decided on; empty: they can."""
    if pool.observed_at is not None and now - pool.observed_at > policy.stale_s:
        return f"what is known is {now - pool.observed_at:.0f} s old; the size is kept"
    if policy.rule == Rule.CLASSIC:
        for name in ("rate", "service_s", "average_wait_s"):
            if getattr(pool, name) is None:
                return f"{name} is not known; the size is kept"
    return ""


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
    reserve = max(math.ceil(seen.spare - 0.5), -pool.waiting) + seen.announced
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
    return Wanted(pool.busy + pool.waiting + reserve, "{busy} busy, {waiting} waiting; " + said)


# Of what comes while an agent starts up.
_AHEAD = (
    "in {lead_s:.0f} s {expected:.2g} more are expected, room is held for {held:.1f};"
    " {ending:.1f} will end"
)
_FAST = "an agent starts within what a request may wait"


RULES: Mapping[Rule, Size] = {
    Rule.CLASSIC: _classic,
    Rule.UTILIZATION: _utilization,
    Rule.QUEUE: _queue,
    Rule.WARM: _warm,
    Rule.SCHEDULE: _schedule,
    Rule.STATIC: _static,
    Rule.PREDICTIVE: _predictive,
}


# -- bounds ----------------------------------------------------------------------------------------


def _bounded(
    policy: Policy, pool: PoolState, history: History, current: int, wanted: int, now: float
) -> tuple[int, tuple[str, ...]]:
    """
    Apply the common bounds to a wanted number of agents.

    First what shapes the wish (headroom, minimum of idle ones), then how fast it may be followed
    (stabilisation, dead band, steps, cool-downs, flaps), last what must never be left (sizes,
    budget, agents that are busy).
    """
    named: list[str] = []
    target = _wish(policy, pool, wanted, named)
    target = _pace(policy, pool, history, current, target, now, named)
    target = _limit(policy, pool, history, target, now, named)
    return target, tuple(named)


def _wish(policy: Policy, pool: PoolState, wanted: int, named: list[str]) -> int:
    target = wanted
    if policy.headroom:
        target = _noted(math.ceil(target * (1 + policy.headroom)), target, "headroom", named)
    if policy.min_idle:
        asked = math.ceil((pool.busy + pool.waiting) / pool.slots_per_agent) + policy.min_idle
        target = _noted(max(target, asked), target, "min_idle", named)
    return target


def _pace(
    policy: Policy,
    pool: PoolState,
    history: History,
    current: int,
    wish: int,
    now: float,
    named: list[str],
) -> int:
    target = wish
    if policy.stabilise_s and target < current:
        steady = min(history.highest(since=now - policy.stabilise_s, at_least=target), current)
        target = _noted(steady, target, "stabilise_s", named)
    if policy.dead_band and abs(target - current) <= policy.dead_band and not pool.waiting:
        target = _noted(current, target, "dead_band", named)
    if target == current:
        return target
    is_up = target > current
    steps = [
        policy.step_up if is_up else policy.step_down,
        _share(current, policy.step_up_ratio if is_up else policy.step_down_ratio),
    ]
    most = min((step for step in steps if step is not None), default=None)
    if most is not None and abs(target - current) > most:
        target = _noted(current + (most if is_up else -most), target, "step", named)
    last = history.last_up_at if is_up else history.last_down_at
    cooldown_s = policy.cooldown_up_s if is_up else policy.cooldown_down_s
    if cooldown_s and last is not None and now - last < cooldown_s:
        target = _noted(current, target, "cooldown_up_s" if is_up else "cooldown_down_s", named)
    if (
        policy.flap_budget is not None
        and not is_up
        and history.turns(since=now - 3600) >= policy.flap_budget
    ):
        target = _noted(current, target, "flap_budget", named)
    return target


def _limit(
    policy: Policy, pool: PoolState, history: History, wish: int, now: float, named: list[str]
) -> int:
    low, high = policy.min_size, policy.max_size
    if policy.schedule:
        low, high = schedule.bounds(policy.schedule, min_size=low, max_size=high, now=now)
    target = _noted(max(wish, low), wish, "min_size", named)
    target = _noted(min(target, high), target, "max_size", named)
    ceiling = _affordable(policy, history, low, now)
    if ceiling is not None:
        target = _noted(min(target, ceiling), target, "budget", named)
    # Whoever works is never stopped; agents that are busy leave when they are done.
    busy = math.ceil(pool.busy / pool.slots_per_agent)
    return _noted(max(target, busy), target, "busy", named)


def _affordable(policy: Policy, history: History, low: int, now: float) -> int | None:
    """
    Return the most agents that today's budget allows; None: there is no budget.

    What is left after the minimum's own need until midnight may be spent within an hour.
    """
    budgets = []
    if policy.budget_agent_hours_per_day is not None:
        budgets.append(policy.budget_agent_hours_per_day)
    if policy.budget_usd_per_day is not None:
        budgets.append(policy.budget_usd_per_day / policy.usd_per_agent_hour)
    if not budgets:
        return None
    left_h = 24 - (now % 86_400) / 3600
    over = min(budgets) - history.agent_hours(now) - low * left_h
    return low + max(0, math.floor(over))


def _share(current: int, ratio: float | None) -> int | None:
    return None if ratio is None else max(1, math.ceil(current * ratio))


def _noted(target: int, before: int, name: str, named: list[str]) -> int:
    if target != before:
        named.append(name)
    return target
