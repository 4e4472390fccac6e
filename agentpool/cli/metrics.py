"""The `agentpool metrics` commands."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any

import click

from agentpool.cli import plane, show

_COLUMNS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "agents": lambda each: f"{each['total_agents']:.3g}",
    "used": lambda each: f"{each['utilization']:.0%}",
    "queue": lambda each: f"{each['queue_depth']:.3g}",
    "asked/min": lambda each: f"{each['request_rate_per_minute']:.3g}",
    "done/min": lambda each: f"{each['completion_rate_per_minute']:.3g}",
    "wait": lambda each: show.duration(each["average_wait_time_s"]),
    "wait p95": lambda each: show.duration(each["wait_p95_s"]),
    "work": lambda each: show.duration(each["average_service_time_s"]),
    "success": lambda each: _percent(each["success_rate"]),
    "efficiency": lambda each: _percent(each["resource_efficiency"]),
}


@click.group()
def metrics() -> None:
    """See what the pools are and do: now, or over a range of time."""


@metrics.command(epilog=show.examples("agentpool metrics now", "agentpool metrics now --json"))
@show.as_json
def now(*, is_json: bool) -> None:
    """Show each pool as it is, with what happened in the last minute."""
    with plane.client() as client:
        found = client.metrics_summary()
    if is_json:
        show.json_value(found)
        return
    rows = [_row(each["agent_type"], each) for each in found["pools"]]
    show.table(("type", *_COLUMNS), rows, empty="There are no pools.")


@metrics.command(
    epilog=show.examples(
        "agentpool metrics series code --back 24h",
        "agentpool metrics series --back 7d --step 6h --json",
    )
)
@click.argument("agent_type", required=False)
@click.option("--back", default="1h", show_default=True, help="How far back: 90m, 24h, 30d.")
@click.option("--step", help="Time between the points: 30s, 5m, 6h; unset: about 240 points.")
@show.as_json
def series(*, agent_type: str | None, back: str, step: str | None, is_json: bool) -> None:
    """Show what a pool, or each, has been and done, in the order of time."""
    since = datetime.now(UTC) - timedelta(seconds=_seconds(back, "--back"))
    with plane.client() as client:
        found = client.metrics_summary(
            agent_type=agent_type,
            since=since.isoformat(),
            step_s=_seconds(step, "--step") if step else None,
        )
    if is_json:
        show.json_value(found)
        return
    rows = [(_moment(each), *_row(each["agent_type"], each)) for each in found["series"]]
    show.table(("from", "type", *_COLUMNS), rows, empty="Nothing was collected in this time.")


@metrics.command(epilog=show.examples("agentpool metrics alerts > /etc/prometheus/agentpool.yml"))
def alerts() -> None:
    """Print alert rules for Prometheus."""
    click.echo(_file("alerts.yml"), nl=False)


@metrics.command(epilog=show.examples("agentpool metrics dashboard > agentpool.json"))
def dashboard() -> None:
    """Print a dashboard for Grafana, to be imported there."""
    click.echo(_file("dashboard.json"), nl=False)


def _file(name: str) -> str:
    return (resources.files("agentpool") / "monitoring" / name).read_text(encoding="utf-8")


def _row(name: str, each: Mapping[str, Any]) -> tuple[str, ...]:
    return (name, *(told(each) for told in _COLUMNS.values()))


def _moment(each: Mapping[str, Any]) -> str:
    at = datetime.fromisoformat(each["timestamp"]).astimezone()
    return f"{at:%m-%d %H:%M:%S}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _seconds(text: str, option: str) -> float:
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    try:
        return float(text[:-1]) * units[text[-1:]]
    except (KeyError, ValueError) as error:
        raise click.BadParameter(
            f"{text!r}: write it as 30s, 5m, 6h or 7d", param_hint=option
        ) from error
