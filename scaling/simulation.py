"""
Replays a trace through a policy: one pool, one job an agent, first come, first served.

Pure. Jobs wait for a free agent; an agent is paid from its launch to its end and serves after its
start-up; running jobs are never stopped. The decisions are those of `scaling.decisions`, fed with
`scaling.demand` as the live loop feeds them.

At one moment things happen in this order: work ends, agents come up, work arrives, waiting work
begins, then the decision; whoever that wakes begins at once. Fewer agents: those still starting go
first, the youngest of them, then those on standby beyond what is wanted, then idle ones. Whoever is
on standby is paid and not ready.
"""

import heapq
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from scaling import decisions
from scaling.decisions import Decision, PoolState
from scaling.demand import Demand
from scaling.history import History
from scaling.policies import Policy, Rule
from scaling.sizing import Floats
from scaling.standby import AUTO, Moves
from scaling.traces import DAY_S, Trace

# Rules that look at what is learnt; the others are spared it.
LEARNING = (Rule.CLASSIC, Rule.PREDICTIVE)
RATE_OVER_S, WAITS_OVER_S, PEAK_AHEAD_S = 600.0, 300.0, 1800.0
PROGRESS_EVERY = 2048
# Work that nobody has been made for in a week of any calendar is given up.
GIVEN_UP_S = 8 * DAY_S


@dataclass(frozen=True)
class Change:
    """A moment from which on the pool stood like this; sizes in agents, `waiting` in jobs."""

    t_s: float
    paid: int
    ready: int
    busy: int
    waiting: int
    target: int


@dataclass(frozen=True)
class Replay:
    """
    What became of a trace.

    waits_s: of all jobs in the order of their arrival; whoever never began has waited until the
    end, when nothing had happened for GIVEN_UP_S. paid_s, busy_s: agent-seconds from the
    warm-up's end to the end of the last job. Launches, actions, and of the agents that were missing
    those woken (hits) and launched (misses), are counted from there, too.
    """

    policy: Policy
    trace: str
    warmup_s: float
    end_s: float
    waits_s: Floats
    scored: int
    paid_s: float
    busy_s: float
    launches: int
    actions: int
    hits: int
    misses: int
    decisions: int
    timeline: Sequence[Change]
    demand: Demand


def demand_for(policy: Policy) -> Demand:
    """Return a demand of which nothing is known yet, with the policy's lead and aim."""
    before_s = policy.reaction_s if policy.on_events else policy.tick_s
    patience_s = policy.startup_s + before_s
    return Demand(lead_s=patience_s - policy.slo_s, patience_s=patience_s, late=policy.late)


def replay(
    trace: Trace,
    *,
    policy: Policy,
    warmup_s: float,
    is_recorded: bool = False,
    progress: Callable[[float], None] | None = None,
    heard: Callable[[Decision], None] | None = None,
) -> Replay:
    """
    Replay a trace; progress gets shares from 0 to 1, heard every decision.

    warmup_s: what happens before is not scored. is_recorded: keep the timeline.
    """
    run = _Run(trace, policy, warmup_s, is_recorded, heard)
    steps = 0
    while run.step():
        steps += 1
        if progress is not None and steps % PROGRESS_EVERY == 0:
            progress(run.begun / len(trace.jobs))
    return run.result()


