"""Scaling: how large each pool is and should be, why, and what was decided."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from django.db.models import Avg, ExpressionWrapper, F, Func, OuterRef, Subquery, Value
from django.db.models.fields import DateTimeField

from agentpool.console import charts, page, series
from agentpool.console.page import Params, Picture
from agentpool.registry import measuring
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import (
    Announcement,
    Pool,
    ScalingDecision,
    ScalingPolicy,
)
from scaling import queries, standby

# How far back, and how far apart the points of a chart are: 120 of them each.
BACKS = {"1h": (3600, 30), "6h": (21_600, 180), "24h": (86_400, 720)}
PARAMS = {"back": "1h", "agent_type": "", "shown": ""}
# The newest decisions that are looked at; steady ones among them become one row.
_DECISIONS_READ = 2000
_ORIGIN = datetime(2000, 1, 1, tzinfo=UTC)
_ANNOUNCED_SHOWN = 50
_STILL_ANNOUNCED = timedelta(minutes=15)
_SUPPLY = ("starting", "standby", "idle", "busy")


class Sample(NamedTuple):
    """A pool as it was counted: its agents, and the mean wait in seconds."""

    size: int
    wait_s: float


def picture(params: Params) -> Picture:
    """Return the pools with their policies, charts, decisions, and announced work."""
    at = registry_queries.now()
    back = params["back"] if params["back"] in BACKS else PARAMS["back"]
    length_s, step_s = BACKS[back]
    since, step = at - timedelta(seconds=length_s), timedelta(seconds=step_s)
    points = _points(since, step)
    samples = _samples(since, step)
    policies = {row.pool_id: row for row in ScalingPolicy.objects.all()}
    last = _newest_decisions()
    shown = page.rows_shown(params)
    folded = _folded(_read(since, params["agent_type"]))
    states = registry_queries.pool_states()
    grown = queries.growth()
    ends = _bin_of(since + step, step), _bin_of(at, step)
    drawn = {
        row["agent_type"]: _chart(
            points.get(row["agent_type"], []),
            samples.get(row["agent_type"], {}),
            ends,
            _size_of(row),
        )
        for row in states
    }
    return {
        "now": at,
        "back": back,
        "backs": list(BACKS),
        "pools": [
            _pool(row, policies.get(row["agent_type"]), last.get(row["agent_type"]), drawn)
            | {"standby": _standby(row, last.get(row["agent_type"]), grown)}
            for row in states
        ],
        "charts": drawn,
        "decisions": folded[:shown],
        "more": page.more(shown, len(folded)),
        "announced": _announced(at),
        "agent_types": [row["agent_type"] for row in states],
    }


def _pool(
    state: Mapping[str, Any],
    row: ScalingPolicy | None,
    last: ScalingDecision | None,
    drawn: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Return one pool's card; without a row of its own it has the usual policy."""
    policy = row or ScalingPolicy()
    sizes, demands = (each["values"] for each in drawn[state["agent_type"]]["lines"][:2])
    most = max(value for value in (*sizes, *demands, 1) if value is not None)
    busy, waiting = state["slots_used"], state["queue_depth"] or 0
    return {
        "agent_type": state["agent_type"],
        "mode": policy.mode,
        "rule": policy.rule,
        "settings": sorted((name, _told(value)) for name, value in policy.settings.items()),
        "updated_by": policy.updated_by.removeprefix("user:"),
        "size": _size_of(state),
        "starting": state["n_starting"],
        "draining": state["n_draining"],
        "min_size": state["min_size"],
        "max_size": state["max_size"],
        "busy": busy,
        "waiting": waiting,
        "last": last and _last(last),
        "forecast": forecast_told((last and last.forecast) or {}),
        "size_line": charts.spark_line(sizes, most=most),
        "demand_line": charts.spark_line(demands, most=most),
    }


def _size_of(state: Mapping[str, Any]) -> int:
    return sum(state[f"n_{status}"] for status in _SUPPLY)


