"""What was learnt, as people and programs ask for it: predictions with bounds, and how good."""

from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, AgentLearning, Calibration, Outlook, Pool, PoolLearning
from agentpool.registry.states import Strategy
from balancing import calibration, outlook
from balancing.calibration import Tally
from balancing.outlook import Average, Cell, Prediction

AGENTS_SHOWN = 200


def pools(*, days: int = calibration.LOOK_BACK_DAYS) -> list[dict[str, Any]]:
    """Return each pool with what was learnt of it and how good its predictions were lately."""
    known = PoolLearning.objects.in_bulk()
    tallied: dict[str, list[Calibration]] = {}
    for row in Calibration.objects.filter(day__gte=_since(days)):
        tallied.setdefault(row.agent_type, []).append(row)
    return [
        _pool(each, known.get(each.agent_type), tallied.get(each.agent_type, []), days)
        for each in Pool.objects.all()
    ]


def pool(row: Pool, *, days: int = calibration.LOOK_BACK_DAYS) -> dict[str, Any]:
    """
    Return what was learnt of one pool.

    proposes: `learnt`, when its predictions beat the mean of the kind of work on the pool's own
    history and it is not the pool's strategy yet; else None. why: the sentence for either.
    """
    known = PoolLearning.objects.filter(pool=row).first()
    return _pool(row, known, _days(row.agent_type, _since(days)), days)


def _pool(
    row: Pool, known: PoolLearning | None, tallied: list[Calibration], days: int
) -> dict[str, Any]:
    found = calibration.report(calibration.merged(map(_tally, tallied)))
    is_new = row.strategy != Strategy.LEARNT
    report = asdict(found)
    proposes, why = report.pop("proposes"), report.pop("why")
    report["bins"] = [
        {"predicted": predicted, "seen": seen, "leases": count}
        for predicted, seen, count in found.bins
    ]
    return {
        "agent_type": row.agent_type,
        "strategy": row.strategy,
        "leases": known.leases if known else 0,
        "learnt_at": known.learnt_at if known else None,
        "days": days,
        "proposes": Strategy.LEARNT.value if proposes and is_new else None,
        "why": why,
        "calibration": report,
    }


def _tally(row: Calibration) -> Tally:
    return Tally(**{name: getattr(row, name) for name in Tally.__slots__})


def kinds(agent_type: str) -> list[dict[str, Any]]:
    """Return what is usual in a pool for each kind of work."""
    rows = Outlook.objects.filter(agent_type=agent_type, agent_id=None, story_type__isnull=False)
    return [
        {"story_type": row.story_type, **_shown(_usual(row), row.leases, row.learnt_at)}
        for row in rows.order_by("-leases")
    ]


def agents(agent_type: str) -> list[dict[str, Any]]:
    """Return the agents of a pool, the most suspicious first, with what they promise."""
    learnt = AgentLearning.objects.filter(agent_type=agent_type).order_by("-suspicion", "agent_id")
    some = {row.agent_id: row for row in learnt[:AGENTS_SHOWN]}
    names = Agent.objects.in_bulk(some)
    return [
        {
            "agent_id": names[id_].agent_id,
            "id": str(id_),
            "health": names[id_].health,
            "suspicion": round(row.suspicion, 2),
            "why": row.why,
            "leases": row.leases,
            "learnt_at": row.learnt_at,
        }
        for id_, row in some.items()
        if id_ in names
    ]


def agent(row: Agent) -> dict[str, Any]:
    """Return what is expected of one agent at each kind of work, and how suspicious it is."""
    learnt = AgentLearning.objects.filter(agent_id=row.id).first()
    return {
        "suspicion": round(learnt.suspicion, 2) if learnt else 0.0,
        "why": learnt.why if learnt else "",
        "suspicion_probation": row.pool.suspicion_probation,
        "suspicion_quarantine": row.pool.suspicion_quarantine,
        "kinds": _of_agent(row.pool_id, row.id),
    }


def reliability(agent_type: str, *, days: int) -> list[dict[str, Any]]:
    """Return the days' errors of a pool's predictions against the mean of the kind of work."""
    return [
        {
            "day": row.day,
            "leases": row.leases,
            "success_error": (row.squares / row.leases) ** 0.5,
            "naive_success_error": (row.naive_squares / row.leases) ** 0.5,
            "time_error": row.errors / row.leases,
            "naive_time_error": row.naive_errors / row.leases,
            "coverage": row.within / row.leases,
        }
        for row in reversed(_days(agent_type, _since(days)))
        if row.leases
    ]


def _since(days: int) -> date:
    return registry_queries.now().date() - timedelta(days=days)


def _days(agent_type: str, since: date) -> list[Calibration]:
    return list(Calibration.objects.filter(agent_type=agent_type, day__gte=since))


def _of_agent(agent_type: str, agent_id: UUID) -> list[dict[str, Any]]:
    usual = {
        row.story_type: _average(row)
        for row in Outlook.objects.filter(agent_type=agent_type, agent_id=None)
    }
    rows = Outlook.objects.filter(agent_id=agent_id, story_type__isnull=False)
    return [
        {
            "story_type": row.story_type,
            **_shown(
                outlook.expect(usual.get(row.story_type) or usual[None], _cell(row)),
                row.leases,
                row.learnt_at,
            ),
            "against_usual": round(row.ratio, 3),
        }
        for row in rows.order_by("-leases")
    ]


def _usual(row: Outlook) -> Prediction:
    return outlook.expect(_average(row), None)


def _average(row: Outlook) -> Average:
    names = [name for name in Average._fields if name != "at"]
    return Average(**{name: getattr(row, name) for name in names}, at=row.learnt_at.timestamp())


def _cell(row: Outlook) -> Cell:
    names = [name for name in Cell._fields if name != "at"]
    return Cell(**{name: getattr(row, name) for name in names}, at=row.learnt_at.timestamp())


def _shown(found: Prediction, leases: int, at: datetime) -> dict[str, Any]:
    """Return a prediction with its bounds for 8 of 10, how many leases it rests on, and when."""
    low, high = found.success_interval
    low_s, high_s = found.seconds_interval
    return {
        "success": round(found.success, 4),
        "success_low": round(low, 4),
        "success_high": round(high, 4),
        "seconds": round(found.seconds, 2),
        "seconds_low": round(low_s, 2),
        "seconds_high": round(high_s, 2),
        "tokens": round(found.tokens),
        "efficiency": round(found.efficiency, 3),
        "leases": leases,
        "learnt_at": at.astimezone(UTC),
    }
