"""
Learns from ended leases: reads them in the order of their events, writes down what is expected now.

One transaction reads a batch, moves the mark, and writes models, predictions and calibration: a
process that dies between has learnt nothing of it, and another one learns it again.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

from django.conf import settings
from django.db import transaction

from agentpool.registry import events
from agentpool.registry.errors import StaleVersion
from agentpool.registry.models import Agent, AgentLearning, Pool
from agentpool.registry.states import AgentHealth
from balancing import estimate, kalman, memory, outlook, remember, trust
from balancing.calibration import Tally
from balancing.memory import Course, Told
from balancing.services import agents
from balancing.trust import Suspicion

# Lessons of one transaction, and seconds after which a job leaves the rest to the next.
BATCH = 500
LONGEST_S = 10.0
ACTOR = "learning"
# So many of the newest lessons are predicted, too, when all is learnt anew.
CALIBRATED_ANEW = 100_000


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
    if total:
        memory.refresh_service_times()
    return total


def _learn_batch() -> tuple[int, int, list[Course]]:
    with transaction.atomic():
        mark = memory.mark()
        if mark is None:
            return 0, 0, []  # somebody else is at it
        heard = memory.heard(mark, batch=BATCH)
        if not heard.events:
            return 0, 0, []
        courses = _taught(heard.told)
        remember.all_of(courses, mark=heard.newest)
    return heard.events, len(heard.told), courses


def _taught(told: Sequence[Told]) -> list[Course]:
    concerned: dict[str, set[str]] = {}
    for each in told:
        concerned.setdefault(each.agent_type, set()).add(each.lesson.agent)
    courses = memory.courses(concerned)
    for each in told:
        teach(courses[each.agent_type], each)
    return list(courses.values())


def teach(course: Course, told: Told, *, judges: bool = True, is_old: bool = False) -> None:
    """
    Predict a lesson, compare, learn it.

    judges: let it raise or lower suspicion, too. is_old: only learn it; so is a day at once, which
    nobody was asked about before.
    """
    model, lesson = course.model, told.lesson
    course.touched.add(lesson.agent)
    if is_old or lesson.leases > 1:
        kalman.learn(model, lesson, agents=course.agents)
        return
    average = estimate.average(model, lesson.kind)
    naive, usual = (outlook.expect(average, None, match=each) for each in (0.0, lesson.match))
    skill = model.skills.get(lesson.agent)
    said = estimate.predict(model, skill, lesson.kind, match=lesson.match)
    kalman.learn(model, lesson, agents=course.agents)
    day = datetime.fromtimestamp(lesson.at, UTC).date()
    tally = course.tallies.setdefault(day, Tally())
    tally.add(said, naive, is_success=told.is_success, log_s=lesson.log_s)
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
        memory.mark()  # there may be none yet
        mark, suspicions = memory.last_event(), memory.suspicions()
        memory.forget()
        courses: dict[str, Course] = {}
        left = memory.count()
        for piece in memory.everything(mark):
            for told in piece:
                course = courses.get(told.agent_type)
                if course is None:
                    courses |= memory.courses({told.agent_type: ()})
                    course = courses[told.agent_type]
                    course.suspicions.update(suspicions)
                left -= told.lesson.leases
                teach(course, told, judges=False, is_old=left > CALIBRATED_ANEW)
            yield sum(told.lesson.leases for told in piece)
        remember.all_of(courses.values(), mark=mark)
        memory.refresh_service_times()
        events.append("learning.relearnt", actor=ACTOR, pools=sorted(courses))


def fold() -> int:
    """Take outcomes older than their kept time into the days' sums; return how many."""
    return memory.fold_outcomes(days=settings.KEEP_OUTCOMES_DAYS)
