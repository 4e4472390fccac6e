"""The command `policy` of a group whose policies are a mode and numbers, one a pool."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from agentpool.cli import plane, show


def add_to(
    group: click.Group,
    *,
    example: str,
    read: Callable[[Any], Sequence[Mapping[str, Any]]],
    change: Callable[[Any, Mapping[str, Any]], Mapping[str, Any]],
) -> None:
    """
    Give a group the command.

    example: options that change a policy. read, change: called with the client; `change` takes
    `agent_type`, and of `mode` and `settings` what is said; a setting of None is the usual again.
    """
    called = f"agentpool {group.name} policy"

    @group.command(
        "policy",
        epilog=show.examples(called, f"{called} code --mode auto", f"{called} code {example}"),
    )
    @click.argument("agent_type", required=False)
    @click.option("--mode", type=click.Choice(["off", "recommend", "auto"]), help="If it acts.")
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
            raise click.UsageError(f"Say whose policy: {called} TYPE --mode auto")
        with plane.client() as client:
            if given:
                found = [change(client, {"agent_type": agent_type, **given})]
            else:
                found = list(read(client))
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
