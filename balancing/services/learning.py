"""
Learns from ended leases: reads them in the order of their events, writes down what is expected now.

One statement reads a batch and another writes models, predictions and calibration, and moves the
mark, if nobody else has: a process that dies between has learnt nothing of it, and another one
learns it again.
"""

import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from django.conf import settings
from django.db import transaction

from agentpool.registry import events
from agentpool.registry.errors import StaleVersion
from agentpool.registry.models import Agent, AgentLearning
from agentpool.registry.states import AgentHealth
from balancing import apart, memory, remember, trust
from balancing.apart import Rooms
from balancing.course import AGENT_TYPE, LEASES, Row, teach
from balancing.memory import Heard
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
    while time.monotonic() < until and (heard := learn_batch()):
        total += len(heard.told)
        _judge(heard)
        if heard.events < BATCH:
            break
    if total:
        memory.refresh_service_times()
    return total


def learn_batch() -> Heard | None:
    """
    Learn from the next events; None: there are none, or somebody else has learnt from them.

    Must be outside of a transaction.
    """
    heard = memory.heard(batch=BATCH)
    if heard is None:
        return None
    for each in heard.told:
        teach(heard.courses[each.agent_type], each)
    courses, version = heard.courses.values(), heard.version
    try:
        remember.all_of(courses, mark=heard.newest, version=version, lazily=True)
    except remember.Overtaken:
        return None
    return heard


# -- judging -------------------------------------------------------------------------------------


def _judge(heard: Heard) -> None:
    """Put agents on probation, in quarantine, or back, each with its reason as an event."""
    for course in heard.courses.values():
        for name in course.touched:
            now, standing = course.suspicions.get(name, Suspicion()), heard.standings[name]
            found = trust.verdict(now, standing, judge=ACTOR)
            if found is not None:
                _apply(name, found, standing)


def _apply(name: str, found: trust.Verdict, standing: trust.Standing) -> None:
    agent = Agent.objects.select_related("pool").get(id=name)
    is_out = found.health is AgentHealth.QUARANTINED
    until = timedelta(seconds=agent.pool.quarantine_s) if is_out else None
    try:
        agents.set_health(
            agent,
            health=found.health,
            note=found.why,
            until=memory.now() + until if until else None,
            actor=ACTOR,
            if_generation=standing.generation,
        )
    except StaleVersion:
        return  # a person was faster; the next outcome asks again
    if is_out:
        # Whoever comes back is on probation at its first failure, not at its first success.
        AgentLearning.objects.filter(agent_id=agent.id).update(
            suspicion=trust.forgiven(standing.suspicion_probation)
        )


# -- anew ----------------------------------------------------------------------------------------


def relearn() -> Iterator[int]:
    """
    Forget all and learn anew, from the days' sums, then from the outcomes in their order of time.

    Yields the number of leases after each piece. One transaction: until its end everybody reads
    what was known before. Locks the learning of others out. Calibration starts anew, too.
    """
    with transaction.atomic():
        version = memory.alone()
        mark, suspicions = memory.last_event(), memory.suspicions()
        memory.forget()
        left = memory.count()
        with Rooms(apart.processes(left)) as rooms:
            for rows in memory.everything(mark):
                count = sum(row[LEASES] for row in rows)
                left -= count
                _send(rooms, rows, is_old=left >= CALIBRATED_ANEW)
                yield count
            courses = rooms.courses()
        for each in courses:
            each.suspicions.update(suspicions)
        remember.all_of(courses, mark=mark, version=version)
        memory.refresh_service_times()
        pools = sorted(each.agent_type for each in courses)
        events.append("learning.relearnt", actor=ACTOR, pools=pools)


def _send(rooms: Rooms, rows: Sequence[Row], *, is_old: bool) -> None:
    by_pool: dict[str, list[Row]] = {}
    for row in rows:
        by_pool.setdefault(row[AGENT_TYPE], []).append(row)
    for agent_type, several in by_pool.items():
        if not rooms.has(agent_type):
            rooms.open(memory.blank(agent_type))
        rooms.teach(agent_type, several, is_old=is_old)


def fold() -> int:
    """Take outcomes older than their kept time into the days' sums; return how many."""
    memory.forget_gone()
    return memory.fold_outcomes(days=settings.KEEP_OUTCOMES_DAYS)
