"""The commands about learning: `learning show`, `learning agent`, `learning rebuild`."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from agentpool.cli import plane, show, simulation


@click.group()
def learning() -> None:
    """See what was learnt from outcomes, and how good predictions are; learn anew."""


@learning.command(
    "show", epilog=show.examples("agentpool learning show", "agentpool learning show code")
)
@click.argument("agent_type", required=False)
@click.option("--days", type=click.IntRange(1, 365), default=14, help="How far back errors count.")
@show.as_json
def show_pools(*, agent_type: str | None, days: int, is_json: bool) -> None:
    """Show how good predictions are in each pool; of one, what is usual and who is suspicious."""
    with plane.client() as client:
        found = client.learning(agent_type, days=days)
    if is_json:
        show.json_value(found)
        return
    rows = [_pool(each) for each in ([found] if agent_type else found["results"])]
    columns = ("type", "strategy", "leases", "success skill", "time skill", "8 of 10", "proposes")
    show.table(columns, rows, empty="There are no pools.")
    if agent_type:
        click.echo(f"\n{found['why']}\n")
        kinds = [_kind(each) for each in found["kinds"]]
        show.table(_KIND, kinds, empty="Nothing has been learnt yet.")
        click.echo()
        agents = [
            (each["agent_id"], each["health"], each["suspicion"], each["leases"], each["why"])
            for each in found["agents"]
        ]
        show.table(("agent", "health", "suspicion", "leases", "why"), agents, empty="")


@learning.command("agent", epilog=show.examples("agentpool learning agent code-7"))
@click.argument("agent_id")
@show.as_json
def show_agent(*, agent_id: str, is_json: bool) -> None:
    """Show what is expected of an agent at each kind of work, and how suspicious it is."""
    with plane.client() as client:
        found = client.agent_learning(agent_id)
    if is_json:
        show.json_value(found)
        return
    click.echo(f"suspicion {found['suspicion']:g} {found['why']}".rstrip() + "\n")
    rows = [_kind(each) for each in found["kinds"]]
    show.table(_KIND, rows, empty="Nothing has been learnt of it yet.")


@learning.command("rebuild", epilog=show.examples("agentpool learning rebuild"))
def rebuild() -> None:
    """Learn anew from all outcomes that are kept; on the server's machine (`manage.py relearn`)."""
    raise SystemExit(simulation.run_server_command("relearn", ()))


_KIND = ("kind of work", "succeeds", "8 of 10", "takes s", "8 of 10", "leases", "newest")


def _kind(each: Mapping[str, Any]) -> Sequence[Any]:
    return (
        each["story_type"] or "unnamed",
        f"{each['success']:.0%}",
        f"{each['success_low']:.0%} - {each['success_high']:.0%}",
        f"{each['seconds']:.0f}",
        f"{each['seconds_low']:.0f} - {each['seconds_high']:.0f}",
        each["leases"],
        each["learnt_at"],
    )


def _pool(each: Mapping[str, Any]) -> Sequence[Any]:
    found = each["calibration"]
    names = ("success_skill", "time_skill", "coverage")
    shares = ["-" if found[name] is None else f"{found[name]:z.0%}" for name in names]
    told = (each["agent_type"], each["strategy"], each["leases"])
    return (*told, *shares, each["proposes"] or "-")
