"""One agent: what it does, what it did, how well, and what it may."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from agentpool.console import actions, charts, page, series
from agentpool.console.charts import Span
from agentpool.console.page import Params, Picture
from agentpool.console.pages._rows import agent_row, lease_row
from agentpool.registry import queries as registry_queries
from agentpool.registry import showing as registry_showing
from agentpool.registry.models import Agent, Event, Lease, LeaseOutcome
from agentpool.registry.states import LIVE, FileAccess, NetworkAccess, Outcome, SecurityLevel
from balancing import insight

LOOK_BACK = {"1h": timedelta(hours=1), "6h": timedelta(hours=6), "24h": timedelta(hours=24)}
SPANS_SHOWN = 300
OUTCOMES_SHOWN = 40
EVENTS_SHOWN = 20
# Of an event: what says why, the best first.
_WHY = ("note", "reason", "health")
PARAMS = {"back": "1h"}


def topic(params: Params) -> str:
    """Return what of the stream of events the page follows; raises NotFound."""
    return f"agent:{registry_queries.agent_by(id=page.row_id(params)).agent_id}"


def picture(params: Params) -> Picture:
    """Return one agent; raises NotFound."""
    agent = registry_queries.agent_by(id=page.row_id(params))
    at = registry_queries.now()
    leases = list(
        Lease.objects.select_related("agent", "request")
        .filter(agent=agent)
        .order_by("-fencing_token")[:SPANS_SHOWN]
    )
    newest = Lease.objects.filter(agent=agent).order_by("-fencing_token")[:OUTCOMES_SHOWN]
    outcomes = list(LeaseOutcome.objects.filter(lease__in=newest).order_by("-ended_at"))
    return {
        "now": at,
        "agent": agent,
        "subject": agent.name or agent.agent_id,
        "doable": [action.name for action in actions.offered(actions.agents.AGENT, [agent])],
        "row": agent_row(agent, at),
        "facts": _facts(agent),
        "live": [lease_row(lease) for lease in leases if lease.status in LIVE],
        "timeline": _timeline(leases, agent, at, LOOK_BACK.get(params["back"], LOOK_BACK["1h"])),
        "backs": list(LOOK_BACK),
        "performance": _performance(agent),
        "learning": insight.agent(agent),
        "charts": _charts(outcomes),
        "outcomes": _tally(outcomes),
        "past": [lease_row(lease) for lease in leases if lease.status not in LIVE][:12],
        "profile": _profile(agent),
        "events": _events(agent),
    }


def _facts(agent: Agent) -> list[tuple[str, str]]:
    told = registry_showing.agent_json(agent)
    return [
        (label, value if isinstance(value, str) else ", ".join(value))
        for label, value in (
            ("Capabilities", told["capabilities"]),
            ("Tools", told["tools"]),
            ("Labels", [f"{name}={value}" for name, value in agent.labels.items()]),
            ("Security", SecurityLevel(agent.security_level).name.lower()),
            ("Isolation", [name.replace("_", " ") for name in told["isolation_levels"]]),
            ("Provider", agent.provider),
            ("Version", agent.version),
            ("Endpoint", agent.endpoint),
        )
        if value
    ]


def _performance(agent: Agent) -> dict[str, Any] | None:
    found = registry_queries.performance([agent.id]).get(agent.id)
    if found is None:
        return None
    rate = found["success_rate"]
    return {**found, "success_percent": None if rate is None else round(100 * rate)}


def _timeline(
    leases: Sequence[Lease], agent: Agent, at: datetime, back: timedelta
) -> dict[str, Any]:
    """Return the leases of the time looked at as boxes, one lane a slot."""
    begin = at - back
    scale = charts.Scale(begin, at)
    boxes = []
    for lease in leases:
        if (lease.released_at or at) < begin:
            continue
        span = Span(lease.slot, lease.acquired_at, lease.released_at)
        x, width = scale.box(span)
        boxes.append(
            {
                "id": str(lease.id),
                "x": x,
                "width": width,
                "y": 26 * (lease.slot - 1),
                "label": f"{lease.cycle_id or lease.project} {lease.phase}".rstrip(),
                "state": lease.outcome or lease.status,
                "took_s": (
                    (lease.released_at or at).replace(microsecond=0)
                    - lease.acquired_at.replace(microsecond=0)
                ).total_seconds(),
            }
        )
    lanes = max((lease.slot for lease in leases), default=1)
    return {
        "boxes": boxes,
        "height": 26 * max(lanes, min(agent.max_concurrent, 12)),
        "marks": charts.marked(scale),
    }


def _charts(outcomes: Sequence[LeaseOutcome]) -> Mapping[str, Any]:
    """Return what the charts draw, oldest first; an outcome is told by its shape, too."""
    past = list(reversed(outcomes))
    durations = [round(row.duration_s, 1) for row in past]
    waits = [round(row.waited_s, 1) for row in past]
    peaks = [round(row.peak_memory_mb) for row in past]
    tokens = [row.tokens_in + row.tokens_out for row in past]
    lines = {
        "duration": [
            series.line("duration", durations, tone="busy", style="points"),
            series.line("wait", waits, tone="draining"),
        ],
        "memory": [
            series.line("granted", [row.memory_mb for row in past], tone="standby", style="steps"),
            series.line("most used", peaks, tone="busy"),
        ],
        "tokens": [
            series.line(
                "granted", [row.token_budget for row in past], tone="standby", style="steps"
            ),
            series.line("used", tokens, tone="busy"),
        ],
    }
    at, notes = [row.ended_at for row in past], [row.outcome for row in past]
    return {name: series.chart(at, each, notes=notes) for name, each in lines.items()}


def _tally(outcomes: Sequence[LeaseOutcome]) -> list[dict[str, Any]]:
    total = len(outcomes) or 1
    counts = {each.value: sum(row.outcome == each for row in outcomes) for each in Outcome}
    return [
        {"outcome": name, "count": count, "percent": round(100 * count / total)}
        for name, count in counts.items()
        if count
    ]


def _profile(agent: Agent) -> dict[str, Any]:
    profile = agent.pool.profile
    return {
        "version": profile.version,
        "tools": ", ".join(profile.allowed_tools) or "none",
        "network": NetworkAccess(profile.network_access).name.lower().replace("_", " "),
        "files": FileAccess(profile.file_access).name.lower().replace("_", " "),
        "memory_mb": profile.memory_mb,
        "cpu_cores": profile.cpu_cores,
    }


def _events(agent: Agent) -> list[dict[str, Any]]:
    # Its own alone: those of its leases stand in the timeline above.
    rows = Event.objects.filter(agent_id=agent.agent_id, lease_id=None).order_by("-id")
    return [
        {
            "id": row.id,
            "at": row.at,
            "what": row.kind.partition(".")[2].replace("_", " "),
            "why": row.detail.get("note")
            or row.detail.get("reason")
            or row.detail.get("health", ""),
            "actor": row.actor.removeprefix("user:"),
        }
        for row in rows[:EVENTS_SHOWN]
    ]
