"""The `agentpool requests` commands."""

from collections.abc import Mapping, Sequence
from typing import Any

import click

from agentpool.cli import acts, plane, show


@click.group()
def requests() -> None:
    """Look at requests; ask why they wait; cancel them."""


@requests.command("ls", epilog=show.examples("agentpool requests ls --status waiting --type code"))
@click.option("--status", help="Only this status, such as waiting.")
@click.option("--project", help="Only this project.")
@click.option("--type", "agent_type", help="Only requests for this type of agent.")
@click.option("--cycle", "cycle_id", help="Only this cycle.")
@show.limit
@show.as_json
def ls(*, is_json: bool, **only: Any) -> None:
    """List requests."""
    with plane.client() as client:
        page = client.requests(**{key: value for key, value in only.items() if value is not None})
    if is_json:
        show.json_value([each.raw for each in page.items])
        return
    rows = [
        (
            each.id,
            each.agent_type,
            each.project,
            each.cycle_id,
            each.phase,
            each.status,
            each.outcome or each.reason,
            show.duration(each.waited_s),
            show.age(each.created_at),
        )
        for each in page.items
    ]
    columns = ("id", "type", "project", "cycle", "phase", "status", "reason", "waited", "age")
    show.table(columns, rows, empty="There are no such requests.")


@requests.command("show")
@click.argument("request_id")
@show.as_json
def show_request(*, request_id: str, is_json: bool) -> None:
    """Show one request."""
    with plane.client() as client:
        found = client.get_request(request_id)
    show.json_value(found.raw) if is_json else show.pairs(found.raw)


@requests.command(epilog=show.examples("agentpool requests explain 0197c1b2-..."))
@click.argument("request_id")
@show.as_json
def explain(*, request_id: str, is_json: bool) -> None:
    """Say why this agent was chosen, or why the request still waits."""
    with plane.client() as client:
        found = client.explain(request_id)
    if is_json:
        show.json_value(found)
        return
    _explained(found)


@requests.command(
    epilog=show.examples("agentpool requests priority 0197c1b2-... 90 --note 'release day'")
)
@click.argument("request_id")
@click.argument("priority", type=click.IntRange(0, 100))
@click.option("--note", default="", help="Why, for the record.")
def priority(*, request_id: str, priority: int, note: str) -> None:
    """Change the priority of a request that waits: 0 to 100, higher is served first."""
    with plane.client() as client:
        client.set_priority(request_id, priority=priority, note=note)
    click.echo(f"Request {request_id} has priority {priority}.")


@requests.command(epilog=show.examples("agentpool requests cancel 0197c1b2-... --note 'too late'"))
@click.argument("request_ids", nargs=-1, required=True, metavar="REQUEST_ID...")
@acts.note
@acts.yes
@show.as_json
def cancel(*, request_ids: Sequence[str], note: str, is_sure: bool, is_json: bool) -> None:
    """Cancel requests; a lease that one has ends too."""
    told = f"{acts.counted(len(request_ids), 'request')} will be cancelled, with the lease of each."
    acts.ask([told], is_sure=is_sure)
    with plane.client() as client:
        acts.each(
            request_ids,
            lambda name: client.cancel_request(name, reason=note),
            told=lambda name, done: f"Request {name} is cancelled.",
            is_json=is_json,
        )


def _explained(found: Mapping[str, Any]) -> None:
    show.pairs(
        {
            "status": found.get("status"),
            "reason": found.get("reason"),
            "position": found.get("position"),
            "expected wait": show.duration(found.get("expected_wait_s")),
            "chosen": (found.get("chosen") or {}).get("agent_id"),
            "runner-up": (found.get("runner_up") or {}).get("agent_id"),
            "nearest": _nearest(found.get("nearest") or {}),
        }
    )
    filters = found.get("filters") or ()
    most = sum(filters[0][key] for key in ("kept", "dropped")) if filters else 0
    rows = [
        (each["name"], show.bar(each["kept"] / most if most else 0), each["kept"], each["dropped"])
        for each in filters
    ]
    _below(("filter", "agents left", "kept", "dropped"), rows)
    candidates = found.get("candidates") or ()
    names = list(dict.fromkeys(name for each in candidates for name in each.get("parts") or {}))
    scored = [(each["agent_id"], each["score"], *_parts(each, names)) for each in candidates]
    _below(("agent", "score", *names), scored)
    timeline = [(each["at"][:19].replace("T", " "), each["reason"]) for each in found["timeline"]]
    _below(("at (UTC)", "what"), timeline)


def _below(columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        click.echo()
        show.table(columns, rows, empty="")


def _parts(candidate: Mapping[str, Any], names: list[str]) -> list[Any]:
    return [(candidate.get("parts") or {}).get(name) for name in names]


def _nearest(nearest: Mapping[str, Any]) -> str:
    lacks = "; ".join(each["message"] for each in nearest.get("lacks", ()))
    return f"{nearest['agent']}: {lacks}" if nearest else ""
