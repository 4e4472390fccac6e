"""The `agentpool scale` command."""

import click

from agentpool.cli import plane, show

_ACTIONS = {"up": "scale_up", "down": "scale_down", "set": "set"}


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
