"""The `agentpool agents` commands that act on many at once: drain, pause, retire and others."""

from collections.abc import Callable, Sequence
from typing import Any

import click

from agentpool.cli import acts, plane, show
from agentpool.cli.agents import agents, find
from agentpool.client import Agent, Client

_ids = click.argument("agent_ids", nargs=-1, required=True, metavar="AGENT_ID...")


@agents.command(
    epilog=show.examples(
        "agentpool agents drain bee-1 bee-2 --note 'kernel update' --deadline 30m",
        "agentpool agents ls --json | jq -r '.[].agent_id' | xargs agentpool agents drain --yes",
    )
)
@_ids
@click.option(
    "--deadline",
    "deadline_s",
    metavar="SPAN",
    callback=acts.seconds,
    help="What still runs then is cancelled, such as 90s, 30m, 2h; else nothing is.",
)
@acts.note
@acts.yes
@show.as_json
def drain(
    *,
    agent_ids: Sequence[str],
    deadline_s: float | None,
    note: str,
    is_sure: bool,
    is_json: bool,
) -> None:
    """Give agents no new work; what runs goes on, to its end or the deadline."""
    what = "will take no new work"
    if deadline_s is not None:
        what += f", and lose what still runs in {show.duration(deadline_s)}"

    def act(name: str) -> Agent:
        return client.set_status(name, status="draining", reason=note, deadline_s=deadline_s)

    with plane.client() as client:
        _each(_ask(client, agent_ids, what, is_sure=is_sure), act, is_json)


@agents.command(epilog=show.examples("agentpool agents resume bee-1 bee-2"))
@_ids
@acts.note
@show.as_json
def resume(*, agent_ids: Sequence[str], note: str, is_json: bool) -> None:
    """Take back drain, pause or quarantine."""
    with plane.client() as client:
        _each(agent_ids, lambda name: _resumed(client, name, note), is_json)


def _resumed(client: Client, name: str, note: str) -> Agent:
    found = client.agent(name)
    if found.health in ("maintenance", "quarantined"):
        found = client.set_health(name, health="good", note=note)
    if found.status in ("draining", "standby"):
        found = client.set_status(name, status="idle", reason=note)
    return found


@agents.command(
    epilog=show.examples("agentpool agents pause bee-1 --note reboot --until 2030-01-01T06:00:00Z")
)
@_ids
@acts.note
@acts.until
@acts.yes
@show.as_json
def pause(
    *, agent_ids: Sequence[str], note: str, until: str | None, is_sure: bool, is_json: bool
) -> None:
    """Set agents to maintenance: running leases go on, no new ones come."""
    with plane.client() as client:
        names = _ask(client, agent_ids, "will be in maintenance", is_sure=is_sure)
        _each(names, _judge(client, "maintenance", note, until), is_json)


@agents.command(epilog=show.examples("agentpool agents quarantine bee-1 --note 'writes garbage'"))
@_ids
@acts.note
@acts.until
@acts.yes
@show.as_json
def quarantine(
    *, agent_ids: Sequence[str], note: str, until: str | None, is_sure: bool, is_json: bool
) -> None:
    """Take agents that do harm out of service; running leases go on."""
    with plane.client() as client:
        names = _ask(client, agent_ids, "will be quarantined", is_sure=is_sure)
        _each(names, _judge(client, "quarantined", note, until), is_json)


@agents.command(epilog=show.examples("agentpool agents good bee-1 --note 'it was the network'"))
@_ids
@acts.note
@show.as_json
def good(*, agent_ids: Sequence[str], note: str, is_json: bool) -> None:
    """Judge agents good again, after a pause or a quarantine."""
    with plane.client() as client:
        _each(agent_ids, _judge(client, "good", note, None), is_json)


