"""
Looks for what is wrong with a pool: each rule for one kind of trouble, with what could be done.

Pure. A rule says from the measured numbers what it found, and how the situation would look with a
change; whether the change would help is for `scaling.optimizing` to compute.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from typing import Any

from agentpool.registry.adjustable import chosen, number, share
from scaling import fleet, situations
from scaling.fleet import Figures, Job, Member
from scaling.situations import Situation


class Kind(StrEnum):
    """The kinds of trouble; the first four are the seed's."""

    HIGH_WAIT_TIMES = "high_wait_times"
    LOW_UTILIZATION = "low_utilization"
    RESOURCE_WASTE = "resource_waste"
    POOR_THROUGHPUT = "poor_throughput"
    FLAPPING = "flapping"
    HOT_AGENT = "hot_agent"
    BAD_AGENT = "bad_agent"
    STARVING_PROJECT = "starving_project"


class Action(StrEnum):
    """What can be done; the first two are the seed's."""

    SCALE_UP = "scale_up"
    AGENT_TUNING = "agent_tuning"
    SCALE_DOWN = "scale_down"
    LOWER_REQUIREMENTS = "lower_requirements"
    CALM_SCALING = "calm_scaling"
    SPREAD_WORK = "spread_work"
    QUARANTINE = "quarantine"
    PROJECT_WEIGHT = "project_weight"


@dataclass(frozen=True, slots=True)
class Rules:
    """
    From when on something is trouble, and how far a change goes; shares 0 to 1, times seconds.

    Source of wait_s, useful_wait_s, busy_share, idle_share and scale_share: seed 2; of the low
    shares: its ResourceRebalancer. gain_share: what a change must improve at least; chance: how
    likely bad luck alone may explain what is held against an agent, at most.
    """

    window_s: float = number(3600.0, "Looked back for", "s", above=0)
    least_attempts: float = number(20.0, "Says nothing of fewer than", "leases", above=0)
    wait_s: float = number(30.0, "A wait is high above", "s")
    useful_wait_s: float = number(5.0, "A wait is nobody's trouble below", "s")
    busy_share: float = share(0.8, "Busy above", "share of the slots")
    idle_share: float = share(0.3, "Idle below", "share of the slots")
    scale_share: float = share(0.2, "Agents then added or let go", "share of the pool", above=0)
    low_memory_share: float = share(0.3, "Memory is wasted below", "share of the ask")
    headroom: float = number(1.2, "To be asked for, of the peak", "times")
    throughput_share: float = share(0.7, "Throughput is poor below", "share of the day before")
    turns_per_hour: float = number(6.0, "The size flaps above", "turns an hour")
    calm_s: float = number(300.0, "Calmed for at least", "s")
    hot_ratio: float = number(2.0, "An agent is hot above", "times the mean")
    fail_excess: float = number(0.2, "An agent is bad if more fail by", "share of its leases")
    slow_ratio: float = number(2.0, "An agent is slow above", "times the others")
    chance: float = share(0.001, "Bad luck is ruled out below", "chance")
    starving_ratio: float = number(4.0, "A project starves above", "times the others' wait")
    weight_ratio: float = number(2.0, "Its weight then", "times the present one", above=0)
    gain_share: float = share(0.1, "Proposed if it improves by", "share")
    judge_s: float = number(1800.0, "Judged after", "s", above=0)
    most_agents_a_day: float = number(10.0, "By itself, agents a day", "at most")


USUAL = Rules()


@dataclass(frozen=True)
class World:
    """What a change would make of a situation, as it can be replayed."""

    jobs: Sequence[Job]
    members: Sequence[Member]
    weights: Mapping[str, float]
    is_spread: bool = True

    def replayed(self, over_s: float) -> Figures:
        """Return what becomes of the work."""
        return fleet.replay(
            self.jobs,
            self.members,
            over_s=over_s,
            weights=self.weights,
            is_spread=self.is_spread,
        )


@dataclass(frozen=True)
class Finding:
    """Trouble with what could be done; world: with the change. basis: sentence with the numbers."""

    kind: Kind
    subject: str
    basis: str
    action: Action
    change: Mapping[str, Any]
    metric: str
    world: World
    numbers: Mapping[str, float] = field(default_factory=dict)


def rules_of(settings: Mapping[str, Any]) -> Rules:
    """Return the usual rules with some changed; raises ValueError, a name or a value is none."""
    made = chosen(Rules, settings)
    if made.idle_share >= made.busy_share:
        raise ValueError("idle_share: below busy_share, or a pool would grow and shrink.")
    if made.headroom < 1:
        raise ValueError("headroom: 1 or more, or what is used would not fit.")
    return made