def _standby(
    state: Mapping[str, Any],
    last: ScalingDecision | None,
    grown: Mapping[str, tuple[int, int]],
) -> dict[str, Any] | None:
    """Return what a card says of the pool's standby; None: it has none, and wants none."""
    wanted = last.inputs.get("standby_wanted", 0) if last else 0
    hits, misses = grown.get(state["agent_type"], (0, 0))
    if not (state["n_standby"] or wanted or hits):
        return None
    share = standby.hit_share(hits=hits, misses=misses)
    return {
        "now": state["n_standby"],
        "wanted": wanted,
        "hits": hits,
        "needed": hits + misses,
        "hit_percent": None if share is None else round(100 * share),
    }


def _told(value: Any) -> str:
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


def _last(row: ScalingDecision) -> dict[str, Any]:
    return {
        "id": str(row.id),
        "at": row.at,
        "target": row.target,
        "reason": row.reason,
        "error": row.error,
        "bounds": row.bounds,
    }


def forecast_told(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a forecast in requests over its horizon, with how wrong such forecasts were."""
    if not found:
        return {}
    minutes = found["time_horizon_minutes"]
    confidence, skill = found["confidence"], found["skill"]
    return {
        "minutes": round(minutes),
        "requests": round(found["predicted_demand"] * minutes, 1),
        "base": round(found["base_demand"] * minutes, 1),
        "seasonal": round(found["seasonal_multiplier"], 2),
        "event": round(found["event_multiplier"], 2),
        "error_percent": None if confidence is None else round(100 * (1 - confidence)),
        "skill_percent": None if skill is None else round(100 * skill),
        "worse_percent": None if skill is None else round(-100 * skill),
        "source": found["source"],
        "reason": found["reason"],
    }


# -- charts ----------------------------------------------------------------------------------------


def _bin_of(at: datetime, step: timedelta) -> datetime:
    return _ORIGIN + (at - _ORIGIN) // step * step


def _binned(step: timedelta) -> Func:
    return Func(
        Value(step),
        F("at"),
        Value(_ORIGIN),
        function="date_bin",
        output_field=DateTimeField(),
    )


def _points(since: datetime, step: timedelta) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return the last decision of each step, by pool, in the order of time."""
    rows = (
        ScalingDecision.objects.filter(at__gt=since)
        .annotate(bin=_binned(step))
        .order_by("pool_id", "bin", "-at")
        .distinct("pool_id", "bin")
        .values("pool_id", "bin", "current", "target", "inputs__busy", "inputs__waiting")
    )
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row["pool_id"]), []).append(row)
    return found


def _samples(since: datetime, step: timedelta) -> Mapping[str, Mapping[datetime, Sample]]:
    """Return the agents and the mean wait in each step, seconds, by pool."""
    rows = (
        measuring.samples()
        .filter(at__gt=since)
        .annotate(bin=_binned(step))
        .order_by()
        .values("pool_id", "bin")
        .annotate(size=Avg("total_agents"), wait=Avg("average_wait_time_s"))
    )
    found: dict[str, dict[datetime, Sample]] = {}
    for row in rows:
        seen = Sample(round(row["size"]), round(row["wait"] or 0.0, 2))
        found.setdefault(str(row["pool_id"]), {})[row["bin"]] = seen
    return found


def _size(point: Mapping[str, Any]) -> float:
    return float(point["current"])


def _target(point: Mapping[str, Any]) -> float:
    return float(point["target"])


def _demand(point: Mapping[str, Any]) -> float:
    return float((point["inputs__busy"] or 0) + (point["inputs__waiting"] or 0))


def _chart(
    points: Sequence[Mapping[str, Any]],
    samples: Mapping[datetime, Sample],
    ends: tuple[datetime, datetime],
    size_now: int,
) -> dict[str, Any]:
    """
    Return size, demand and target on one axis, the mean wait on another.

    ends: the first and the last moment of the time that is shown; size_now: the size at the last.
    """
    known = {point["bin"]: point for point in points}
    at = sorted({*known, *samples, ends[1]})
    if len(at) == 1:
        at = list(ends)
    waits = [samples[moment].wait_s if moment in samples else None for moment in at]
    return series.chart(
        at,
        [
            series.line("size", _sizes(at, known, samples, size_now), tone="busy"),
            series.line("demand", _drawn(at, known, _demand), tone="draining"),
            series.line("target", _kept(_drawn(at, known, _target)), tone="idle", style="steps"),
            series.line("mean wait, s", waits, tone="lost", axis="right"),
        ],
    )


