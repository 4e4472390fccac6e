"""The `agentpool rebalance` commands."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import click

from agentpool.cli import plane, show

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


@rebalance.command(
    epilog=show.examples(
        "agentpool rebalance policy",
        "agentpool rebalance policy code --mode auto",
        "agentpool rebalance policy code --set hold_s=30 --unset rest_s",
    )
)
@click.argument("agent_type", required=False)
@click.option("--mode", type=click.Choice(["off", "recommend", "auto"]), help="Whether it acts.")
@click.option("--set", "set_", multiple=True, metavar="NAME=NUMBER", help="Repeatable.")
@click.option("--unset", multiple=True, metavar="NAME", help="Back to the usual; repeatable.")
@show.as_json
def policy(
    *,
    agent_type: str | None,
    mode: str | None,
    set_: Sequence[str],
    unset: Sequence[str],
    is_json: bool,
) -> None:
    """Show the policies, or change that of a type."""
    settings: dict[str, float | None] = dict.fromkeys(unset)
    settings |= dict(map(_setting, set_))
    changes: dict[str, Any] = {"mode": mode, "settings": settings or None}
    given = {name: value for name, value in changes.items() if value is not None}
    if given and agent_type is None:
        raise click.UsageError("Say whose policy: agentpool rebalance policy TYPE --mode auto")
    with plane.client() as client:
        if given:
            found = [client.set_rebalance_policy(policy={"agent_type": agent_type, **given})]
        else:
            found = client.rebalance_policies()["results"]
    if is_json:
        show.json_value(found)
        return
    rows = [
        (each["agent_type"], each["mode"], _told(each["settings"]))
        for each in found
        if agent_type in (None, each["agent_type"])
    ]
    show.table(("type", "mode", "set here"), rows, empty="There are no pools.")


def _setting(text: str) -> tuple[str, float]:
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: write it as NAME=NUMBER") from error


def _told(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in sorted(settings.items()))


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
