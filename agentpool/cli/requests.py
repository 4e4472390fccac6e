"""The `agentpool requests` commands."""

from collections.abc import Mapping
from typing import Any

import click

from agentpool.cli import plane, show


@click.group()
def requests() -> None:
    """Look at requests; ask why they wait; cancel them."""


@requests.command("ls")
@click.option("--status", help="Only this status, such as waiting.")
@click.option("--project", help="Only this project.")
@click.option("--type", "agent_type", help="Only requests for this type of agent.")
@click.option("--cycle", "cycle_id", help="Only this cycle.")
@show.limit
@show.as_json
def ls(*, is_json: bool, **only: Any) -> None:
    """List requests."""
    with plane.client() as client:
        page = client.requests(**{key: value for key, value in only.items() if value is not None})
    if is_json:
        show.json_value([each.raw for each in page.items])
        return
    rows = [
        (
            each.id,
            each.agent_type,
            each.project,
            each.cycle_id,
            each.phase,
            each.status,
            each.outcome or each.reason,
            show.duration(each.waited_s),
            show.age(each.created_at),
        )
        for each in page.items
    ]
    columns = ("id", "type", "project", "cycle", "phase", "status", "reason", "waited", "age")
    show.table(columns, rows, empty="There are no such requests.")


@requests.command("show")
@click.argument("request_id")
@show.as_json
def show_request(*, request_id: str, is_json: bool) -> None:
    """Show one request."""
    with plane.client() as client:
        found = client.get_request(request_id)
    show.json_value(found.raw) if is_json else show.pairs(found.raw)


@requests.command()
@click.argument("request_id")
@show.as_json
def explain(*, request_id: str, is_json: bool) -> None:
    """Say why this agent was chosen, or why the request still waits."""
    with plane.client() as client:
        found = client.explain(request_id)
    if is_json:
        show.json_value(found)
        return
    _explained(found)


@requests.command()
@click.argument("request_id")
def cancel(*, request_id: str) -> None:
    """Cancel a request; a lease it has ends too."""
    with plane.client() as client:
        client.cancel_request(request_id)
    click.echo(f"Request {request_id} is cancelled.")


def _explained(found: Mapping[str, Any]) -> None:
    parts = ("filters", "candidates", "timeline")
    show.pairs(found, skip=parts)
    if filters := found.get("filters"):
        rows = [(each.get("name"), each.get("kept"), each.get("dropped")) for each in filters]
        click.echo()
        show.table(("filter", "kept", "dropped"), rows, empty="")
    if candidates := found.get("candidates"):
        rows = [(each.get("agent_id"), each.get("score"), each.get("parts")) for each in candidates]
        click.echo()
        show.table(("agent", "score", "parts"), rows, empty="")
    if timeline := found.get("timeline"):
        rows = [(each.get("at"), each.get("reason"), None) for each in timeline]
        click.echo()
        show.table(("at", "reason", ""), rows, empty="")