def findings(situation: Situation, now: Figures, rules: Rules = USUAL) -> Iterator[Finding]:
    """Yield what is wrong, each with what could be done; not yet whether that would help."""
    yield from _wasteful(situation, now, rules)
    yield from _bad_agents(situation, rules)
    yield from _hot_agents(situation, now, rules)
    yield from _starving(situation, now, rules)
    yield from _waits(situation, now, rules)
    yield from _slow_pool(situation, now, rules)
    yield from _idle(situation, now, rules)


def _world(situation: Situation, **changed: Any) -> World:
    return replace(World(situation.jobs, situation.members, situation.weights), **changed)


# -- the rules -------------------------------------------------------------------------------------


def _waits(situation: Situation, now: Figures, rules: Rules) -> Iterator[Finding]:
    if now.mean_wait_s <= rules.wait_s:
        return
    said = f"{now.attempts} leases waited {now.mean_wait_s:.0f} s on average"
    if now.busy_share > rules.busy_share:
        more = math.ceil(len(_present(situation)) * rules.scale_share)
        yield Finding(
            Kind.HIGH_WAIT_TIMES,
            "",
            f"{said} while {now.busy_share:.0%} of the slots were busy",
            Action.SCALE_UP,
            {"agents": more},
            "mean_wait_s",
            _world(situation, members=[*situation.members, *_added(situation, more)]),
        )
        return
    basis = f"{said} although only {now.busy_share:.0%} of the slots were busy"
    yield from _tuned(situation, Kind.HIGH_WAIT_TIMES, basis, "mean_wait_s")


def _slow_pool(situation: Situation, now: Figures, rules: Rules) -> Iterator[Finding]:
    usual, made = situation.usual_throughput, now.throughput_per_agent_h
    if not usual or made >= rules.throughput_share * usual or now.busy_share <= rules.idle_share:
        return
    basis = f"an agent finished {made:.1f} pieces of work an hour, before that {usual:.1f}"
    yield from _tuned(situation, Kind.POOR_THROUGHPUT, basis, "throughput_per_agent_h")


def _tuned(situation: Situation, kind: Kind, basis: str, metric: str) -> Iterator[Finding]:
    """Yield a slot more than any agent has, where what work was seen to use leaves room for it."""
    used = [each.used_cores for each in situation.jobs if each.used_cores is not None]
    there = _present(situation)
    if not used or not there:
        return
    mean = math.fsum(used) / len(used)
    slots = max(each.slots for each in there) + 1
    if any(mean * slots > each.cores for each in there):
        return
    yield Finding(
        kind,
        "",
        f"{basis}; work uses {mean:.2f} cores, so that an agent has room for one more",
        Action.AGENT_TUNING,
        {"slots": slots},
        metric,
        _world(
            situation,
            members=[replace(each, slots=max(slots, each.slots)) for each in situation.members],
        ),
    )


def _idle(situation: Situation, now: Figures, rules: Rules) -> Iterator[Finding]:
    there = sorted(_present(situation), key=lambda each: each.leases)
    if now.busy_share >= rules.idle_share or now.mean_wait_s > rules.useful_wait_s:
        return
    fewer = min(int(len(there) * rules.scale_share) or 1, len(there) - 1)
    while fewer > 0:
        gone = {each.name for each in there[:fewer]}
        left = _world(situation, members=[m for m in situation.members if m.name not in gone])
        after = left.replayed(situation.over_s)
        if after.mean_wait_s > rules.useful_wait_s or after.p95_wait_s > rules.wait_s:
            # Half as many, so that a large pool costs few replays.
            fewer //= 2
            continue
        yield Finding(
            Kind.LOW_UTILIZATION,
            "",
            f"{now.busy_share:.0%} of the slots were busy; with {fewer} fewer the same work would"
            f" have waited {after.mean_wait_s:.1f} s",
            Action.SCALE_DOWN,
            {"agents": fewer},
            "agent_hours",
            left,
        )
        return


