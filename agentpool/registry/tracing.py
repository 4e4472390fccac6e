"""
Sends traces of requests and their leases by OTLP, when AGENTPOOL_OTEL_ENDPOINT says where to.

One trace a request, whose id is the request's: what waited, and each lease with what it used. They
are written from the rows once a lease has ended, so that no process holds an open span. Needs the
extra `otel`; nothing of it is imported otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

from django.conf import settings
from django.db import connection

from agentpool import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

log = logging.getLogger("agentpool.tracing")
TIMEOUT_S = 5
_SUCCESS = "success"

_ENDED = """
    SELECT r.id AS request_id, r.created_at, r.finished_at, r.status, r.agent_type, r.project,
      r.cycle_id, r.phase, r.story_type, r.priority, l.id AS lease_id, l.acquired_at,
      l.released_at, l.waited_s, l.outcome, l.error, l.attempt, l.fencing_token, l.memory_mb,
      l.cpu_cores::float8 AS cpu_cores, l.token_budget, l.peak_memory_mb, l.cpu_seconds,
      l.tokens_in, l.tokens_out, l.cost_usd::float8 AS cost_usd, a.agent_id, a.provider
    FROM event_number n JOIN event e ON e.id = n.event_id JOIN lease l ON l.id = e.lease_id
      JOIN request r ON r.id = l.request_id JOIN agent a ON a.id = l.agent_id
    WHERE n.seq > %s AND n.seq <= %s AND e.detail ? 'outcome' AND l.released_at IS NOT NULL
    ORDER BY n.seq
"""


def export(after: int, upto: int) -> int:
    """
    Send what ended by the events above one number and not above the other; return how many spans.

    Whatever goes wrong is logged: metrics do not wait for traces. What could not be sent is lost.
    """
    if not settings.OTEL_ENDPOINT:
        return 0
    try:
        return _send([span for row in _ended(after, upto) for span in _spans(row)])
    except Exception:
        # The edge of the job: a collector of traces that is away must not stop the counting.
        log.exception("could not send traces endpoint=%s", settings.OTEL_ENDPOINT)
        return 0


def _ended(after: int, upto: int) -> list[Mapping[str, Any]]:
    with connection.cursor() as cursor:
        cursor.execute(_ENDED, [after, upto])
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _send(spans: Sequence[ReadableSpan]) -> int:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    if not spans:
        return 0
    exporter = OTLPSpanExporter(endpoint=settings.OTEL_ENDPOINT, timeout=TIMEOUT_S)
    try:
        exporter.export(spans)
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    return len(spans)


def _spans(row: Mapping[str, Any]) -> Iterator[ReadableSpan]:
    """Yield the lease, what was waited for it, and the request once nothing more comes of it."""
    about = {name: row[name] for name in ("agent_type", "project", "cycle_id", "phase")}
    request, lease = row["request_id"], row["lease_id"]
    acquired_at, waited_s = row["acquired_at"], row["waited_s"]
    began = _ns(acquired_at) - int(waited_s * 1e9)
    # The lease's second half names its wait.
    yield _span("wait", row, _half(lease, 1), began, _ns(acquired_at), about)
    used = ("memory_mb", "cpu_cores", "token_budget", "peak_memory_mb", "cpu_seconds", "cost_usd")
    yield _span(
        f"lease {row['agent_type']}",
        row,
        _half(lease, 0),
        _ns(acquired_at),
        _ns(row["released_at"]),
        {
            **about,
            **{name: row[name] for name in ("lease_id", "attempt", "fencing_token", "outcome")},
            **{name: row[name] for name in used},
            "gen_ai.agent.id": row["agent_id"],
            "gen_ai.provider.name": row["provider"],
            "gen_ai.usage.input_tokens": row["tokens_in"],
            "gen_ai.usage.output_tokens": row["tokens_out"],
        },
        error=row["error"] if row["outcome"] != _SUCCESS else None,
    )
    if row["finished_at"] is not None:
        more = {**about, "status": row["status"], "priority": row["priority"]}
        ended = _ns(row["finished_at"])
        name = f"request {row['agent_type']}"
        yield _span(name, row, _half(request, 0), _ns(row["created_at"]), ended, more, is_root=True)


def _span(
    name: str,
    row: Mapping[str, Any],
    span_id: int,
    start: int,
    end: int,
    attributes: Mapping[str, Any],
    *,
    error: str | None = None,
    is_root: bool = False,
) -> ReadableSpan:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, Status, StatusCode, TraceFlags

    def context(id: int) -> SpanContext:
        flags = TraceFlags(TraceFlags.SAMPLED)
        return SpanContext(row["request_id"].int, id, is_remote=False, trace_flags=flags)

    said = {_key(name): _plain(value) for name, value in attributes.items() if value != ""}
    return ReadableSpan(
        name,
        context=context(span_id),
        parent=None if is_root else context(_half(row["request_id"], 0)),
        resource=Resource({"service.name": "agentpool", "service.version": __version__}),
        attributes=said,
        status=Status(StatusCode.ERROR, error) if error is not None else Status(StatusCode.OK),
        start_time=start,
        end_time=max(start, end),
        instrumentation_scope=InstrumentationScope("agentpool", __version__),
    )


def _key(name: str) -> str:
    return name if name.startswith("gen_ai.") else f"agentpool.{name}"


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, UUID) else value


def _half(id: UUID, which: int) -> int:
    """Return half of an id as the id of a span, which must not be 0."""
    return int.from_bytes(id.bytes[8 * which : 8 * which + 8], "big") or 1


def _ns(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000) * 1000