def _sizes(
    at: Sequence[datetime],
    known: Mapping[datetime, Mapping[str, Any]],
    samples: Mapping[datetime, Sample],
    size_now: int,
) -> list[float | None]:
    """
    Return the size at each moment: as counted, or as it was before; never counted: as decided from.

    One source or the other, or a line would jump between what each calls an agent. What nobody has
    counted before is what is there now: nothing has changed it since.
    """
    seen = _drawn(at, known, _size)
    if samples:
        seen = [float(samples[moment].size) if moment in samples else None for moment in at]
    seen[-1] = float(size_now)
    first = next(value for value in seen if value is not None)
    return _kept([first if seen[0] is None else seen[0], *seen[1:]])


def _kept(values: Sequence[float | None]) -> list[float | None]:
    """Return values of what stays as it is until it is said anew."""
    found: list[float | None] = []
    for value in values:
        found.append(found[-1] if value is None and found else value)
    return found


def _drawn(
    at: Sequence[datetime],
    known: Mapping[datetime, Mapping[str, Any]],
    value: Callable[[Mapping[str, Any]], float],
) -> list[float | None]:
    return [value(known[moment]) if moment in known else None for moment in at]


# -- decisions and announcements -------------------------------------------------------------------


def _newest_decisions() -> Mapping[str, ScalingDecision]:
    newest = ScalingDecision.objects.filter(pool=OuterRef("agent_type")).order_by("-at")
    ids = Pool.objects.annotate(newest=Subquery(newest.values("id")[:1])).values("newest")
    return {row.pool_id: row for row in ScalingDecision.objects.filter(id__in=ids)}


def _read(since: datetime, agent_type: str) -> Sequence[ScalingDecision]:
    rows = ScalingDecision.objects.filter(at__gt=since)
    if agent_type:
        rows = rows.filter(pool_id=agent_type)
    rows = rows.defer("inputs", "alternatives", "forecast").select_related("event")
    return list(rows.order_by("-at")[:_DECISIONS_READ])


def _folded(rows: Sequence[ScalingDecision]) -> list[dict[str, Any]]:
    """
    Return decisions, newest first; those of a pool in a row that say the same are one.

    What was carried out always stands alone.
    """
    found: list[dict[str, Any]] = []
    newest: dict[str, tuple[Any, dict[str, Any]]] = {}
    for row in rows:
        alike = (row.rule, row.mode, row.action, row.current, row.target, bool(row.error))
        kept = newest.get(row.pool_id)
        if kept is not None and kept[0] == alike and row.event_id is None:
            kept[1].update(count=kept[1]["count"] + 1, since=row.at, dom_id=str(row.id))
            continue
        told = _decision(row)
        found.append(told)
        newest[row.pool_id] = (None if row.event_id else alike, told)
    return found


def _decision(row: ScalingDecision) -> dict[str, Any]:
    return {
        "id": str(row.id),
        # A run keeps the id of its oldest one, so that its row stays while it grows.
        "dom_id": str(row.id),
        "at": row.at,
        "since": row.at,
        "count": 1,
        "agent_type": row.pool_id,
        "rule": row.rule,
        "mode": row.mode,
        "action": row.action,
        "is_change": row.event_id is not None,
        "woken": row.event.woken if row.event else 0,
        "set_aside": row.event.set_aside if row.event else 0,
        "current": row.current,
        "target": row.target,
        "reason": row.reason,
        "error": row.error,
        "bounds": row.bounds,
    }


def _announced(at: datetime) -> list[dict[str, Any]]:
    over = F("at") + F("spread_s") * Value(timedelta(seconds=1))
    rows = Announcement.objects.alias(over=ExpressionWrapper(over, output_field=DateTimeField()))
    rows = rows.filter(over__gt=at - _STILL_ANNOUNCED).order_by("at")
    return [
        {
            "id": str(row.id),
            "agent_type": row.pool_id,
            "at": row.at,
            "count": row.count,
            "spread_s": row.spread_s,
            "name": row.name,
            "by": row.announced_by.removeprefix("user:"),
            "is_heard": row.heard_at is not None,
        }
        for row in rows[:_ANNOUNCED_SHOWN]
    ]
