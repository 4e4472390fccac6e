"""
Learns from ended leases: reads them in the order of their events, writes down what is expected now.

One transaction reads a batch, moves the mark, and writes models, predictions and calibration: a
process that dies between has learnt nothing of it, and another one learns it again.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction

from agentpool.registry import events
from agentpool.registry.errors import StaleVersion
from agentpool.registry.models import Agent, AgentLearning, LearningState, Pool, PoolLearning
from agentpool.registry.states import AgentHealth
from balancing import keeping, memory, outlook, trust
from balancing.calibration import Tally
from balancing.memory import Told
from balancing.outlook import Model
from balancing.services import agents
from balancing.trust import Suspicion

# Lessons of one transaction, and seconds after which a job leaves the rest to the next.
BATCH = 500
LONGEST_S = 10.0
ACTOR = "learning"
# So many of the newest lessons are predicted, too, when all is learnt anew.
CALIBRATED_ANEW = 100_000


@dataclass(slots=True)
class Course:
    """One pool's model while it learns a batch: what is read first and written afterwards."""

    agent_type: str
    agents: int
    model: Model
    suspicions: dict[str, Suspicion] = field(default_factory=dict)
    tallies: dict[Any, Tally] = field(default_factory=lambda: defaultdict(Tally))
    failed: set[tuple[str, str]] = field(default_factory=set)
    touched: set[str] = field(default_factory=set)


def learn() -> int:
    """Learn from what has ended since the last time; return from how many leases."""
    until, total = time.monotonic() + LONGEST_S, 0
    while time.monotonic() < until:
        heard, learnt, courses = _learn_batch()
        total += learnt
        for course in courses:
            _judge(course)
        if heard < BATCH:
            break
    return total


def _learn_batch() -> tuple[int, int, list[Course]]:
    with transaction.atomic():
        LearningState.objects.get_or_create(id=1)
        state = LearningState.objects.select_for_update(skip_locked=True, no_key=True).first()
        if state is None:
            return 0, 0, []  # somebody else is at it
        heard, newest = memory.newest_event(state.last_seq, batch=BATCH)
        if not heard:
            return 0, 0, []
        told = memory.lessons(state.last_seq, newest)
        courses = [_take(name, several) for name, several in _by_pool(told).items()]
        for course in courses:
            write(course)
        LearningState.objects.filter(id=1).update(last_seq=newest)
        memory.refresh_service_times()
    return heard, len(told), courses


def _by_pool(told: Iterable[Told]) -> dict[str, list[Told]]:
    found: dict[str, list[Told]] = {}
    for each in told:
        found.setdefault(each.agent_type, []).append(each)
    return found


def _take(agent_type: str, told: Sequence[Told]) -> Course:
    course = opened(agent_type, {each.agent_id for each in told})
    for each in told:
        teach(course, each)
    return course


def opened(agent_type: str, concerned: Iterable[UUID]) -> Course:
    """Return a pool's model with the agents concerned; locks their rows."""
    row = PoolLearning.objects.select_for_update(no_key=True).filter(pool_id=agent_type).first()
    model = keeping.model_of(row.model) if row else Model()
    course = Course(agent_type, memory.agents_at_work(agent_type), model)
    for known in AgentLearning.objects.filter(agent_id__in=list(concerned)):
        name = str(known.agent_id)
        model.skills[name] = keeping.skill_of(known.skill)
        course.suspicions[name] = Suspicion(known.suspicion, known.streak, known.why)
    return course


