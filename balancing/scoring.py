"""
Says which of the agents that fit a request should get it, with every part of the score.

Pure. The cheap strategies are also decided in SQL; a test holds the two together.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from agentpool.registry.states import IsolationLevel, SecurityLevel
from balancing import outlook
from balancing.fit import Rule, holds
from balancing.outlook import Average, Cell, Prediction


@dataclass(frozen=True)
class Candidate:
    """
    An agent that fits, as it stands before the lease; amounts in MB, cores, tokens, MB.

    generality: 0 to 50, see `generality`. last_token: fencing token of its last lease, 0: none
    yet. warmth: 0 to 1, see `warmth`. cell: what was learnt of it for the request's story type,
    None: nothing.
    """

    agent_id: str
    load: int
    max_concurrent: int
    memory_mb: int
    cpu_cores: float | Decimal
    token_budget: int
    disk_space_mb: int
    used_memory_mb: int = 0
    used_cpu_cores: float | Decimal = 0
    used_token_budget: int = 0
    used_disk_space_mb: int = 0
    capabilities: frozenset[str] = frozenset()
    labels: Mapping[str, Any] = field(default_factory=dict)
    generality: int = 0
    last_token: int = 0
    warmth: float = 0.0
    cell: Cell | None = None


@dataclass(frozen=True)
class Work:
    """
    What the request asks for; amounts in MB, cores, tokens, MB.

    tags: each wished for with weight 1. preferences: rules with their weights, above 0.
    expected_duration_s: the orchestrator's own guess; None: it made none.
    """

    memory_mb: int
    cpu_cores: float | Decimal
    token_budget: int
    disk_space_mb: int
    tags: frozenset[str] = frozenset()
    preferences: tuple[tuple[Rule, float], ...] = ()
    expected_duration_s: float | None = None


@dataclass(frozen=True)
class Score:
    """How good a candidate is, higher is better; parts: the unweighted values it was made of."""

    total: float
    parts: Mapping[str, float]


# Seed 2, WorkloadAwareBalancer and PredictiveBalancer; each row sums to 1.
WORKLOAD_WEIGHTS: Mapping[str, float] = {
    "load": 0.3,
    "specialisation": 0.25,
    "resources": 0.2,
    "performance": 0.15,
    "affinity": 0.1,
}
PREDICTIVE_WEIGHTS: Mapping[str, float] = {"success": 0.4, "efficiency": 0.3, "time": 0.3}

# Too small to outweigh one slot of load: a tie-breaker that keeps generalists free for requests
# that only they can serve.
GENERALITY_COST = 0.001
MAX_GENERALITY = 50
# Two random candidates already spread load far better than one; a third is nearly free.
BEST_OF = 3
# From this warmth on the affinity tier takes the warmest agent, before any strategy is asked.
STICKY_FROM = 0.25
# Seconds in which warmth halves by default: as long as providers keep a prompt cache.
WARM_HALF_LIFE_S = 300
# Warmth right after a lease of the same project, and what equal paths add; a cycle's own is 1.
SAME_PROJECT = 0.5
SAME_PATHS = 0.4
_AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")


# -- strategies ------------------------------------------------------------------------------------


def rank(
    strategy: str, candidates: Iterable[Candidate], work: Work, average: Average | None = None
) -> list[tuple[Candidate, Score]]:
    """
    Return the candidates with their scores, best first, ties by agent_id.

    Args:
        strategy: a key of STRATEGIES.
        average: what is usual in the pool for the request's story type; None: nothing is known.
    Raises: KeyError, there is no such strategy.
    """
    score = STRATEGIES[strategy]
    if average is None:
        average = outlook.nothing_known(work.expected_duration_s)
    scored = [(one, score(one, work, average)) for one in candidates]
    return sorted(scored, key=lambda pair: (-pair[1].total, pair[0].agent_id))


def round_robin(candidate: Candidate, work: Work, average: Average) -> Score:
    """Return a score that prefers whoever was granted something longest ago."""
    return Score(-candidate.last_token, {"last_token": candidate.last_token})


def least_loaded(candidate: Candidate, work: Work, average: Average) -> Score:
    """Return a score that prefers the fewest taken slots; `best_of_k` asks few at random."""
    return _kept_free(candidate, -candidate.load, {"load": candidate.load})


def bin_pack(candidate: Candidate, work: Work, average: Average) -> Score:
    """Return a score that prefers the fullest agent, so that others empty and can be stopped."""
    packing = _mean(taken for taken, _ in _shares(candidate, work))
    return _kept_free(candidate, packing, {"packing": packing})


def workload_aware(candidate: Candidate, work: Work, average: Average) -> Score:
    """Return the seed's weighted score of load, skills, room, record and warmth."""
    parts = {
        "load": 1 - candidate.load / candidate.max_concurrent,
        "specialisation": specialisation(candidate, work),
        "resources": _mean(min(1.0, max(0.0, left)) for _, left in _shares(candidate, work)),
        "performance": expected(candidate, work, average).success,
        "affinity": candidate.warmth,
    }
    return _kept_free(candidate, _weighted(parts, WORKLOAD_WEIGHTS), parts)


