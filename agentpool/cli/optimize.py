"""The `agentpool optimize` commands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from agentpool.cli import plane, pool_policies, show


@click.group()
def optimize() -> None:
    """See what is wrong with pools, what would help, and what came of what was done."""


@optimize.command(epilog=show.examples("agentpool optimize look", "agentpool optimize look code"))
@click.argument("agent_type", required=False)
@show.as_json
def look(*, agent_type: str | None, is_json: bool) -> None:
    """Look now: replay the last hour without and with what could be changed."""
    with plane.client() as client:
        done = client.optimize(agent_type=agent_type)
    if is_json:
        show.json_value(done)
        return
    _table(done["issues_identified"], empty="Nothing was found that would help.")
    for each in done["issues_identified"]:
        click.echo(f"{each['id']}: {each['will']}")


@optimize.command()
@click.argument("agent_type", required=False)
@click.option("--status", help="open, applied, judged, dismissed or withdrawn.")
@show.limit
@show.as_json
def history(*, agent_type: str | None, status: str | None, limit: int, is_json: bool) -> None:
    """List proposals, newest first, with what was expected and what came of them."""
    with plane.client() as client:
        found = client.optimize_history(agent_type=agent_type, status=status, limit=limit)
    if is_json:
        show.json_value(found["results"])
        return
    _table(found["results"], empty="Nothing has been proposed yet.")


@optimize.command(
    epilog=show.examples("agentpool optimize apply 0197c1b2-... --note 'before the release'")
)
@click.argument("proposal")
@click.option("--note", default="", help="Why; it stands in the history.")
@show.as_json
def apply(*, proposal: str, note: str, is_json: bool) -> None:
    """Carry out an open proposal; it is judged after a while."""
    with plane.client() as client:
        done = client.apply_optimization(proposal, note=note)
    if is_json:
        show.json_value(done)
        return
    click.echo(f"Applied: {done['verdict']}")


@optimize.command(epilog=show.examples("agentpool optimize dismiss 0197c1b2-..."))
@click.argument("proposal")
@click.option("--note", default="", help="Why; it stands in the history.")
@show.as_json
def dismiss(*, proposal: str, note: str, is_json: bool) -> None:
    """Close an open proposal; it is not made again for a day."""
    with plane.client() as client:
        done = client.dismiss_optimization(proposal, note=note)
    if is_json:
        show.json_value(done)
        return
    click.echo("Dismissed.")


pool_policies.add_to(
    optimize,
    example="--set wait_s=60 --unset busy_share",
    read=lambda client: client.optimize_policies()["results"],
    change=lambda client, policy: client.set_optimize_policy(policy=policy),
)


def _table(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    shown = [
        (
            datetime.fromisoformat(each["at"]).astimezone().strftime("%m-%d %H:%M:%S"),
            " ".join(filter(None, (each["agent_type"], each["subject"]))),
            each["issue"],
            each["action"],
            f"{each['metric']} {each['measured']:.4g} > {each['expected']:.4g}",
            each["status"],
            "; ".join(filter(None, (each["basis"], each["verdict"]))),
        )
        for each in rows
    ]
    heads = ("at", "of", "issue", "action", "expected", "is", "why")
    show.table(heads, shown, empty=empty)
