"""
Replays recorded work on a fleet whose agents differ: in size, in speed, in how often they fail.

Pure, and plain Python: no arrays, so that it costs no process memory. `scaling.simulation` is for
sizes and policies, where agents are alike; this is for what an agent, a grant or a weight changes.

At one moment work ends first, then work arrives, then what waits begins. Projects are served by
what they have used per weight, within a project first come, first served; failed work is tried
again before the rest of its project.
"""

import heapq
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

MOST_ATTEMPTS = 5
SHARE_HALF_LIFE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Job:
    """
    One piece of work: seconds it takes a usual agent, MB and cores that it asks for.

    peak_mb, used_cores: what it was seen to use, None: not measured. waited_s: for how long it had
    waited when it arrives. is_running: it began before: it takes room, and nothing of it counts.
    """

    arrival_s: float
    work_s: float
    memory_mb: float = 0.0
    cores: float = 0.0
    project: str = ""
    peak_mb: float | None = None
    used_cores: float | None = None
    waited_s: float = 0.0
    is_running: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """
    An agent as it was seen: there from `from_s` until `until_s` of the window.

    slowness: its seconds over those of a usual agent. fails: share of its work that fails, each
    after `fail_share` of the time that the work takes. leases: on how many this rests; rank: who is
    taken first where work is not spread, the lowest.
    """

    name: str
    slots: int = 1
    memory_mb: float = math.inf
    cores: float = math.inf
    slowness: float = 1.0
    fails: float = 0.0
    fail_share: float = 1.0
    from_s: float = 0.0
    until_s: float = math.inf
    leases: int = 0
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Figures:
    """
    What became of the work; waits are of attempts, turnaround from arrival to success, seconds.

    busy_share: of slot-seconds within the window; reserved_mb: mean MB that leases held. top_ratio:
    busy share of the busiest agent over the mean. unserved: work that no agent could ever take, or
    that failed each time.
    """

    attempts: int = 0
    mean_wait_s: float = 0.0
    p95_wait_s: float = 0.0
    turnaround_s: float = 0.0
    failed_percent: float = 0.0
    busy_share: float = 0.0
    reserved_mb: float = 0.0
    top_ratio: float = 0.0
    throughput_per_agent_h: float = 0.0
    agent_hours: float = 0.0
    unserved: int = 0
    project_wait_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Tally:
    """What is counted while work is done, by whomever; `figures` makes sense of it."""

    waits: dict[str, list[float]] = field(default_factory=dict)
    turnarounds: list[float] = field(default_factory=list)
    failed: int = 0
    unserved: int = 0
    busy_s: dict[str, float] = field(default_factory=dict)
    reserved_mb_s: float = 0.0

    def began(self, project: str, waited_s: float) -> None:
        """Count a begin."""
        self.waits.setdefault(project, []).append(waited_s)

    def held(self, name: str, memory_mb: float, begin_s: float, end_s: float) -> None:
        """Count what a lease held within the window; both times cut to it."""
        seconds = max(0.0, end_s - begin_s)
        self.busy_s[name] = self.busy_s.get(name, 0.0) + seconds
        self.reserved_mb_s += seconds * memory_mb

    def figures(self, members: Sequence[Member], over_s: float) -> Figures:
        """Return the figures of a window of `over_s` seconds, which the members were there for."""
        waits = sorted(wait for each in self.waits.values() for wait in each)
        there = {each.name: _there_s(each, over_s) for each in members}
        slot_s = sum(each.slots * there[each.name] for each in members)
        paid_s = sum(there.values())
        shares = [
            self.busy_s.get(each.name, 0.0) / (each.slots * there[each.name])
            for each in members
            if there[each.name] > 0
        ]
        mean_share = _mean(shares)
        return Figures(
            attempts=len(waits),
            mean_wait_s=_mean(waits),
            p95_wait_s=waits[int(0.95 * (len(waits) - 1))] if waits else 0.0,
            turnaround_s=_mean(self.turnarounds),
            failed_percent=100 * self.failed / len(waits) if waits else 0.0,
            busy_share=sum(self.busy_s.values()) / slot_s if slot_s else 0.0,
            reserved_mb=self.reserved_mb_s / over_s if over_s else 0.0,
            top_ratio=max(shares) / mean_share if mean_share else 0.0,
            throughput_per_agent_h=3600 * len(self.turnarounds) / paid_s if paid_s else 0.0,
            agent_hours=paid_s / 3600,
            unserved=self.unserved,
            project_wait_s={name: _mean(each) for name, each in self.waits.items()},
        )


def replay(
    jobs: Sequence[Job],
    members: Sequence[Member],
    *,
    over_s: float,
    weights: Mapping[str, float] | None = None,
    is_spread: bool = True,
) -> Figures:
    """
    Return what becomes of jobs, in the order of arrival, on these agents.

    weights: of projects, 1 where not named. is_spread: the least loaded agent is taken first, else
    the one with the lowest rank.
    """
    run = _Run(jobs, members, over_s, weights or {}, is_spread)
    while run.step():
        pass
    return run.tally.figures(members, over_s)


def _there_s(member: Member, over_s: float) -> float:
    return max(0.0, min(member.until_s, over_s) - max(member.from_s, 0.0))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else 0.0


