"""The `agentpool rebalance` commands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from agentpool.cli import plane, pool_policies, show

_UNITS = {"memory_mb": "MB", "cpu_cores": "cores"}


@click.group()
def rebalance() -> None:
    """Fit what running leases hold to what they use of it."""


@rebalance.command(
    epilog=show.examples("agentpool rebalance run --dry-run", "agentpool rebalance run code")
)
@click.argument("agent_type", required=False)
@click.option("--dry-run", is_flag=True, help="Only tell what would change.")
@show.as_json
def run(*, agent_type: str | None, dry_run: bool, is_json: bool) -> None:
    """Change grants now; the runtime must agree to each, and it is undone if it does harm."""
    with plane.client() as client:
        done = client.rebalance(dry_run=dry_run, agent_type=agent_type)
    if is_json:
        show.json_value(done)
        return
    _table(done["opportunities"], empty=done["reason"])
    if done["opportunities"]:
        freed = done["total_resources_freed"]
        word = "would come free" if dry_run else "come free"
        click.echo(f"{freed['memory_mb']:g} MB and {freed['cpu_cores']:g} cores {word}.")


@rebalance.command()
@click.argument("agent_type", required=False)
@click.option("--status", help="proposed, asked, applied, kept, undone, refused, ...")
@show.limit
@show.as_json
def history(*, agent_type: str | None, status: str | None, limit: int, is_json: bool) -> None:
    """List changes of grants, newest first, with what became of them."""
    with plane.client() as client:
        found = client.rebalance_history(agent_type=agent_type, status=status, limit=limit)
    if is_json:
        show.json_value(found["results"])
        return
    _table(found["results"], empty="Nothing has been proposed or changed yet.")


pool_policies.add_to(
    rebalance,
    example="--set hold_s=30 --unset rest_s",
    read=lambda client: client.rebalance_policies()["results"],
    change=lambda client, policy: client.set_rebalance_policy(policy=policy),
)


def _table(rows: Sequence[Mapping[str, Any]], *, empty: str) -> None:
    shown = [
        (
            datetime.fromisoformat(each["at"]).astimezone().strftime("%m-%d %H:%M:%S"),
            each["agent_type"],
            each["agent_id"],
            f"{each['current_allocation']:g} > {each['suggested_allocation']:g}"
            f" {_UNITS[each['resource']]}",
            each["status"],
            "; ".join(filter(None, (each["reason"], each["bound"], each["verdict"]))),
        )
        for each in rows
    ]
    show.table(("at", "type", "agent", "change", "is", "why"), shown, empty=empty)