class _Run:
    """The state of one replay; agents are alike, so that counts are enough."""

    def __init__(
        self,
        trace: Trace,
        policy: Policy,
        warmup_s: float,
        is_recorded: bool,
        heard: Callable[[Decision], None] | None,
    ) -> None:
        self.trace, self.policy, self.warmup_s = trace, policy, warmup_s
        self.arrivals = [job.arrival_s for job in trace.jobs]
        self.durations = [job.duration_s for job in trace.jobs]
        self.demand, self.history = demand_for(policy), History()
        self.heard, self.is_recorded = heard, is_recorded
        self.is_learning = policy.rule in LEARNING or policy.standby == AUTO
        self.is_classic = policy.rule == Rule.CLASSIC
        self.has_budget = bool(policy.budget_agent_hours_per_day or policy.budget_usd_per_day)
        self.now, self.moved_at = 0.0, 0.0
        self.next, self.begun = 0, 0
        self.ends: list[tuple[float, float]] = []
        self.starts: deque[float] = deque()
        self.waiting: deque[int] = deque()
        self.waits = [0.0] * len(trace.jobs)
        self.ready, self.busy, self.standby, self.target = 0, 0, 0, 0
        self.due, self.tick = math.inf, 0.0
        self.paid_s, self.busy_s = 0.0, 0.0
        self.launches, self.actions, self.decided = 0, 0, 0
        self.hits, self.misses = 0, 0
        self.timeline: list[Change] = []
        self.lately: deque[float] = deque()
        self.served: deque[tuple[float, float]] = deque()
        self.served_s = 0.0
        self.judged_to = 0

    # -- the clock ---------------------------------------------------------------------------------

    def step(self) -> bool:
        """Go to the next moment at which anything happens; False: all is done, or never will be."""
        is_over = not self.waiting or self.now - self.moved_at > GIVEN_UP_S
        if is_over and self.next >= len(self.arrivals) and not self.ends:
            return False
        now = min(
            self.arrivals[self.next] if self.next < len(self.arrivals) else math.inf,
            self.ends[0][0] if self.ends else math.inf,
            self.starts[0] if self.starts else math.inf,
            self.due,
            self.tick,
        )
        self._pay(now)
        self.now = now
        happened = self._end_work() | self._come_up() | self._arrive()
        self._begin_work()
        if happened:
            self.moved_at = now
        if happened and self.policy.on_events:
            self.due = min(self.due, now + self.policy.reaction_s)
        if now >= self.tick or now >= self.due:
            self._decide()
        if self.is_recorded:
            self._record()
        return True

    def _pay(self, until: float) -> None:
        begin = max(self.now, self.warmup_s)
        if until > begin:
            self.paid_s += self._paid() * (until - begin)
            self.busy_s += self.busy * (until - begin)

    def _paid(self) -> int:
        return self.ready + len(self.starts) + self.standby

    def _end_work(self) -> bool:
        ended = False
        while self.ends and self.ends[0][0] <= self.now:
            at, began = heapq.heappop(self.ends)
            self.busy -= 1
            ended = True
            if self.is_learning:
                self.demand.ended(at, began_at=began)
        return ended

    def _come_up(self) -> bool:
        came = False
        while self.starts and self.starts[0] <= self.now:
            self.starts.popleft()
            self.ready += 1
            came = True
        return came

    def _arrive(self) -> bool:
        first = self.next
        while self.next < len(self.arrivals) and self.arrivals[self.next] <= self.now:
            self.waiting.append(self.next)
            self.next += 1
            if self.is_learning:
                self.demand.arrived(self.now)
            if self.is_classic:
                self.lately.append(self.now)
        return self.next > first

    def _begin_work(self) -> None:
        while self.waiting and self.busy < self.ready:
            job = self.waiting.popleft()
            wait_s = self.now - self.arrivals[job]
            self.waits[job] = wait_s
            self.busy += 1
            self.begun += 1
            heapq.heappush(self.ends, (self.now + self.durations[job], self.now))
            if self.is_learning:
                self.demand.began(self.now)
                is_late = wait_s > self.policy.slo_s
                self.demand.judged(at=self.now, arrived_at=self.arrivals[job], is_late=is_late)
            if self.is_classic:
                self.served.append((self.now, wait_s))
                self.served_s += wait_s

    # -- decisions ---------------------------------------------------------------------------------

    def _decide(self) -> None:
        now = self.now
        self.due, self.tick = math.inf, now + self.policy.tick_s
        if self.has_budget:
            self.history.paid(at=now, size=self._paid())
        made = decisions.decide(
            policy=self.policy,
            pool=self._state(),
            demand=self.demand,
            history=self.history,
            now=now,
        )
        self.history.decided(
            at=now,
            wanted=made.wanted,
            current=made.current,
            target=made.target,
            keep_s=self.policy.stabilise_s,
        )
        self.decided += 1
        self.target = made.target
        if self.heard is not None:
            self.heard(made)
        if made.is_carried_out and made.action != "no_action":
            self._carry_out(made.moves, made.plan.standby)

    def _carry_out(self, moves: Moves, standby: int) -> None:
        is_scored = self.now >= self.warmup_s
        self.standby += moves.set_aside - moves.wake
        self.ready += moves.wake - moves.set_aside
        self.starts.extend([self.now + self.policy.startup_s] * moves.launch)
        young = min(moves.let_go, len(self.starts))
        for _ in range(young):
            self.starts.pop()
        spare = min(moves.let_go - young, max(0, self.standby - standby))
        self.standby -= spare
        idle = min(moves.let_go - young - spare, self.ready - self.busy)
        self.ready -= idle
        if is_scored:
            self.launches += moves.launch
            self.hits += moves.wake
            self.misses += moves.cold
            self.actions += any((moves.wake, moves.set_aside, moves.launch, young, spare, idle))
        if moves.wake:
            self._begin_work()

    def _state(self) -> PoolState:
        now = self.now
        if not self.is_classic:
            return PoolState(
                ready=self.ready,
                busy=self.busy,
                starting=len(self.starts),
                waiting=len(self.waiting),
                rate=self.demand.rate(now) if self.policy.standby == AUTO else None,
                standby=self.standby,
            )
        while self.lately and self.lately[0] <= now - RATE_OVER_S:
            self.lately.popleft()
        while self.served and self.served[0][0] < now - WAITS_OVER_S:
            self.served_s -= self.served.popleft()[1]
        waited = self.served_s + sum(now - self.arrivals[job] for job in self.waiting)
        seen = len(self.served) + len(self.waiting)
        return PoolState(
            ready=self.ready,
            busy=self.busy,
            starting=len(self.starts),
            waiting=len(self.waiting),
            rate=len(self.lately) / RATE_OVER_S,
            service_s=self.demand.durations.mean_s,
            average_wait_s=waited / seen if seen else 0.0,
            peak_demand_ratio=self.demand.peak_ratio(now, ahead_s=PEAK_AHEAD_S),
            standby=self.standby,
        )

    # -- results -----------------------------------------------------------------------------------

    def _record(self) -> None:
        change = Change(
            self.now,
            self._paid(),
            self.ready,
            self.busy,
            len(self.waiting),
            self.target,
        )
        if not self.timeline or _differs(self.timeline[-1], change):
            self.timeline.append(change)

    def result(self) -> Replay:
        """Return what became of the trace."""
        for job in self.waiting:
            self.waits[job] = self.now - self.arrivals[job]
        scored = sum(1 for at in self.arrivals if at >= self.warmup_s)
        return Replay(
            policy=self.policy,
            trace=self.trace.name,
            warmup_s=self.warmup_s,
            end_s=self.now,
            waits_s=np.array(self.waits),
            scored=scored,
            paid_s=self.paid_s,
            busy_s=self.busy_s,
            launches=self.launches,
            actions=self.actions,
            hits=self.hits,
            misses=self.misses,
            decisions=self.decided,
            timeline=self.timeline,
            demand=self.demand,
        )


def _differs(before: Change, after: Change) -> bool:
    return (before.paid, before.ready, before.busy, before.waiting, before.target) != (
        after.paid,
        after.ready,
        after.busy,
        after.waiting,
        after.target,
    )


def days(seconds: float) -> float:
    """Return seconds as days."""
    return seconds / DAY_S