def teach(course: Course, told: Told, *, judges: bool = True, is_old: bool = False) -> None:
    """
    Predict a lesson, compare, learn it.

    judges: let it raise or lower suspicion, too. is_old: only learn it; so is a day at once, which
    nobody was asked about before.
    """
    model, lesson = course.model, told.lesson
    course.touched.add(lesson.agent)
    if is_old or lesson.leases > 1:
        outlook.learn(model, lesson, agents=course.agents)
        return
    average = outlook.average(model, lesson.kind)
    naive, usual = (outlook.expect(average, None, match=each) for each in (0.0, lesson.match))
    skill = model.skills.get(lesson.agent)
    said = outlook.predict(model, skill, lesson.kind, match=lesson.match)
    outlook.learn(model, lesson, agents=course.agents)
    course.tallies[datetime.fromtimestamp(lesson.at, UTC).date()].add(
        said, naive, is_success=told.is_success, log_s=lesson.log_s
    )
    if not judges:
        return
    work = (lesson.agent, told.story)
    course.suspicions[lesson.agent] = trust.hear(
        course.suspicions.get(lesson.agent, Suspicion()),
        usual,
        is_success=told.is_success,
        duration_s=told.duration_s,
        is_known=told.elsewhere or work in course.failed,
    )
    if not told.is_success:
        course.failed.add(work)


def write(course: Course) -> None:
    """Write down what a pool knows now: its model, the agents it learnt from, what to expect."""
    memory.write_model(course.agent_type, course.model)
    memory.write_skills(course.agent_type, course.model, course.touched, course.suspicions)
    memory.write_outlooks(course.agent_type, course.model, course.touched)
    memory.write_tallies(course.agent_type, course.tallies)


# -- judging -------------------------------------------------------------------------------------


def _judge(course: Course) -> None:
    """Put agents on probation, in quarantine, or back, each with its reason as an event."""
    pool = Pool.objects.get(agent_type=course.agent_type)
    for agent in Agent.objects.filter(id__in=course.touched):
        now = course.suspicions.get(str(agent.id), Suspicion())
        found = trust.verdict(
            now,
            health=AgentHealth(agent.health),
            is_ours=agent.health_by == ACTOR,
            suspicion_probation=pool.suspicion_probation,
            suspicion_quarantine=pool.suspicion_quarantine,
        )
        if found is not None:
            _apply(agent, found, pool)


def _apply(agent: Agent, found: trust.Verdict, pool: Pool) -> None:
    is_out = found.health is AgentHealth.QUARANTINED
    until = timedelta(seconds=pool.quarantine_s) if is_out else None
    try:
        agents.set_health(
            agent,
            health=found.health,
            note=found.why,
            until=memory.now() + until if until else None,
            actor=ACTOR,
            if_generation=agent.generation,
        )
    except StaleVersion:
        return  # a person was faster; the next outcome asks again
    if is_out:
        # Whoever comes back is on probation at its first failure, not at its first success.
        AgentLearning.objects.filter(agent_id=agent.id).update(
            suspicion=max(trust.TRUSTED, (pool.suspicion_probation or 0) - trust.FORGIVEN)
        )


# -- anew ----------------------------------------------------------------------------------------


def relearn() -> Iterator[int]:
    """
    Forget all and learn anew, from the days' sums, then from the outcomes in their order of time.

    Yields the number of leases after each piece. One transaction: until its end everybody reads
    what was known before. Locks the learning of others out. Calibration starts anew, too.
    """
    with transaction.atomic():
        memory.alone()
        mark, suspicions = memory.last_event(), memory.suspicions()
        memory.forget()
        courses: dict[str, Course] = {}
        left = memory.count()
        for piece in memory.everything(mark):
            for told in piece:
                course = courses.get(told.agent_type)
                if course is None:
                    course = courses[told.agent_type] = opened(told.agent_type, ())
                    course.suspicions.update(suspicions)
                left -= told.lesson.leases
                teach(course, told, judges=False, is_old=left > CALIBRATED_ANEW)
            yield sum(told.lesson.leases for told in piece)
        for course in courses.values():
            write(course)
        memory.refresh_service_times()
        LearningState.objects.update_or_create(id=1, defaults={"last_seq": mark})
        events.append("learning.relearnt", actor=ACTOR, pools=sorted(courses))


def fold() -> int:
    """Take outcomes older than their kept time into the days' sums; return how many."""
    return memory.fold_outcomes(days=settings.KEEP_OUTCOMES_DAYS)
