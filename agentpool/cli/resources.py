"""The commands about resources: `resources`, and `limits ls`, `limits set`, `limits rm`."""

from collections.abc import Mapping
from typing import Any

import click

from agentpool.cli import acts, plane, show

_LEVEL = click.Choice(["installation", "pool", "project"])
_AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")


@click.command()
@show.as_json
def resources(*, is_json: bool) -> None:
    """Show what the agents have, what leases reserve of it, and the limits on it."""
    with plane.client() as client:
        found = client.resources()
    if is_json:
        show.json_value(found)
        return
    rows = [_of_type(each["agent_type"], each) for each in found["by_type"]]
    columns = ("type", "agents", "leases", "slots", *_AMOUNTS)
    show.table(columns, [*rows, _of_type("all", found)], empty="")
    projects = [
        (each["project"], each["used"]["leases"], *(each["used"][name] for name in _AMOUNTS))
        for each in found["by_project"]
    ]
    if projects:
        click.echo()
        show.table(("project", "leases", *_AMOUNTS), projects, empty="")
    if found["limits"]:
        click.echo()
        _limits(found["limits"])


@click.group()
def limits() -> None:
    """Look at resource limits, set and remove them."""


@limits.command("ls")
@show.as_json
def ls(*, is_json: bool) -> None:
    """List the limits with what is used of each."""
    with plane.client() as client:
        found = client.resource_limits()["results"]
    show.json_value(found) if is_json else _limits(found)


@limits.command(
    "set",
    epilog=show.examples(
        "agentpool limits set project shop --memory-mb 65536 --max-memory-mb 8192",
        "agentpool limits set installation --token-budget 5000000",
        "agentpool limits rm project shop",
    ),
)
@click.argument("level", type=_LEVEL)
@click.argument("name", default="")
@click.option("--memory-mb", type=int, help="Of all leases together.")
@click.option("--cpu-cores", type=show.NUMBER, help="Of all leases together.")
@click.option("--token-budget", type=int, help="Of all leases together.")
@click.option("--disk-space-mb", type=int, help="Of all leases together.")
@click.option("--network-bandwidth-mbps", type=show.NUMBER, help="Of all leases together.")
@click.option("--max-memory-mb", type=int, help="Of one lease.")
@click.option("--max-cpu-cores", type=show.NUMBER, help="Of one lease.")
@click.option("--max-token-budget", type=int, help="Of one lease.")
@click.option("--max-disk-space-mb", type=int, help="Of one lease.")
@click.option("--min-memory-mb", type=int, help="Smaller asks are raised to it.")
@click.option("--min-cpu-cores", type=show.NUMBER, help="Smaller asks are raised to it.")
@click.option("--weight", type=show.NUMBER, help="A project's share while others wait (default 1).")
@show.as_json
def set_limit(*, is_json: bool, **fields: Any) -> None:
    """Set a limit as a whole: what is not named is not limited."""
    said = {name: value for name, value in fields.items() if value is not None}
    with plane.client() as client:
        found = client.set_resource_limits(limits=said)
    show.json_value(found) if is_json else _limits([found])


@limits.command(
    "rm", epilog=show.examples("agentpool limits rm project shop --note 'it has left' --yes")
)
@click.argument("level", type=_LEVEL)
@click.argument("name", default="")
@acts.note
@acts.yes
def remove(*, level: str, name: str, note: str, is_sure: bool) -> None:
    """Remove a limit: what it bounded is bounded no more."""
    with plane.client() as client:
        found = client.resource_limits()["results"]
        mine = [each for each in found if (each["level"], each["name"]) == (level, name)]
        if not mine:
            raise click.ClickException(f"there is no limit of {f'{level} {name}'.rstrip()}")
        used = ", ".join(_told(mine[0]))
        acts.ask(
            [
                f"The limit of {name or 'the installation'} will be removed; what it bounded is "
                "bounded no more, and whoever waits for it is served at once.",
                f"In use under it: {used or 'nothing'}.",
            ],
            is_sure=is_sure,
        )
        # The version that was shown: somebody may have changed it while the question stood.
        client.remove_resource_limit(mine[0]["id"], generation=mine[0]["generation"], reason=note)
    click.echo(f"The limit of {name or 'the installation'} is removed.")


def _told(limit: Mapping[str, Any]) -> list[str]:
    return [
        f"{name.removesuffix('_mb').replace('_', ' ')} {_used(limit, name)}"
        for name in _AMOUNTS
        if limit[name] is not None
    ]


def _of_type(name: str, found: Mapping[str, Any]) -> tuple[object, ...]:
    total, used = found["total"], found["used"]
    amounts = (f"{used[each]:g} of {total[each]:g}" for each in _AMOUNTS)
    return name, total["agents"], used["leases"], total["slots"], *amounts


def _limits(found: list[Mapping[str, Any]]) -> None:
    rows = [
        (
            each["level"],
            each["name"],
            show.bar(each["utilisation"] or 0, width=10),
            *(_used(each, name) for name in _AMOUNTS),
            " ".join(f"{key}={each[key]:g}" for key in _PER_LEASE if each[key] is not None),
            each["weight"],
        )
        for each in found
    ]
    columns = ("level", "name", "used", *_AMOUNTS, "of one lease", "weight")
    show.table(columns, rows, empty="There are no limits.")


_PER_LEASE = (*(f"max_{name}" for name in _AMOUNTS), "min_memory_mb", "min_cpu_cores")


def _used(limit: Mapping[str, Any], name: str) -> str:
    return "" if limit[name] is None else f"{limit['used'][name]:g} of {limit[name]:g}"
