"""
What one pool makes of a lesson: it predicts, compares with what came, learns, and grows suspicious.

Pure. A course is what a pool knows while it learns, read before and written afterwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

from balancing import estimate, kalman, outlook, trust
from balancing.belief import Lesson, Model
from balancing.calibration import Tally
from balancing.trust import Suspicion

# A lesson as a query answers it: the fields of `Told`, those of its lesson among them.
Row = tuple[Any, ...]
AGENT_TYPE, LEASES = 0, 6


class Told(NamedTuple):
    """
    A lesson as the tables tell it.

    is_known: the same work has failed with another agent, too, or with this one before.
    """

    agent_type: str
    lesson: Lesson
    is_success: bool
    duration_s: float
    is_known: bool


@dataclass(slots=True)
class Course:
    """
    One pool's model while it learns: what is read first and written afterwards.

    agents: at work; counted_at: seconds since the epoch when they were counted.
    """

    agent_type: str
    agents: int
    model: Model
    counted_at: float = 0.0
    suspicions: dict[str, Suspicion] = field(default_factory=dict)
    tallies: dict[date, Tally] = field(default_factory=dict)
    touched: set[str] = field(default_factory=set)


def told(rows: Iterable[Row]) -> list[Told]:
    """Return the lessons of rows."""
    return [Told(row[0], Lesson._make(row[1:11]), *row[11:]) for row in rows]


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
    course.suspicions[lesson.agent] = trust.hear(
        course.suspicions.get(lesson.agent, Suspicion()),
        usual,
        is_success=told.is_success,
        duration_s=told.duration_s,
        is_known=told.is_known,
    )
