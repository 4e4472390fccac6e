"""
Makes of what a pool's leases left behind a situation that can be replayed: work, and who did it.

Pure. An agent is taken to be slower or to fail more often than its pool only as far as its own
leases say so: with few of them it is taken to be like the others.
"""

import math
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import NormalDist, median

from scaling.fleet import Figures, Job, Member, Tally
from scaling.policies import Policy

# The chance that one agent of a pool in which all are alike is taken to differ from the others.
LUCK = 0.05
UNKNOWN_WORK_S = 60.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """
    One lease, or a wait for one: times in seconds of the window; MB and cores asked for.

    Below 0 is before the window. key: of the work, the same for all attempts at it. began_s,
    ended_s: None, not yet. peak_mb, used_cores: None, not measured. is_cancelled: it took its room,
    and says nothing else: neither is the work done nor has it failed.
    """

    key: str
    arrival_s: float
    waited_s: float
    began_s: float | None = None
    ended_s: float | None = None
    agent: str = ""
    project: str = ""
    is_success: bool = True
    is_cancelled: bool = False
    memory_mb: float = 0.0
    cores: float = 0.0
    peak_mb: float | None = None
    used_cores: float | None = None

    @property
    def is_running(self) -> bool:
        """Whether it was running when the window began: it takes room, and is not counted."""
        return self.began_s is not None and self.began_s < 0

    @property
    def duration_s(self) -> float:
        """How long it took; 0: it has not ended."""
        if self.began_s is None or self.ended_s is None:
            return 0.0
        return max(0.0, self.ended_s - self.began_s)


@dataclass(frozen=True)
class Situation:
    """
    A pool over a window of `over_s` seconds.

    members: as their own leases say. turns: how often its size turned from up to down or back.
    policy: None, its size is not decided by one. usual_throughput: of the time before, pieces of
    work per agent and hour, None: unknown. weights: of projects, where not 1.
    """

    agent_type: str
    over_s: float
    attempts: Sequence[Attempt]
    members: Sequence[Member]
    jobs: Sequence[Job] = ()
    turns: int = 0
    policy: Policy | None = None
    usual_throughput: float | None = None
    usd_per_agent_hour: float = 0.0
    weights: Mapping[str, float] = field(default_factory=dict)


def made(
    agent_type: str, *, over_s: float, attempts: Sequence[Attempt], seats: Sequence[Member]
) -> Situation:
    """Return a situation; seats: the agents with their sizes and times, nothing learnt of them."""
    members = _learnt(attempts, seats)
    jobs = _jobs(attempts, {each.name: each for each in members}, over_s)
    return Situation(agent_type, over_s, attempts, members, jobs)


def measured(situation: Situation) -> Figures:
    """Return what became of the work, counted from its leases; who still waits counts, too."""
    tally = Tally()
    done: dict[str, float] = {}
    counted = [each for each in situation.attempts if not each.is_running]
    for each in situation.attempts:
        if not each.is_running:
            tally.began(each.project, each.waited_s)
        if each.began_s is None:
            continue
        end_s = situation.over_s if each.ended_s is None else each.ended_s
        cut = min(max(0.0, each.began_s), situation.over_s), min(end_s, situation.over_s)
        tally.held(each.agent, each.memory_mb, *cut)
        if each.ended_s is not None and not each.is_running:
            tally.failed += not each.is_success
            if each.is_success and not each.is_cancelled:
                done[each.key] = each.ended_s
    first: dict[str, float] = {}
    for each in counted:
        first[each.key] = min(each.arrival_s, first.get(each.key, math.inf))
    tally.turnarounds = [end_s - first[key] for key, end_s in done.items()]
    return tally.figures(situation.members, situation.over_s)


