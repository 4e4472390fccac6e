"""
Computes what changes would do to a pool by replaying its recent work, and proposes those that help.

Pure. The same work is replayed without and with each change that `scaling.troubles` names; no
effect is estimated by a constant.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from scaling import situations, troubles
from scaling.fleet import Figures
from scaling.policies import Mode, Policy
from scaling.situations import Situation
from scaling.troubles import USUAL, Action, Finding, Kind, Rules, World


@dataclass(frozen=True)
class Proposal:
    """
    A finding whose change is expected to help: `metric` measured, replayed without and with it.

    expected: what the metric would be with the change, after `factor`, the share of the computed
    gain that such changes have brought so far. agent_hours: what it costs a day more, below 0:
    saves.
    """

    kind: Kind
    subject: str
    basis: str
    action: Action
    change: Mapping[str, Any]
    metric: str
    measured: float
    without: float
    computed: float
    expected: float
    factor: float
    attempts: int
    over_s: float
    agent_hours_a_day: float
    numbers: Mapping[str, float] = field(default_factory=dict)


# Whether less of it is better.
LESS_IS_BETTER: Mapping[str, bool] = {
    "mean_wait_s": True,
    "turnaround_s": True,
    "reserved_mb": True,
    "top_ratio": True,
    "project_wait_s": True,
    "agent_hours": True,
    "turns_per_hour": True,
    "throughput_per_agent_h": False,
}


def value_of(figures: Figures, metric: str, subject: str = "") -> float:
    """Return one metric of some figures; subject: the project that it is asked of."""
    if metric == "project_wait_s":
        return figures.project_wait_s.get(subject, 0.0)
    return float(getattr(figures, metric))


def is_told(figures: Figures, metric: str, subject: str = "") -> bool:
    """Return whether there was any of the work that a metric is asked of."""
    if metric == "project_wait_s":
        return subject in figures.project_wait_s
    return metric != "turnaround_s" or figures.throughput_per_agent_h > 0


def corrected(*, without: float, computed: float, factor: float) -> float:
    """Return what to expect when such changes bring only `factor` of what is computed."""
    return without + (computed - without) * factor


def factor_after(gains: Sequence[tuple[float, float]]) -> float:
    """
    Return the share of the computed gain that came true, from (computed, real) gains.

    Two changes that did as computed are taken for granted; between a quarter and twice.
    """
    shares = [max(0.0, min(3.0, real / computed)) for computed, real in gains if computed > 0]
    return max(0.25, min(2.0, (2.0 + math.fsum(shares)) / (2 + len(shares))))


def gain(*, metric: str, before: float, after: float) -> float:
    """Return by how much a metric got better; below 0: worse."""
    return before - after if LESS_IS_BETTER[metric] else after - before


def proposals(
    situation: Situation, *, rules: Rules = USUAL, factors: Mapping[str, float] | None = None
) -> list[Proposal]:
    """
    Return what should be done: what hurts first, of that what costs nothing; usually nothing.

    factors: by kind, as `factor_after` gives them.
    """
    now = situations.measured(situation)
    if now.attempts < rules.least_attempts:
        return []
    present = World(situation.jobs, situation.members, situation.weights)
    found, without = [], present.replayed(situation.over_s)
    for finding in troubles.findings(situation, now, rules):
        base = without
        if finding.action is Action.SPREAD_WORK:
            base = replace(present, is_spread=False).replayed(situation.over_s)
        after = finding.world.replayed(situation.over_s)
        factor = (factors or {}).get(finding.kind, 1.0)
        made = _proposal(finding, situation, (now, base, after), factor)
        if _helps(made, base, after, rules):
            found.append(made)
    calm = _calm(situation, now.attempts, rules, (factors or {}).get(Kind.FLAPPING, 1.0))
    if calm is not None and calm.expected < (1 - rules.gain_share) * calm.without:
        found.append(calm)
    return sorted(found, key=_rank)


def _rank(made: Proposal) -> tuple[bool, bool, float]:
    """Return what is proposed first, the least: what hurts, before savings; what costs nothing."""
    is_saving = made.kind is Kind.LOW_UTILIZATION
    return is_saving, made.agent_hours_a_day > 0, -_gain_share(made)


def _helps(made: Proposal, base: Figures, after: Figures, rules: Rules) -> bool:
    """Return whether a change is worth it, and leaves no work undone that was done without it."""
    if after.unserved > base.unserved:
        return False
    if _gain_share(made) > rules.gain_share:
        return True
    # Without a bad agent the others have more to do; that less fails is worth as much time.
    is_less = after.failed_percent < (1 - rules.gain_share) * base.failed_percent
    return made.kind is Kind.BAD_AGENT and is_less and _gain_share(made) > -rules.gain_share


def _gain_share(made: Proposal) -> float:
    won = gain(metric=made.metric, before=made.without, after=made.expected)
    return won / abs(made.without) if made.without else 0.0


def _proposal(
    finding: Finding, situation: Situation, seen: tuple[Figures, Figures, Figures], factor: float
) -> Proposal:
    now, base, after = seen
    values = [value_of(each, finding.metric, finding.subject) for each in seen]
    days = situation.over_s / 86_400
    # Who is in quarantine works no more, and costs as before.
    is_paid = finding.action is Action.QUARANTINE
    return Proposal(
        kind=finding.kind,
        subject=finding.subject,
        basis=finding.basis,
        action=finding.action,
        change=finding.change,
        metric=finding.metric,
        measured=values[0],
        without=values[1],
        computed=values[2],
        expected=corrected(without=values[1], computed=values[2], factor=factor),
        factor=factor,
        attempts=now.attempts,
        over_s=situation.over_s,
        agent_hours_a_day=0.0 if is_paid else (after.agent_hours - base.agent_hours) / days,
        numbers={
            **finding.numbers,
            "failed_percent": now.failed_percent,
            "failed_percent_then": after.failed_percent,
            "mean_wait_s": now.mean_wait_s,
            "mean_wait_s_then": after.mean_wait_s,
        },
    )


# -- flapping: what the pool's own policy makes of the same work -----------------------------------


def _calm(situation: Situation, attempts: int, rules: Rules, factor: float) -> Proposal | None:
    hours = situation.over_s / 3600
    policy = situation.policy
    if policy is None or not situation.jobs or situation.turns / hours < rules.turns_per_hour:
        return None
    longer_s = max(rules.calm_s, 2 * policy.stabilise_s)
    calm = replace(policy, stabilise_s=longer_s)
    (base, base_s), (after, after_s) = (_turns(situation, each) for each in (policy, calm))
    return Proposal(
        kind=Kind.FLAPPING,
        subject="",
        basis=f"the size turned {situation.turns} times in {hours:.1f} h",
        action=Action.CALM_SCALING,
        change={"stabilise_s": longer_s},
        metric="turns_per_hour",
        measured=situation.turns / hours,
        without=base / hours,
        computed=after / hours,
        expected=corrected(without=base / hours, computed=after / hours, factor=factor),
        factor=factor,
        attempts=attempts,
        over_s=situation.over_s,
        agent_hours_a_day=(after_s - base_s) / 3600 / (situation.over_s / 86_400),
    )


def _turns(situation: Situation, policy: Policy) -> tuple[int, float]:
    """Return how often the size turns under a policy, and the agent-seconds that it pays."""
    # Only here: the simulator's arrays cost each process 20 MB.
    from scaling import simulation, traces

    work = [traces.Job(each.arrival_s, each.work_s) for each in situation.jobs]
    moves: list[int] = []
    replay = simulation.replay(
        traces.made(situation.agent_type, work),
        policy=replace(policy, mode=Mode.AUTO),
        warmup_s=0.0,
        heard=lambda made: moves.append(made.target - made.current),
    )
    return situations.turns(moves), replay.paid_s