@dataclass(slots=True)
class _Room:
    """What is free on an agent."""

    slots: int
    memory_mb: float
    cores: float


class _Run:
    """The state of one replay."""

    def __init__(
        self,
        jobs: Sequence[Job],
        members: Sequence[Member],
        over_s: float,
        weights: Mapping[str, float],
        is_spread: bool,
    ) -> None:
        self.jobs, self.members, self.over_s = jobs, members, over_s
        self.weights, self.is_spread = weights, is_spread
        self.rooms = [_Room(each.slots, each.memory_mb, each.cores) for each in members]
        self.free = sum(each.slots for each in members)
        self.waiting: dict[str, deque[tuple[int, float, int]]] = {}
        self.used: dict[str, float] = {}
        self.ends: list[tuple[float, int, int, int, bool]] = []
        # When agents come: nothing else happens then, but work may begin.
        self.comes = sorted(each.from_s for each in members if each.from_s > 0)
        self.next, self.now, self.turn = 0, 0.0, 0
        self.last = [0] * len(members)
        # Failures that an agent owes: it fails whenever that comes to a whole one. Agents that are
        # alike begin apart (golden ratio), or all would fail at the same time.
        self.due = [(0.5 + place * 0.618034) % 1 for place in range(len(members))]
        self.tally = Tally()

    def step(self) -> bool:
        """Go to the next moment at which anything happens; False: nothing more will."""
        moments = [self.ends[0][0]] if self.ends else []
        moments += [self.jobs[self.next].arrival_s] if self.next < len(self.jobs) else []
        moments += self.comes[:1]
        if not moments:
            self.tally.unserved += sum(map(len, self.waiting.values()))
            return False
        self.now = min(moments)
        while self.comes and self.comes[0] <= self.now:
            self.comes.pop(0)
        while self.ends and self.ends[0][0] <= self.now:
            self._end(*heapq.heappop(self.ends)[1:])
        while self.next < len(self.jobs) and self.jobs[self.next].arrival_s <= self.now:
            job = self.jobs[self.next]
            self.waiting.setdefault(job.project, deque()).append((self.next, self.now, 1))
            self.next += 1
        self._begin()
        return True

    def _end(self, number: int, place: int, attempt: int, is_failed: bool) -> None:
        job, room = self.jobs[number], self.rooms[place]
        room.slots += 1
        self.free += 1
        room.memory_mb += job.memory_mb
        room.cores += job.cores
        is_counted = not job.is_running and self.now <= self.over_s
        self.tally.failed += is_failed and is_counted
        if not is_failed:
            if is_counted:
                self.tally.turnarounds.append(self.now - job.arrival_s + job.waited_s)
        elif attempt < MOST_ATTEMPTS:
            queue = self.waiting.setdefault(job.project, deque())
            queue.appendleft((number, self.now, attempt + 1))
        else:
            self.tally.unserved += 1

    def _begin(self) -> None:
        """Begin what can; a project whose first does not fit anywhere is passed by the others."""
        passed: set[str] = set()
        while True:
            names = [name for name, queue in self.waiting.items() if queue and name not in passed]
            if not names:
                return
            name = min(names, key=lambda each: self.used.get(each, 0.0))
            number, since, attempt = self.waiting[name][0]
            place = self._place(self.jobs[number])
            if place is None:
                passed.add(name)
                continue
            self.waiting[name].popleft()
            self._work(number, place, since, attempt)

    def _place(self, job: Job) -> int | None:
        if not self.free:
            return None
        best, found = (math.inf, 0), None
        for place, (room, member) in enumerate(zip(self.rooms, self.members, strict=True)):
            if room.slots < 1 or room.memory_mb < job.memory_mb or room.cores < job.cores:
                continue
            if not member.from_s <= self.now < member.until_s:
                continue
            load = (member.slots - room.slots) / member.slots
            # Of equals, whose turn it is: who began longest ago.
            score = (load if self.is_spread else float(member.rank), self.last[place])
            if score < best:
                best, found = score, place
        return found

    def _work(self, number: int, place: int, since: float, attempt: int) -> None:
        job, member, room = self.jobs[number], self.members[place], self.rooms[place]
        # No dice: two replays differ by the change alone, and not by luck.
        self.due[place] += member.fails
        is_failed = self.due[place] >= 1
        self.due[place] -= is_failed
        lasts_s = job.work_s * member.slowness * (member.fail_share if is_failed else 1.0)
        self.turn += 1
        self.last[place] = self.turn
        room.slots -= 1
        self.free -= 1
        room.memory_mb -= job.memory_mb
        room.cores -= job.cores
        weight = self.weights.get(job.project, 1.0)
        inflated = lasts_s / weight * 2 ** min(900.0, self.now / SHARE_HALF_LIFE_S)
        self.used[job.project] = self.used.get(job.project, 0.0) + inflated
        heapq.heappush(self.ends, (self.now + lasts_s, number, place, attempt, is_failed))
        if not job.is_running and since <= self.over_s:
            # As it is measured: who still waits at the end has waited until then.
            waited_s = job.waited_s if attempt == 1 else 0.0
            self.tally.began(job.project, min(self.now, self.over_s) - since + waited_s)
        within = min(self.now, self.over_s), min(self.now + lasts_s, self.over_s)
        self.tally.held(member.name, job.memory_mb, *within)
