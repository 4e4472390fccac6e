"""The `agentpool events` command."""

import json
from itertools import islice

import click

from agentpool.cli import show
from agentpool.client import Client, Event

# How many events are shown when it is not said where to begin.
_LATEST = 50


@click.command(
    epilog=show.examples("agentpool events --follow", "agentpool events --after 1200 --json")
)
@click.option("--follow", "-f", is_flag=True, help="Go on as things happen.")
@click.option("--after", type=int, help="Only events after this sequence number.")
@click.option("--limit", type=click.IntRange(1), help="Stop after so many.")
@click.option("--json", "is_json", is_flag=True, help="Print one JSON object per line.")
def events(*, follow: bool, after: int | None, limit: int | None, is_json: bool) -> None:
    """Print what happens in the pool, in order: the latest 50, or from now on with --follow."""
    with Client(patience_s=120) as client:
        if after is None and not follow:
            after = max(0, client.event_page().next - (limit or _LATEST))
        for event in islice(client.events(after=after, follow=follow), limit):
            click.echo(json.dumps(event.raw, default=str) if is_json else _line(event))


def _line(event: Event) -> str:
    at = event.at.strftime("%H:%M:%S") if event.at else ""
    facts = {
        "agent": event.agent_id,
        "type": event.agent_type,
        "project": event.project,
        "request": event.request_id,
        "lease": event.lease_id,
        "by": event.actor,
        **event.detail,
    }
    said = " ".join(f"{key}={_plain(value)}" for key, value in facts.items() if value)
    return f"{event.seq:>8} {at} {event.kind:<24} {said}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
