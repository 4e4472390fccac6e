"""
Tells Prometheus what the installation is and does: /metrics, in OpenMetrics.

Everything is read from rows, so each web process tells the same, and a restart resets nothing. The
names are in docs/metrics.md; a test holds the page, the dashboard and the alerts to them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.db import connection
from django.http import HttpRequest, HttpResponse

from agentpool.registry import counters, rest
from agentpool.registry.errors import Forbidden, Refusal, Unauthenticated

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric
    from prometheus_client.registry import CollectorRegistry

# Name without its ending, help, labels.
Family = tuple[str, str, tuple[str, ...]]
COUNTERS: tuple[Family, ...] = (
    ("agentpool_request_arrivals", "Requests that arrived, the refused ones too", ("type",)),
    (
        "agentpool_requests",
        "Requests that got a lease (each time), were refused, timed out or cancelled",
        ("type", "outcome"),
    ),
    ("agentpool_leases_lost", "Leases that ended without their holder's word", ("type", "cause")),
    ("agentpool_fenced_writes", "Calls refused because the lease was no longer theirs", ()),
    ("agentpool_tokens", "Tokens that ended leases used", ("type", "provider", "direction")),
    ("agentpool_cost_usd", "What ended leases cost", ("provider",)),
    ("agentpool_provider_throttled", "429 answers that agents reported", ("provider",)),
    ("agentpool_scaling_decisions", "Decisions about sizes", ("type", "action", "mode")),
    (
        "agentpool_warm_hits",
        "Grants by whether the agent had worked on it before",
        ("type", "result"),
    ),
    (
        "agentpool_standby_hits",
        "Agents that a pool was missing, by whether they were woken (hit) or launched (miss)",
        ("type", "result"),
    ),
)
HISTOGRAMS: tuple[Family, ...] = (
    ("agentpool_assign_wait_seconds", "From the request to its lease", ("type",)),
    ("agentpool_lease_duration_seconds", "From the lease to its end", ("type", "outcome")),
    ("agentpool_decision_duration_seconds", "How long it took to decide", ("kind",)),
)
GAUGES: tuple[Family, ...] = (
    ("agentpool_agents", "Agents by status", ("type", "state")),
    ("agentpool_slots", "Slots of agents that are idle or busy", ("type",)),
    ("agentpool_slots_used", "Of these, in use", ("type",)),
    ("agentpool_desired_agents", "The newest decision about the size", ("type",)),
    ("agentpool_queue_depth", "Requests that wait, by why", ("type", "reason")),
    ("agentpool_oldest_request_age_seconds", "How long the oldest one waits", ("type",)),
    ("agentpool_heartbeat_age_seconds", "The longest silence of an agent that should speak", ()),
    ("agentpool_resource_capacity", "What idle and busy agents have", ("type", "resource")),
    ("agentpool_resource_used", "What leases hold of it", ("type", "resource")),
    ("agentpool_tick_timestamp_seconds", "When each part was last seen working", ("part",)),
)
RESOURCES = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")

_AGENTS = """
    SELECT agent_type, status, count(*), sum(max_concurrent), sum(load), sum(memory_mb),
      sum(cpu_cores)::float8, sum(token_budget)::float8, sum(disk_space_mb), sum(used_memory_mb),
      sum(used_cpu_cores)::float8, sum(used_token_budget)::float8, sum(used_disk_space_mb)
    FROM agent WHERE status NOT IN ('lost', 'retired') GROUP BY agent_type, status
"""
# The code is that of balancing.explain; nobody has looked yet why the newest wait.
_QUEUE = """
    SELECT agent_type, coalesce(nullif(reason_code, ''), 'new'),
      count(*), extract(epoch FROM now() - min(queued_at))::float8
    FROM request WHERE status = 'waiting' GROUP BY 1, 2
"""
_DESIRED = """
    SELECT p.agent_type, d.target FROM pool p, LATERAL (
      SELECT target FROM scaling_decision d WHERE d.agent_type = p.agent_type
      ORDER BY at DESC LIMIT 1) d
"""
_SILENCE = """
    SELECT coalesce(max(extract(epoch FROM now() - v.last_heartbeat_at)), 0)::float8
    FROM liveness v JOIN agent a ON a.id = v.agent_id
    WHERE a.status NOT IN ('lost', 'retired', 'starting')
