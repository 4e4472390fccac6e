"""The `agentpool pools` commands."""

from collections.abc import Callable, Mapping
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


_NEVER = "never"


def _degree(context: click.Context, option: click.Parameter, said: str | None) -> Any:
    """Return a degree of suspicion, or that none is enough."""
    return said if said in (None, _NEVER) else show.NUMBER.convert(said, option, context)


_LEVELS = click.Choice(["low", "standard", "high", "critical"])
_ISOLATION = click.Choice(["process", "container", "virtual_machine"])
_OPTIONS = (
    click.option("--description", help="What its agents are for."),
    click.option("--min-size", type=click.IntRange(0), help="Agents at least."),
    click.option("--max-size", type=click.IntRange(0), help="Agents at most."),
    click.option("--memory-mb", type=click.IntRange(1), help="Of a new agent, MB."),
    click.option("--cpu-cores", type=show.NUMBER, help="Of a new agent."),
    click.option("--token-budget", type=click.IntRange(0), help="Of a new agent."),
    click.option("--disk-space-mb", type=click.IntRange(0), help="Of a new agent, MB."),
    click.option("--slots", "max_concurrent", type=click.IntRange(1), help="Of a new agent."),
    click.option("--security-level", type=_LEVELS, help="Of a new agent."),
    click.option(
        "--isolation", "isolation_levels", type=_ISOLATION, multiple=True, help="Repeatable."
    ),
    click.option("--tool", "tools", multiple=True, help="Of a new agent; repeatable."),
    click.option("--capability", "capabilities", multiple=True, help="Repeatable."),
    click.option("--secret", "secrets", multiple=True, help="Names of secrets; repeatable."),
    click.option("--driver", help="Who starts agents: local, ray, or one that is installed."),
    click.option("--driver-resource", "driver_resources", multiple=True, help="gpu=1; repeatable."),
    click.option("--exec", "exec", help="The tool that works for the agents."),
    click.option("--strategy", help="How agents are chosen, such as workload_aware."),
    click.option("--affinity-half-life", "affinity_half_life_s", type=show.NUMBER, help="Seconds."),
    click.option("--share-half-life", "share_half_life_s", type=show.NUMBER, help="Seconds."),
    click.option("--reserve-after", "reserve_after_s", type=show.NUMBER, help="Seconds."),
    click.option("--max-bypass", type=click.IntRange(1), help="Grants to later requests."),
    click.option("--queue-limit", type=click.IntRange(1), help="Requests that may wait."),
    click.option("--project-queue-limit", type=click.IntRange(1), help="Of one project."),
    click.option("--suspicion-probation", callback=_degree, help="From so much on, or `never`."),
    click.option("--suspicion-quarantine", callback=_degree, help="From so much on, or `never`."),
    click.option("--quarantine", "quarantine_s", type=show.NUMBER, help="How long, seconds."),
)


def _fields(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of a pool."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    given = {name: value for name, value in options.items() if value not in (None, ())}
    told = {name: list(v) if isinstance(v, tuple) else v for name, v in given.items()}
    never = {name: None for name in told if name.startswith("suspicion_") and told[name] == _NEVER}
    return {**told, **never}


@pools.command(epilog=show.examples("agentpool pools create docs --memory-mb 2048 --max-size 10"))
@click.argument("agent_type")
@_fields
@show.as_json
def create(*, agent_type: str, is_json: bool, **options: Any) -> None:
    """Make a pool for a new type of agents."""
    with plane.client() as client:
        found = client.create_pool(agent_type=agent_type, settings=_said(options))
    show.json_value(found.raw) if is_json else show.pairs(found.raw)


@pools.command(
    "set",
    epilog=show.examples(
        "agentpool pools set code --strategy least_loaded",
        "agentpool pools edit code --memory-mb 4096 --slots 2   # the same command",
    ),
)
@click.argument("agent_type")
@_fields
@show.as_json
def set_pool(*, agent_type: str, is_json: bool, **options: Any) -> None:
    """Change a pool: how it places and queues work, and what a new agent of it would be."""
    changes = _said(options)
    if not changes:
        raise click.UsageError("Name what changes, such as --strategy.")
    with plane.client() as client:
        found = client.change_pool(agent_type, changes=changes)
    show.json_value(found.raw) if is_json else show.pairs(found.raw, skip=("template",))


pools.add_command(set_pool, "edit")


@pools.command(epilog=show.examples("agentpool pools enrol code --uses 3"))
@click.argument("agent_type")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="Agents.")
@click.option("--expires-in", "expires_in_s", type=show.NUMBER, help="Seconds (default: a day).")
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