def predictive(candidate: Candidate, work: Work, average: Average) -> Score:
    """Return the seed's weighted score of what is to be expected of the agent."""
    found = expected(candidate, work, average)
    parts = {
        "success": found.success,
        "efficiency": found.efficiency,
        "time": 1 / (1 + found.seconds / 3600),
    }
    total = _weighted(parts, PREDICTIVE_WEIGHTS)
    return _kept_free(candidate, total, {**parts, **_told(found)})


def learnt(candidate: Candidate, work: Work, average: Average) -> Score:
    """Return a score that prefers the least seconds until success, retries included."""
    found = expected(candidate, work, average)
    hoped_s = outlook.hoped_s(found, retry_s=average.retry_s)
    parts = {"hoped_s": hoped_s, "success": found.success, **_told(found)}
    return _kept_free(candidate, -hoped_s, parts)


Strategy = Callable[[Candidate, Work, Average], Score]
STRATEGIES: Mapping[str, Strategy] = {
    "round_robin": round_robin,
    "least_loaded": least_loaded,
    "best_of_k": least_loaded,
    "bin_pack": bin_pack,
    "workload_aware": workload_aware,
    "predictive": predictive,
    "learnt": learnt,
}


# -- what scores are made of -----------------------------------------------------------------------


def specialisation(candidate: Candidate, work: Work) -> float:
    """Return the weighted share, 0-1, of tags and preferences it satisfies; 0.5: none are given."""
    wishes = [
        *((tag in candidate.capabilities, 1.0) for tag in work.tags),
        *(
            (holds(rule, candidate.capabilities, candidate.labels), weight)
            for rule, weight in work.preferences
        ),
    ]
    if not wishes:
        return 0.5
    return sum(weight for is_met, weight in wishes if is_met) / sum(weight for _, weight in wishes)


def expected(candidate: Candidate, work: Work, average: Average) -> Prediction:
    """Return what is expected of an agent with this work."""
    return outlook.expect(average, candidate.cell, match=match(candidate.capabilities, work.tags))


def match(capabilities: Collection[str], tags: Collection[str]) -> float:
    """Return which share of the tags the capabilities have, less a half; 0 without tags."""
    return sum(tag in capabilities for tag in tags) / len(tags) - 0.5 if tags else 0.0


def generality(
    *,
    tools: Collection[str],
    capabilities: Collection[str],
    security_level: SecurityLevel,
    isolation_levels: Collection[IsolationLevel],
) -> int:
    """Return how much an agent can do that others cannot, 0 to 50."""
    strongest = max(isolation_levels, default=0)
    return min(MAX_GENERALITY, len(tools) + len(capabilities) + security_level + strongest)


def warmth(*, same_cycle: bool, path_overlap: float, age_s: float, half_life_s: float) -> float:
    """
    Return how much of a project's context an agent still has at hand, 0 to 1.

    Args:
        same_cycle: its last lease for the project was of this very cycle.
        path_overlap: share of paths that both touch, 0-1; counts when the cycle is another one.
        age_s: since the end of that lease; >= 0.
        half_life_s: how fast the provider forgets its prompt cache; > 0.
    """
    fresh = 1.0 if same_cycle else SAME_PROJECT + SAME_PATHS * path_overlap
    return float(fresh * 2 ** (-age_s / half_life_s))


def _kept_free(candidate: Candidate, total: float, parts: Mapping[str, float]) -> Score:
    cost = GENERALITY_COST * candidate.generality
    return Score(total - cost, {**parts, "generality": candidate.generality})


def _weighted(parts: Mapping[str, float], weights: Mapping[str, float]) -> float:
    return sum(weight * parts[name] for name, weight in weights.items())


def _shares(candidate: Candidate, work: Work) -> Iterator[tuple[float, float]]:
    """Yield per amount what would be taken and left, as shares; both 0 where there is nothing."""
    for name in _AMOUNTS:
        capacity = float(getattr(candidate, name))
        taken = float(getattr(candidate, f"used_{name}")) + float(getattr(work, name))
        yield (taken / capacity, (capacity - taken) / capacity) if capacity else (0.0, 0.0)


def _told(found: Prediction) -> dict[str, float]:
    """Return what a prediction is shown with: its bounds for 8 of 10, how many leases, and when."""
    (success_low, success_high), (low_s, high_s) = found.success_interval, found.seconds_interval
    return {
        "success_low": success_low,
        "success_high": success_high,
        "seconds": found.seconds,
        "seconds_low": low_s,
        "seconds_high": high_s,
        "tokens": found.tokens,
        "leases": found.leases,
        "learnt_at": found.at,
    }


def _mean(values: Iterable[float]) -> float:
    return sum(values) / len(_AMOUNTS)