def _wasteful(situation: Situation, now: Figures, rules: Rules) -> Iterator[Finding]:
    seen = [each for each in situation.jobs if each.peak_mb and each.memory_mb]
    if len(seen) < rules.least_attempts:
        return
    asked = median(each.memory_mb for each in seen)
    peaks = sorted(each.peak_mb or 0.0 for each in seen)
    used = math.fsum(peaks) / math.fsum(each.memory_mb for each in seen)
    if used >= rules.low_memory_share:
        return
    enough = math.ceil(peaks[-1] * rules.headroom)
    is_waiting = now.mean_wait_s > rules.useful_wait_s
    yield Finding(
        Kind.RESOURCE_WASTE,
        "",
        f"{len(seen)} leases asked for {asked:.0f} MB and used {used:.0%} of it, at most"
        f" {peaks[-1]:.0f} MB",
        Action.LOWER_REQUIREMENTS,
        {"memory_mb": enough},
        "mean_wait_s" if is_waiting else "reserved_mb",
        _world(
            situation,
            jobs=[replace(job, memory_mb=min(job.memory_mb, enough)) for job in situation.jobs],
        ),
        {"asked_mb": asked, "peak_mb": peaks[-1], "used_share": used},
    )


def _bad_agents(situation: Situation, rules: Rules) -> Iterator[Finding]:
    ended = situations.ended_of(situation.attempts)
    members = {each.name: each for each in _present(situation)}
    for name, own in ended.items():
        others = [one for other, each in ended.items() if other != name for one in each]
        if name not in members or not others or len(members) < 2:
            continue
        basis = _held_against(members[name], own, others, rules)
        if not basis:
            continue
        yield Finding(
            Kind.BAD_AGENT,
            name,
            basis,
            Action.QUARANTINE,
            {"agent_id": name},
            "turnaround_s",
            _world(situation, members=[m for m in situation.members if m.name != name]),
        )


def _held_against(
    member: Member,
    own: Sequence[situations.Attempt],
    others: Sequence[situations.Attempt],
    rules: Rules,
) -> str:
    failed = sum(not each.is_success for each in own)
    usual = sum(not each.is_success for each in others) / len(others)
    luck = situations.tail(len(own), failed, max(usual, 0.02))
    if failed / len(own) >= usual + rules.fail_excess and luck < rules.chance:
        return (
            f"{failed} of its {len(own)} leases failed, of the others' {len(others)} {usual:.0%};"
            f" that it had bad luck has a chance of {max(luck, 1e-9):.1g}"
        )
    if member.slowness >= rules.slow_ratio:
        return f"its {len(own)} leases took {member.slowness:.1f} times as long as the others'"
    return ""


def _hot_agents(situation: Situation, now: Figures, rules: Rules) -> Iterator[Finding]:
    there = _present(situation)
    if len(there) < 2 or now.top_ratio < rules.hot_ratio:
        return
    if now.top_ratio * now.busy_share <= rules.busy_share:
        return  # it has time left all the same
    hot = max(there, key=lambda each: each.leases)
    # One that comes up late, or fails and takes the next, is no matter of placing.
    if hot.leases < rules.least_attempts or hot.fails > rules.fail_excess:
        return
    yield Finding(
        Kind.HOT_AGENT,
        hot.name,
        f"the busiest agent was {now.top_ratio:.1f} times as busy as the mean of {len(there)}",
        Action.SPREAD_WORK,
        {"strategy": "least_loaded"},
        "top_ratio",
        _world(situation),
    )


def _starving(situation: Situation, now: Figures, rules: Rules) -> Iterator[Finding]:
    waits = now.project_wait_s
    for name, wait_s in waits.items():
        rest = [other for project, other in waits.items() if project != name]
        if not rest or wait_s <= max(rules.wait_s, rules.starving_ratio * median(rest)):
            continue
        weight = situation.weights.get(name, 1.0) * rules.weight_ratio
        yield Finding(
            Kind.STARVING_PROJECT,
            name,
            f"its work waited {wait_s:.0f} s, that of the other projects {median(rest):.0f} s",
            Action.PROJECT_WEIGHT,
            {"project": name, "weight": weight},
            "project_wait_s",
            _world(situation, weights={**situation.weights, name: weight}),
        )


def _present(situation: Situation) -> list[Member]:
    return [each for each in situation.members if each.until_s >= situation.over_s]


def _added(situation: Situation, count: int) -> list[Member]:
    """Return agents as the usual one there, for the whole window."""
    there = _present(situation) or list(situation.members)
    like = sorted(there, key=lambda each: (each.fails, each.slowness))[len(there) // 2]
    return [
        replace(like, name=f"new-{each}", from_s=0.0, until_s=math.inf, leases=0, rank=10**6)
        for each in range(count)
    ]
