"""The `agentpool profiles` commands: security profiles of the types of agents."""

from collections.abc import Sequence
from typing import Any

import click

from agentpool.cli import plane, show

_NETWORK = click.Choice(["none", "test_only", "limited", "full"])
_FILES = click.Choice(["read_only", "read_write_tests", "read_write_source", "full"])


@click.group()
def profiles() -> None:
    """Look at security profiles and change them."""


@profiles.command("ls")
@show.as_json
def ls(*, is_json: bool) -> None:
    """List the profiles."""
    with plane.client() as client:
        found = client.profiles()["results"]
    if is_json:
        show.json_value(found)
        return
    rows = [
        (
            each["agent_type"],
            each["network_access"],
            each["file_access"],
            each["resource_limits"]["memory_mb"],
            each["resource_limits"]["cpu_cores"],
            each["allowed_tools"],
            each["version"],
        )
        for each in found
    ]
    columns = ("type", "network", "files", "memory_mb", "cpu_cores", "tools", "version")
    show.table(columns, rows, empty="There are no profiles.")


@profiles.command("show")
@click.argument("agent_type")
@show.as_json
def show_profile(*, agent_type: str, is_json: bool) -> None:
    """Show the profile of a type."""
    with plane.client() as client:
        found = client.profile(agent_type)
    show.json_value(found) if is_json else show.pairs(found)


@profiles.command(
    epilog=show.examples(
        "agentpool profiles edit code --network limited --memory-mb 4096",
        "agentpool profiles edit qa --tool git --tool test_execution",
        "agentpool profiles edit qa --host docs.example.org --writable 'docs/**'",
    )
)
@click.argument("agent_type")
@click.option("--network", "network_access", type=_NETWORK, help="What the work may reach.")
@click.option("--files", "file_access", type=_FILES, help="What the work may write.")
@click.option("--memory-mb", type=click.IntRange(1), help="Ceiling of every grant.")
@click.option("--cpu-cores", type=show.NUMBER, help="Ceiling of every grant.")
@click.option("--tool", "tools", multiple=True, help="Repeatable; all tools that may be used.")
@click.option("--host", "hosts", multiple=True, help="Repeatable; all hosts of --network limited.")
@click.option("--writable", multiple=True, help="Repeatable; all globs beyond those of --files.")
@click.option(
    "--quarantine-after", type=click.IntRange(1), help="Refusals that quarantine the agent."
)
@show.as_json
def edit(
    *,
    agent_type: str,
    tools: Sequence[str],
    hosts: Sequence[str],
    writable: Sequence[str],
    is_json: bool,
    **options: Any,
) -> None:
    """Change a profile; its version rises. What is not named stays; a list is given whole."""
    changes = {name: value for name, value in options.items() if value is not None}
    lists = {"allowed_tools": tools, "allowed_hosts": hosts, "writable": writable}
    changes |= {name: list(words) for name, words in lists.items() if words}
    if not changes:
        raise click.UsageError("Name what changes, such as --network.")
    with plane.client() as client:
        found = client.change_profile(agent_type, changes=changes)
    show.json_value(found) if is_json else show.pairs(found)
