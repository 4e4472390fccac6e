"""
Says whether an agent is still to be trusted, from how its outcomes compare with its pool's.

Pure. Each outcome is more likely of a broken agent or of a usual one; the log of the ratio is added
up and never falls below 0 (a cumulative sum test), so that old good work does not excuse new bad
work. What is usual is asked of the kind of work, so that hard work counts little against anybody,
and work that has failed with others counts nothing.
"""

import math
from dataclasses import dataclass

from agentpool.registry.states import AgentHealth
from balancing import outlook
from balancing.outlook import Prediction

# How much worse a broken agent is: log odds of success, log seconds (here three times as long).
BROKEN_ODDS = -2.0
BROKEN_LOG_S = math.log(3)
# What one outcome may say at most, either way: no single one condemns or acquits.
MOST = 1.5
# Suspicion never grows beyond this, so that some good work is enough to be trusted again.
CEILING = 12.0
# Below it an agent on probation is good again.
TRUSTED = 1.0
# By so much less than probation calls for is it suspected who comes out of quarantine.
FORGIVEN = 0.2


@dataclass(frozen=True)
class Suspicion:
    """
    How suspicious an agent is: the sum, failures in a row that count, what last raised it.
    """

    value: float = 0.0
    streak: int = 0
    why: str = ""


@dataclass(frozen=True)
class Standing:
    """
    How an agent stands before it is judged, and what its pool bears.

    by: who judged its health. generation: of its row. suspicion_*: from where on it is put on
    probation, in quarantine; None: never.
    """

    health: AgentHealth
    by: str
    generation: int
    suspicion_probation: float | None
    suspicion_quarantine: float | None


@dataclass(frozen=True)
class Verdict:
    """The health that an agent shall have, and why."""

    health: AgentHealth
    why: str


def hear(
    now: Suspicion, usual: Prediction, *, is_success: bool, duration_s: float, is_known: bool
) -> Suspicion:
    """
    Return the suspicion after one more outcome.

    usual: what was expected of an average agent of the pool. is_known: the work has failed before,
    with others or with this agent; then its failure says nothing.
    """
    if not is_success and is_known:
        return now
    told, slow = _outcome(usual, is_success), _slowness(usual, duration_s) if is_success else 0.0
    value = min(CEILING, max(0.0, now.value + max(-MOST, min(MOST, told + slow))))
    streak = 0 if is_success else now.streak + 1
    return Suspicion(value, streak, _why(now, usual, value, streak, duration_s))


def _outcome(usual: Prediction, is_success: bool) -> float:
    good = usual.success
    bad = outlook.share(usual.odds.mean + BROKEN_ODDS, usual.odds.variance)
    return math.log(bad / good) if is_success else math.log((1 - bad) / (1 - good))


def _slowness(usual: Prediction, duration_s: float) -> float:
    """Return what the time of finished work says; failures end early or late for any reason."""
    spread = usual.log_s.variance + usual.noise
    late = math.log(max(0.01, duration_s)) - usual.log_s.mean
    return BROKEN_LOG_S * (late - BROKEN_LOG_S / 2) / spread


def _why(now: Suspicion, usual: Prediction, value: float, streak: int, duration_s: float) -> str:
    if value <= now.value:
        return now.why if value else ""
    if streak:
        noun = "failure" if streak == 1 else "failures in a row"
        return f"{streak} {noun}; of such work {usual.success:.0%} succeeds in this pool"
    return f"took {duration_s:.0f} s; such work usually takes {usual.seconds:.0f} s in this pool"


def forgiven(suspicion_probation: float | None) -> float:
    """Return how suspected who comes out of quarantine is: one failure short of probation."""
    return max(0.0, (suspicion_probation or 0.0) - FORGIVEN)


def verdict(now: Suspicion, standing: Standing, *, judge: str) -> Verdict | None:
    """
    Return what the suspicion calls for, None: nothing.

    judge: who asks; a health that somebody else has judged stands.
    """
    probation, quarantine = standing.suspicion_probation, standing.suspicion_quarantine
    if standing.health is AgentHealth.PROBATION and standing.by == judge:
        if quarantine is not None and now.value >= quarantine:
            return Verdict(AgentHealth.QUARANTINED, f"{now.why} (suspicion {now.value:.1f})")
        if now.value < (TRUSTED if probation is None else min(TRUSTED, probation)):
            return Verdict(AgentHealth.GOOD, "its work is as usual again")
    is_trusted = standing.health in (AgentHealth.GOOD, AgentHealth.UNKNOWN)
    if is_trusted and probation is not None and now.value >= probation:
        return Verdict(AgentHealth.PROBATION, f"{now.why} (suspicion {now.value:.1f})")
    return None