def ended_of(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Return the attempts of each agent that began in the window, and succeeded or failed in it."""
    found: dict[str, list[Attempt]] = {}
    for each in attempts:
        if each.ended_s is not None and not (each.is_running or each.is_cancelled):
            found.setdefault(each.agent, []).append(each)
    return found


def turns(moves: Sequence[float]) -> int:
    """Return how often a row of changes of size goes the other way; 0 is no change."""
    ways = [move > 0 for move in moves if move]
    return sum(one != other for one, other in pairwise(ways))


# -- what is learnt of agents ----------------------------------------------------------------------


def _learnt(attempts: Sequence[Attempt], seats: Sequence[Member]) -> list[Member]:
    ended = ended_of(attempts)
    usual_fails, failing = _fails(ended)
    slowness = _slowness(ended, suspects=failing)
    fail_share = _fail_share(ended)
    order = sorted(ended, key=lambda name: -len(ended[name]))
    ranks = {name: rank for rank, name in enumerate(order)}
    return [
        replace(
            seat,
            slowness=slowness.get(seat.name, 1.0),
            fails=failing.get(seat.name, usual_fails),
            fail_share=fail_share,
            leases=len(ended.get(seat.name, [])),
            rank=ranks.get(seat.name, len(ranks)),
        )
        for seat in seats
    ]


def tail(count: int, least: int, share: float) -> float:
    """Return the chance of at least so many of `count`, each with the chance `share`."""
    if least <= 0 or share >= 1:
        return 1.0
    if share <= 0:
        return 0.0
    # By logarithms: of a thousand leases the ways to choose some exceed what a float holds.
    yes, no, ways = math.log(share), math.log1p(-share), math.lgamma(count + 1)
    return math.fsum(
        math.exp(
            ways
            - math.lgamma(hits + 1)
            - math.lgamma(count - hits + 1)
            + hits * yes
            + (count - hits) * no
        )
        for hits in range(least, count + 1)
    )


def _fails(ended: Mapping[str, Sequence[Attempt]]) -> tuple[float, dict[str, float]]:
    """
    Return the share of failures of agents that are alike, and of those that differ from them.

    The one that differs most is taken out until none is left that chance could not explain.
    """
    counts = {
        name: (sum(not one.is_success for one in each), len(each)) for name, each in ended.items()
    }
    found = {}
    while len(counts) > 1:
        failed, total = (sum(each) for each in zip(*counts.values(), strict=True))
        chances = {
            name: _chance(own, count, (failed - own) / (total - count))
            for name, (own, count) in counts.items()
        }
        name = min(chances, key=lambda each: chances[each])
        if chances[name] * len(ended) > LUCK:
            break
        own, count = counts.pop(name)
        found[name] = own / count
    failed, total = (sum(each) for each in zip(*counts.values(), strict=True)) if counts else (0, 0)
    return (failed / total if total else 0.0), found


def _chance(failed: int, count: int, usual: float) -> float:
    """Return how likely an agent like the others is to fail as often, or as seldom, at least."""
    # Others that have never failed may all the same: as if half of one of their leases had.
    often = tail(count, failed, max(usual, 0.02))
    seldom = tail(count, count - failed, 1 - usual)
    return 2 * min(often, seldom)


def _fail_share(ended: Mapping[str, Sequence[Attempt]]) -> float:
    """Return how long failures take, of what the work takes its agent else: all of the pool's."""
    shares = []
    for each in ended.values():
        usual_s = _mean_s([one for one in each if one.is_success])
        shares += [one.duration_s / usual_s for one in each if not one.is_success and usual_s]
    return max(0.01, math.fsum(shares) / len(shares)) if shares else 1.0


def _mean_s(attempts: Sequence[Attempt]) -> float:
    if not attempts:
        return 0.0
    return math.fsum(each.duration_s for each in attempts) / len(attempts)


def _slowness(
    ended: Mapping[str, Sequence[Attempt]], *, suspects: Collection[str]
) -> dict[str, float]:
    """
    Return the seconds over those of the others, of agents where that can hardly be chance.

    suspects: who differs from the others already, by failing.
    """
    logs = {
        name: [math.log(max(0.01, one.duration_s)) for one in each if one.is_success]
        for name, each in ended.items()
    }
    logs = {name: each for name, each in logs.items() if each}
    count = sum(map(len, logs.values()))
    if len(logs) < 2 or count <= len(logs):
        return {}
    # The typical agent, not the mean over leases: a slow one must not make the others look fast.
    means = {name: math.fsum(each) / len(each) for name, each in logs.items()}
    middle = median(means.values())
    squares = math.fsum((one - means[name]) ** 2 for name, each in logs.items() for one in each)
    spread = math.sqrt(squares / (count - len(logs)))
    found = {}
    for name, each in logs.items():
        # Of many agents some seem to differ: the more are looked at, the surer one must be.
        looked_at = 1 if name in suspects else len(logs)
        sure = NormalDist().inv_cdf(1 - LUCK / 2 / looked_at)
        late, doubt = means[name] - middle, spread / math.sqrt(len(each))
        if len(each) > 2 and abs(late) > sure * doubt:
            # Who stands out has on average been helped by chance: James and Stein's share.
            found[name] = math.exp(late * (1 - (doubt / late) ** 2))
    return found


# -- what is learnt of work ------------------------------------------------------------------------


def _jobs(attempts: Sequence[Attempt], members: Mapping[str, Member], over_s: float) -> list[Job]:
    lengths = _Lengths(attempts, members, over_s)
    by_key: dict[str, list[Attempt]] = {}
    for each in attempts:
        if not each.is_running:
            by_key.setdefault(each.key, []).append(each)
    jobs = [_rest(each, lengths) for each in attempts if each.is_running]
    jobs += [_job(each, lengths) for each in by_key.values()]
    # What ran already has its place before anybody else is given one.
    return sorted(jobs, key=lambda job: (job.arrival_s, not job.is_running, -job.waited_s))


class _Lengths:
    """How long work takes a usual agent: known of what has ended, guessed of the rest."""

    def __init__(
        self, attempts: Sequence[Attempt], members: Mapping[str, Member], over_s: float
    ) -> None:
        self._members, self._over_s, self._guessed = members, over_s, 0
        self._known = sorted(
            self.of(each)
            for each in attempts
            if each.is_success and not each.is_cancelled and each.ended_s is not None
        )

    def slowness(self, attempt: Attempt) -> float:
        """Return the slowness of the agent that does it."""
        member = self._members.get(attempt.agent)
        return member.slowness if member else 1.0

    def of(self, attempt: Attempt) -> float:
        """Return how long what has ended took."""
        return attempt.duration_s / self.slowness(attempt)

    def guess(self, attempt: Attempt) -> float:
        """
        Return how long may take what has not ended: as long as one of those which took longer.

        Each of them in its turn, by the golden ratio: with the mean for all, work would be less
        unequal than it is, and waits too short.
        """
        beyond_s = 0.0
        if attempt.began_s is not None and attempt.ended_s is None:
            beyond_s = max(0.0, self._over_s - attempt.began_s) / self.slowness(attempt)
        longer = self._known[bisect_right(self._known, beyond_s) :]
        if not longer:
            known = self._known or [UNKNOWN_WORK_S]
            return beyond_s + math.fsum(known) / len(known)
        self._guessed += 1
        return longer[int(self._guessed * 0.618034 % 1 * len(longer))]


def _rest(running: Attempt, lengths: _Lengths) -> Job:
    """Return what was left, when the window began, of a lease that was running."""
    slowness = lengths.slowness(running)
    if running.ended_s is None:
        left_s = lengths.guess(running) + (running.began_s or 0.0) / slowness
    else:
        left_s = running.ended_s / slowness
    return Job(
        arrival_s=0.0,
        work_s=left_s,
        memory_mb=running.memory_mb,
        cores=running.cores,
        project=running.project,
        peak_mb=running.peak_mb,
        used_cores=running.used_cores,
        is_running=True,
    )


def _job(tries: Sequence[Attempt], lengths: _Lengths) -> Job:
    last = max(tries, key=lambda each: each.arrival_s)
    done = next((each for each in tries if each.is_success and each.duration_s), None)
    peaks = [each.peak_mb for each in tries if each.peak_mb is not None]
    cores = [each.used_cores for each in tries if each.used_cores is not None]
    arrival_s = min(each.arrival_s for each in tries)
    return Job(
        arrival_s=max(0.0, arrival_s),
        work_s=lengths.of(done) if done else lengths.guess(last),
        memory_mb=last.memory_mb,
        cores=last.cores,
        project=last.project,
        peak_mb=max(peaks, default=None),
        used_cores=max(cores, default=None),
        waited_s=max(0.0, -arrival_s),
    )
