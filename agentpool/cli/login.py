"""The `agentpool login` command: save where the control plane is, after trying the token."""

import sys

import click

from agentpool.cli import show
from agentpool.client import Client, config


@click.command(
    epilog=show.examples(
        "agentpool login http://127.0.0.1:8600",
        "pass agentpool/token | agentpool login https://pool.example.com --token-stdin",
    )
)
@click.argument("url")
@click.option("--token-stdin", is_flag=True, help="Read the token from stdin instead of asking.")
def login(*, url: str, token_stdin: bool) -> None:
    """Save the address and token of a control plane, once it accepts them."""
    if "://" not in url:
        raise click.BadParameter("an address such as http://127.0.0.1:8600", param_hint="URL")
    token = sys.stdin.readline() if token_stdin else click.prompt("Token", hide_input=True)
    with Client(url=url, token=token.strip(), patience_s=0) as client:
        known = client.whoami()
    path = config.save(url=url, token=token.strip())
    click.echo(f"You are {known.get('name')}, scope {known.get('scope')}. Saved in {path}.")
