"""The `agentpool health` commands."""

import click

from agentpool.cli import plane, show


@click.group()
def health() -> None:
    """Look at the health of agents, and check it now."""


@health.command("ls")
@show.as_json
def ls(*, is_json: bool) -> None:
    """List agents with their last sign of life, and why they get no work."""
    with plane.client() as client:
        found = client.metrics_health()["results"]
    if is_json:
        show.json_value(found)
        return
    rows = [
        (
            each["agent_id"],
            each["status"],
            each["health"],
            show.duration(each["heartbeat_age_s"]),
            "; ".join(each["reasons"]),
        )
        for each in found
    ]
    columns = ("agent", "status", "health", "heartbeat", "why it gets no work")
    show.table(columns, rows, empty="There are no agents.")


@health.command(epilog=show.examples("agentpool health check --json"))
@show.as_json
def check(*, is_json: bool) -> None:
    """Judge the silence of all agents now, instead of within the next 30 s."""
    with plane.client() as client:
        counts = client.check_health()
    show.json_value(counts) if is_json else show.pairs(counts)
