"""The `agentpool pools` commands."""

from collections.abc import Mapping
from typing import Any

import click

from agentpool.cli import plane, show


@click.group()
def pools() -> None:
    """Look at pools and set their policy; let agents enrol."""


@pools.command("ls")
@show.as_json
def ls(*, is_json: bool) -> None:
    """List the pools."""
    with plane.client() as client:
        page = client.pools()
        summary = client.metrics_summary()
    if is_json:
        show.json_value([each.raw for each in page.items])
        return
    now = {each.get("agent_type"): each for each in summary.get("pools", ())}
    rows = [_row({**each.raw, **now.get(each.agent_type, {})}) for each in page.items]
    columns = ("type", "agents", "slots", "used", "waiting", "min", "max", "about")
    show.table(columns, rows, empty="There are no pools.")


@pools.command("show")
@click.argument("agent_type")
@show.as_json
def show_pool(*, agent_type: str, is_json: bool) -> None:
    """Show the settings of a pool."""
    with plane.client() as client:
        found = client.pool(agent_type)
    show.json_value(found.raw) if is_json else show.pairs(found.raw)


@pools.command("set", epilog=show.examples("agentpool pools set code --strategy least_loaded"))
@click.argument("agent_type")
@click.option("--strategy", help="How agents are chosen, such as workload_aware.")
@click.option("--affinity-half-life", "affinity_half_life_s", type=float, help="Seconds.")
@click.option("--share-half-life", "share_half_life_s", type=float, help="Seconds.")
@click.option("--reserve-after", "reserve_after_s", type=float, help="Seconds.")
@click.option("--max-bypass", type=click.IntRange(1), help="Grants to later requests.")
@click.option("--queue-limit", type=click.IntRange(1), help="Requests that may wait.")
@click.option("--project-queue-limit", type=click.IntRange(1), help="Of one project.")
@click.option("--min-size", type=click.IntRange(0), help="Agents.")
@click.option("--max-size", type=click.IntRange(0), help="Agents.")
@show.as_json
def set_pool(*, agent_type: str, is_json: bool, **options: Any) -> None:
    """Change how a pool places and queues work; it holds from the next claim on."""
    changes = {name: value for name, value in options.items() if value is not None}
    if not changes:
        raise click.UsageError("Name what changes, such as --strategy.")
    with plane.client() as client:
        found = client.change_pool(agent_type, changes=changes)
    show.json_value(found.raw) if is_json else show.pairs(found.raw, skip=("template",))


@pools.command(epilog=show.examples("agentpool pools enrol code --uses 3"))
@click.argument("agent_type")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="Agents.")
@click.option("--expires-in", "expires_in_s", type=float, help="Seconds (default: a day).")
@show.as_json
def enrol(*, agent_type: str, uses: int, expires_in_s: float | None, is_json: bool) -> None:
    """Make a token with which agents of a type may enrol."""
    with plane.client() as client:
        made = client.enrolment_token(agent_type, uses=uses, expires_in_s=expires_in_s)
        url = client.settings.url
    if is_json:
        show.json_value(made.raw)
        return
    click.echo(made.token or "")
    click.echo(
        f"Shown this once, for {uses} agent{'s' if uses > 1 else ''}. On the agent's machine:\n"
        f"  export AGENTPOOL_URL={url} AGENTPOOL_ENROLMENT_TOKEN=...\n"
        f"  agentpool agent run --pool {agent_type}",
        err=True,
    )


def _row(found: Mapping[str, Any]) -> list[object]:
    names = ("agent_type", "total_agents", "slots", "slots_used", "queue_depth", "min_size")
    return [found.get(name) for name in (*names, "max_size", "description")]
