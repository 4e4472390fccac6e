"""The `agentpool scale` command, and the `agentpool scaling` commands."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import click

from agentpool.cli import acts, plane, show

_ACTIONS = {"up": "scale_up", "down": "scale_down", "set": "set"}
_RULES = ("predictive", "warm", "queue", "utilization", "classic", "schedule", "static")


@click.command(
    epilog=show.examples(
        'agentpool scale code up 3 --reason "release day"', "agentpool scale code set 0"
    )
)
@click.argument("agent_type")
@click.argument("action", type=click.Choice(list(_ACTIONS)))
@click.argument("count", type=click.IntRange(0))
@click.option("--reason", default="", help="Why; kept with the decision.")
@show.as_json
def scale(*, agent_type: str, action: str, count: int, reason: str, is_json: bool) -> None:
    """Start or stop agents of a type: `up N` more, `down N` fewer, or `set N`."""
    with plane.client() as client:
        done = client.scale(
            agent_type=agent_type, action=_ACTIONS[action], count=count, reason=reason
        )
    show.json_value(done) if is_json else show.pairs(done)


@click.group()
def scaling() -> None:
    """See how many agents there should be, and why; let it happen by itself."""


@scaling.command("show")
@click.argument("agent_type", required=False)
@show.as_json
def show_now(*, agent_type: str | None, is_json: bool) -> None:
    """
    Show what would be done now about each type, or one.

    Hits: of the agents that were missing in the last day, the share that was woken from standby.
    """
    with plane.client() as client:
        found = client.scaling_recommendation(agent_type=agent_type)
    if is_json:
        show.json_value(found["results"])
        return
    columns = ("type", "mode", "rule", "now", "target", "standby", "hits", "why")
    names = ("agent_type", "mode", "rule", "current_size", "target_size")
    rows = [
        [*(each[name] for name in names), *_standby(each["standby"]), _why(each)]
        for each in found["results"]
    ]
    show.table(columns, rows, empty="There are no pools.")
    for name, why in found.get("faults", {}).items():
        click.echo(f"{name} is not decided about, its policy does not do: {why}", err=True)


def _standby(found: Mapping[str, Any]) -> tuple[str, str]:
    """Return how many are on standby of how many wanted, and how often that has helped."""
    if not (found["now"] or found["wanted"] or found["hits"]):
        return "", ""
    share, needed = found["hit_share"], found["hits"] + found["misses"]
    hits = "" if share is None else f"{share:.0%} of {needed}"
    return f"{found['now']} of {found['wanted']}", hits


def _why(decision: Mapping[str, Any]) -> str:
    bounds = f"; then {', '.join(decision['bounds'])}" if decision["bounds"] else ""
    return f"{decision['reason']}{bounds}"


# -- the policy ------------------------------------------------------------------------------------


@scaling.command(
    epilog=show.examples(
        "agentpool scaling policy code",
        "agentpool scaling policy code --rule warm --set k=3 --mode auto",
        "agentpool scaling policy code --unset k",
    )
)
@click.argument("agent_type")
@click.option("--rule", type=click.Choice(_RULES), help="How the size is found.")
@click.option("--mode", type=click.Choice(["off", "recommend", "auto"]), help="Whether it acts.")
@click.option("--set", "set_", multiple=True, metavar="NAME=VALUE", help="Repeatable.")
@click.option("--unset", multiple=True, metavar="NAME", help="Back to the usual; repeatable.")
@show.as_json
def policy(
    *,
    agent_type: str,
    rule: str | None,
    mode: str | None,
    set_: Sequence[str],
    unset: Sequence[str],
    is_json: bool,
) -> None:
    """Show a type's policy, or change it; it is judged as a whole."""
    settings = {**_settings(set_), **dict.fromkeys(unset)}
    changes = {"rule": rule, "mode": mode, "settings": settings or None}
    given = {name: value for name, value in changes.items() if value is not None}
    with plane.client() as client:
        if given:
            found = client.set_scaling_policy(policy={"agent_type": agent_type, **given})
        else:
            found = _policy_of(client.scaling_policies(), agent_type)
    if is_json:
        show.json_value(found)
        return
    show.pairs(found, skip=("pool", "effective", "settings"))
    click.echo()
    own, holds = found["settings"], found["effective"]
    rows = [[name, holds[name], "set here" if name in own else ""] for name in sorted(holds)]
    show.table(("setting", "value", ""), rows, empty="")


def _settings(said: Sequence[str]) -> dict[str, Any]:
    """Return `name=value` pairs as the interface has them: numbers, lists of windows, words."""
    found: dict[str, Any] = {}
    for each in said:
        name, is_given, text = each.partition("=")
        if not is_given or not name:
            raise click.BadParameter(f"{each!r}: write it as NAME=VALUE", param_hint="--set")
        found[name] = _value(name, text)
    return found


def _value(name: str, text: str) -> Any:
    if name == "schedule":
        return [part for part in text.split(";") if part]
    try:
        number = float(text)
    except ValueError:
        return text
    return int(number) if number.is_integer() else number


def _policy_of(found: Mapping[str, Any], agent_type: str) -> Mapping[str, Any]:
    for each in found["results"]:
        if each["agent_type"] == agent_type:
            return dict(each)
    raise click.ClickException(f"there is no pool {agent_type}")