@agents.command(
    epilog=show.examples("agentpool agents retire bee-1", "agentpool agents retire bee-1 --force")
)
@_ids
@click.option("--force", is_flag=True, help="Cancel their leases first.")
@acts.note
@acts.yes
@show.as_json
def retire(
    *, agent_ids: Sequence[str], force: bool, note: str, is_sure: bool, is_json: bool
) -> None:
    """Retire agents: at once when they hold no lease, else after draining."""
    with plane.client() as client:
        what = "will be retired; they can only come back by registering again"
        names = _ask(client, agent_ids, what, is_sure=is_sure, ends=force)

        def act(name: str) -> dict[str, Any]:
            found = find(client, name)
            answer = client.retire_agent(found.id, force=force, reason=note)
            return {"agent_id": found.agent_id, "status": "draining" if answer else "retired"}

        acts.each(names, act, told=_told_retired, is_json=is_json)


def _told_retired(name: str, done: dict[str, Any]) -> str:
    word = "draining, then retired" if done["status"] == "draining" else "retired"
    return f"{done['agent_id']} is {word}."


@agents.command(epilog=show.examples("agentpool agents rotate bee-1 --note 'the key leaked'"))
@_ids
@acts.note
@acts.yes
@show.as_json
def rotate(*, agent_ids: Sequence[str], note: str, is_sure: bool, is_json: bool) -> None:
    """Make agents' credentials anew; printed this once, the old ones are void at once."""
    what = "will get a new credential; the old one is void at once"
    with plane.client() as client:
        names = _ask(client, agent_ids, what, is_sure=is_sure)
        acts.each(
            names,
            lambda name: client.rotate_credential(name, note=note),
            told=lambda name, made: f"{name} {made['credential']}",
            is_json=is_json,
        )


@agents.command(
    epilog=show.examples(
        "agentpool agents release bee-1 --note 'hung'",
        "agentpool agents release bee-1 --project shop --outcome failure",
    )
)
@_ids
@click.option("--project", help="Only the leases of this project.")
@click.option(
    "--outcome",
    type=click.Choice(["success", "failure", "timeout", "cancelled"]),
    default="cancelled",
    show_default=True,
)
@acts.note
@acts.yes
@show.as_json
def release(
    *,
    agent_ids: Sequence[str],
    project: str | None,
    outcome: str,
    note: str,
    is_sure: bool,
    is_json: bool,
) -> None:
    """End all leases of agents; they stay and take other work."""
    with plane.client() as client:
        names = _ask(
            client, agent_ids, f"lose their leases ({outcome})", is_sure=is_sure, ends=True
        )
        acts.each(
            names,
            lambda name: client.release_agent(
                name, project=project, outcome=outcome, error=note or None
            ),
            told=lambda name, done: (
                f"{name}: {acts.counted(len(done['released']), 'lease')} ended."
            ),
            is_json=is_json,
        )


# -- shared ----------------------------------------------------------------------------------------


def _judge(client: Client, health: str, note: str, until: str | None) -> Callable[[str], Agent]:
    return lambda name: client.set_health(name, health=health, note=note, until=until)


def _each(names: Sequence[str], act: Callable[[str], Agent], is_json: bool) -> None:
    acts.each(names, act, told=_told, is_json=is_json)


def _told(name: str, found: Agent) -> str:
    return f"{found.agent_id} is {found.status}, health {found.health}."


def _ask(
    client: Client, names: Sequence[str], what: str, *, is_sure: bool, ends: bool = False
) -> Sequence[str]:
    """Tell a person at a terminal what will happen, in numbers, and ask; return the names."""
    if acts.is_asked(is_sure):
        rows = _found(client, names)
        acts.ask(_told_before(rows.values(), what, ends=ends), is_sure=is_sure)
    return names


def _found(client: Client, names: Sequence[str]) -> dict[str, Agent]:
    return {name: find(client, name) for name in names}


def _told_before(rows: Any, what: str, *, ends: bool) -> list[str]:
    found = list(rows)
    held = sum(int(row.raw.get("active_leases", 0)) for row in found)
    fate = "end at once" if ends else "go on to their end"
    return [
        f"{acts.counted(len(found), 'agent')} {what}: {', '.join(row.agent_id for row in found)}.",
        f"They hold {acts.counted(held, 'lease')}" + (f", which {fate}." if held else "."),
    ]
