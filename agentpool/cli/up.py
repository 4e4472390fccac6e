"""The `agentpool up` command: run one installation in the foreground."""

import importlib.util

import click

from agentpool.cli import show
from agentpool.host import up as installation
from agentpool.host.installation import HostError
from agentpool.host.probes import DEFAULT_BIND, DEFAULT_PORT


@click.command(
    epilog=show.examples(
        "agentpool up",
        "agentpool up --port 8601 --bind 0.0.0.0",
        "DATABASE_URL=postgresql://user:password@db.example.org/agentpool agentpool up",
    )
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=DEFAULT_PORT,
    show_default=True,
    help="TCP port of pages, API and websockets.",
)
@click.option(
    "--bind",
    default=DEFAULT_BIND,
    show_default=True,
    help="Address to listen on; 0.0.0.0 opens it to the network.",
)
@click.option("--keep-agents", is_flag=True, help="Leave the agents running at the end.")
def up(*, port: int, bind: str, keep_agents: bool) -> None:
    """
    Start everything and stay: database, migrations, web, jobs and pulse.

    The first start prints the admin's password and writes an operator token to your config
    file. Ctrl-C stops all of it within 10 s, a second Ctrl-C at once. DATABASE_URL names a
    Postgres of your own; without it an embedded one is used.
    """
    if importlib.util.find_spec("django") is None:
        raise click.ClickException(
            "this is a light install, without the server; install agentpool[server] to run one"
        )
    try:
        code = installation.up(port=port, bind=bind, keep_agents=keep_agents)
    except HostError as error:
        raise click.ClickException(str(error)) from error
    raise SystemExit(code)