# -- start and stop --------------------------------------------------------------------------------


@scaling.command(epilog=show.examples("agentpool scaling start code"))
@click.argument("agent_type", required=False)
@acts.yes
@show.as_json
def start(*, agent_type: str | None, is_sure: bool, is_json: bool) -> None:
    """Let one type, or all, be scaled by itself (or recommend, if it did before the stop)."""
    with plane.client() as client:
        if acts.is_asked(is_sure):
            looks = client.scaling_recommendation(agent_type=agent_type)["results"]
            told = [f"{each['agent_type']} has {each['current_size']} agents." for each in looks]
            acts.ask([*told, "From now on agents start and drain by themselves."], is_sure=is_sure)
        found = client.start_scaling(agent_type=agent_type)
    _modes(found, is_json=is_json)


@scaling.command(epilog=show.examples("agentpool scaling stop code --yes"))
@click.argument("agent_type", required=False)
@acts.yes
@show.as_json
def stop(*, agent_type: str | None, is_sure: bool, is_json: bool) -> None:
    """Decide nothing more about one type, or all; their agents stay."""
    which = agent_type or "All types"
    acts.ask([f"{which}: nothing is decided any more; agents stay as they are."], is_sure=is_sure)
    with plane.client() as client:
        found = client.stop_scaling(agent_type=agent_type)
    _modes(found, is_json=is_json)


def _modes(found: Mapping[str, Any], *, is_json: bool) -> None:
    if is_json:
        show.json_value(found["results"])
        return
    rows = [[each["agent_type"], each["mode"]] for each in found["results"]]
    show.table(("type", "mode"), rows, empty="There are no pools.")


# -- announced work, decisions, history ------------------------------------------------------------


def moment(context: click.Context, option: click.Parameter, said: str) -> datetime:
    """Return a time as people write it, `+30m` from now or ISO-8601; raises BadParameter."""
    if found := re.fullmatch(r"\+\s*(\d{1,6})\s*([smhd]?)", said.strip()):
        span_s = acts.seconds(context, option, f"{found[1]}{found[2]}") or 0.0
        return datetime.now(UTC) + timedelta(seconds=span_s)
    try:
        at = datetime.fromisoformat(said.strip())
    except ValueError as error:
        raise click.BadParameter(f"{said!r} is no time such as +30m or an ISO-8601 one") from error
    return at if at.tzinfo else at.astimezone()


@scaling.command(
    epilog=show.examples(
        "agentpool scaling announce code --at +30m --count 40 --name nightly",
        "agentpool scaling announce qa --at 2030-01-01T06:00:00Z --count 200 --spread 600",
    )
)
@click.argument("agent_type")
@click.option("--at", required=True, callback=moment, metavar="TIME", help="+30m or ISO-8601.")
@click.option("--count", required=True, type=click.IntRange(1), help="Requests.")
@click.option(
    "--spread",
    "spread_s",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="Seconds.",
)
@click.option("--name", default="", help="What it is.")
@show.as_json
def announce(
    *, agent_type: str, at: datetime, count: int, spread_s: float, name: str, is_json: bool
) -> None:
    """Say that work will come, so that agents are there when it does."""
    event = {"agent_type": agent_type, "at": at.isoformat(), "count": count}
    with plane.client() as client:
        made = client.announce_work(event={**event, "spread_s": spread_s, "name": name})
    show.json_value(made) if is_json else show.pairs(made)


@scaling.command()
@click.argument("agent_type", required=False)
@show.limit
@show.as_json
def decisions(*, agent_type: str | None, limit: int, is_json: bool) -> None:
    """List what was decided, newest first, and why."""
    with plane.client() as client:
        found = client.scaling_decisions(agent_type=agent_type, limit=limit)
    if is_json:
        show.json_value(found["results"])
        return
    rows = [_decision(each) for each in found["results"]]
    columns = ("at", "type", "rule", "mode", "now", "target", "done", "why")
    show.table(columns, rows, empty="Nothing has been decided yet.")


def _decision(each: Mapping[str, Any]) -> list[object]:
    names = ("agent_type", "rule", "mode", "current_size", "target_size", "is_carried_out")
    why = f"{_why(each)}; not done: {each['error']}" if each["error"] else _why(each)
    return [_when(each["at"]), *(each[name] for name in names), why]


@scaling.command()
@click.argument("agent_type", required=False)
@show.limit
@show.as_json
def history(*, agent_type: str | None, limit: int, is_json: bool) -> None:
    """List the changes of size, newest first."""
    with plane.client() as client:
        found = client.scaling_history(agent_type=agent_type, limit=limit)
    if is_json:
        show.json_value(found["results"])
        return
    names = ("agent_type", "action", "current_size", "target_size", "woken", "actor", "reason")
    rows = [[_when(each["at"]), *(each[name] for name in names)] for each in found["results"]]
    columns = ("at", "type", "action", "from", "to", "woken", "by", "why")
    show.table(columns, rows, empty="No pool has been grown or shrunk yet.")


def _when(text: str) -> str:
    return datetime.fromisoformat(text).astimezone().strftime("%m-%d %H:%M:%S")