"""
_TICKS = "SELECT name, extract(epoch FROM at)::float8 FROM tick"
_TOTALS = "SELECT family, labels, value FROM metric_total"


def metrics(request: HttpRequest) -> HttpResponse:
    """Answer GET /metrics; AGENTPOOL_METRICS_AUTH says whether a token is needed."""
    if settings.METRICS_AUTH == "token":
        try:
            _may_read(request)
        except Refusal as refusal:
            return HttpResponse(refusal.detail, status=refusal.status, content_type="text/plain")
    accepted = request.headers.get("Accept", "")
    # Prometheus takes both, and the newer one rather.
    is_plain = "text/plain" in accepted and "application/openmetrics-text" not in accepted
    text, content_type = exposition(plain=is_plain)
    return HttpResponse(text, content_type=content_type)


def _may_read(request: HttpRequest) -> None:
    scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not secret.strip():
        raise Unauthenticated("Authorization: Bearer <token>, of a viewer at least.")
    if rest.principal_of(secret.strip()).scope not in rest.READERS:
        raise Forbidden("The token's scope does not read.")


def exposition(*, plain: bool = False) -> tuple[bytes, str]:
    """Return all metrics and their content type; plain: in the older text format."""
    # Only here: most installations are never scraped, and the package costs each process 3 MB.
    from prometheus_client import exposition as older
    from prometheus_client.openmetrics import exposition as openmetrics
    from prometheus_client.registry import CollectorRegistry

    registry: CollectorRegistry = CollectorRegistry(auto_describe=False)
    registry.register(_Rows())
    if plain:
        return older.generate_latest(registry), older.CONTENT_TYPE_LATEST
    text: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
    return text, openmetrics.CONTENT_TYPE_LATEST


class _Rows:
    """What prometheus_client asks for the metrics."""

    def collect(self) -> Iterator[Metric]:
        """Yield each family, those without a value yet with their help only."""
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily

        counters.flush()
        found = _totals()
        for name, help_, labels in COUNTERS:
            family = CounterMetricFamily(name, help_, labels=labels)
            for told, value in found.get(f"{name}_total", []):
                family.add_metric([told.get(label, "") for label in labels], value)
            yield family
        for each in HISTOGRAMS:
            yield _histogram(each, found)
        values = dict(_gauges())
        for name, help_, labels in GAUGES:
            gauge = GaugeMetricFamily(name, help_, labels=labels)
            for told_, number in values.get(name, []):
                gauge.add_metric([str(each) for each in told_], float(number or 0))
            yield gauge


Totals = Mapping[str, list[tuple[dict[str, str], float]]]


def _totals() -> Totals:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family, labels, value in _read(_TOTALS):
        told = json.loads(labels) if isinstance(labels, str) else labels
        found.setdefault(family, []).append((told, value))
    return found


def _histogram(family: Family, found: Totals) -> Metric:
    """Return a histogram whose rows count each bucket by itself; Prometheus wants them added up."""
    from prometheus_client.metrics_core import HistogramMetricFamily

    name, help_, labels = family
    whole = HistogramMetricFamily(name, help_, labels=labels)
    counts: dict[tuple[str, ...], dict[str, float]] = {}
    for told, value in found.get(f"{name}_bucket", []):
        key = tuple(told.get(label, "") for label in labels)
        counts.setdefault(key, {})[told["le"]] = value
    sums = {tuple(t.get(each, "") for each in labels): v for t, v in found.get(f"{name}_sum", [])}
    bounds = [*(f"{bound:g}" for bound in counters.BOUNDS[name]), "+Inf"]
    for key, own in sorted(counts.items()):
        reached, buckets = 0.0, []
        for bound in bounds:
            reached += own.get(bound, 0.0)
            buckets.append((bound if bound == "+Inf" else str(float(bound)), reached))
        whole.add_metric(list(key), buckets=buckets, sum_value=sums.get(key, 0.0))
    return whole


Values = list[tuple[tuple[Any, ...], Any]]


def _gauges() -> Iterator[tuple[str, Values]]:
    yield from _of_agents(_read(_AGENTS))
    waiting = _read(_QUEUE)
    oldest: dict[str, float] = {}
    for agent_type, _, _, age_s in waiting:
        oldest[agent_type] = max(oldest.get(agent_type, 0.0), age_s)
    yield "agentpool_queue_depth", [((row[0], row[1]), row[2]) for row in waiting]
    yield "agentpool_oldest_request_age_seconds", [((t,), age) for t, age in oldest.items()]
    yield "agentpool_desired_agents", [((row[0],), row[1]) for row in _read(_DESIRED)]
    yield "agentpool_heartbeat_age_seconds", [((), row[0]) for row in _read(_SILENCE)]
    yield "agentpool_tick_timestamp_seconds", [((row[0],), row[1]) for row in _read(_TICKS)]


def _of_agents(rows: list[tuple[Any, ...]]) -> Iterator[tuple[str, Values]]:
    yield "agentpool_agents", [((row[0], row[1]), row[2]) for row in rows]
    working: dict[str, list[float]] = {}
    for agent_type, status, _, *amounts in rows:
        if status in ("idle", "busy"):
            so_far = working.setdefault(agent_type, [0.0] * len(amounts))
            working[agent_type] = [a + float(b or 0) for a, b in zip(so_far, amounts, strict=True)]
    yield "agentpool_slots", [((t,), found[0]) for t, found in working.items()]
    yield "agentpool_slots_used", [((t,), found[1]) for t, found in working.items()]
    for name, first in (("agentpool_resource_capacity", 2), ("agentpool_resource_used", 6)):
        yield (
            name,
            [
                ((agent_type, resource), found[first + place])
                for agent_type, found in working.items()
                for place, resource in enumerate(RESOURCES)
            ],
        )


def _read(sql: str) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(sql, [])
        return list(cursor.fetchall())


def families() -> Iterable[Family]:
    """Return all families that /metrics tells."""
    return (*COUNTERS, *HISTOGRAMS, *GAUGES)
