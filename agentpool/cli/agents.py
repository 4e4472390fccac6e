"""The `agentpool agents` commands that look, and register; those that act are in agent_acts."""

import re
from typing import Any

import click

from agentpool.cli import plane, show
from agentpool.client import Agent, Client

_ROW_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@click.group()
def agents() -> None:
    """Look at agents and steer them."""


@agents.command(
    "ls",
    epilog=show.examples(
        "agentpool agents ls --type code --status idle", "agentpool agents ls --search bee --json"
    ),
)
@click.option("--type", "agent_type", help="Only agents of this type.")
@click.option("--status", help="Only this status, such as idle or busy.")
@click.option("--health", help="Only this health, such as good.")
@click.option("--project", help="Only agents that work for this project.")
@click.option("--capability", help="Only agents that have it.")
@click.option("--label", help="Only agents with this label, KEY=VALUE.")
@click.option("--search", help="Part of an id or a name.")
@click.option("--all", "is_all", is_flag=True, help="Also retired agents.")
@show.limit
@show.as_json
def ls(*, is_all: bool, is_json: bool, **only: Any) -> None:
    """List agents."""
    with plane.client() as client:
        page = client.agents(**{key: value for key, value in only.items() if value is not None})
    is_whole = is_all or only["status"] is not None
    found = [each for each in page.items if is_whole or each.status != "retired"]
    if is_json:
        show.json_value([each.raw for each in found])
        return
    columns = ("agent", "type", "status", "health", "slots", "projects", "heartbeat", "host")
    show.table(columns, map(_row, found), empty="There are no such agents.")
    if page.next:
        click.echo("There are more; use --limit or a filter.", err=True)


@agents.command("show")
@click.argument("agent_id")
@show.as_json
def show_agent(*, agent_id: str, is_json: bool) -> None:
    """Show one agent, by its external id or its row id."""
    with plane.client() as client:
        found = find(client, agent_id)
    show.json_value(found.raw) if is_json else show.pairs(found.raw)


@agents.command(epilog=show.examples("agentpool agents register bee-1 --type qa --slots 2"))
@click.argument("agent_id")
@click.option("--type", "agent_type", required=True, help="The pool it belongs to.")
@click.option("--slots", type=click.IntRange(1), default=1, show_default=True)
@click.option("--capability", "capabilities", multiple=True, help="Repeatable.")
@click.option("--tool", "tools", multiple=True, help="Repeatable.")
@click.option("--endpoint", default="", help="Where orchestrators reach it.")
@show.as_json
def register(*, agent_id: str, agent_type: str, slots: int, is_json: bool, **about: Any) -> None:
    """
    Register an agent that speaks the API itself; prints its credential this once.

    Known agents get a new incarnation, which cuts off the old one.
    """
    with plane.client() as client:
        made = client.register_agent(
            agent_id=agent_id, agent_type=agent_type, max_concurrent=slots, **about
        )
    if is_json:
        show.json_value(made.raw)
        return
    click.echo(made.credential or "")
    click.echo(f"Credential of {agent_id}, incarnation {made.incarnation}; shown once.", err=True)


def find(client: Client, name: str) -> Agent:
    """Return an agent by its external id or its row id."""
    return client.agent_row(name) if _ROW_ID.fullmatch(name) else client.agent(name)


def _row(found: Agent) -> tuple[object, ...]:
    return (
        found.agent_id,
        found.agent_type,
        found.status,
        found.health,
        f"{found.active_leases}/{found.max_concurrent}",
        found.projects,
        show.duration(found.heartbeat_age_s),
        found.host,
    )
