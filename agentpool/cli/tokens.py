"""The `agentpool tokens` commands."""

from collections.abc import Sequence

import click

from agentpool.cli import acts, plane, show


@click.group()
def tokens() -> None:
    """Make, list and revoke API tokens."""


@tokens.command(epilog=show.examples("agentpool tokens create ci --scope orchestrator"))
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(["viewer", "orchestrator", "operator"]),
    default="orchestrator",
    show_default=True,
    help="What its holder may do.",
)
@click.option("--expires-in", "expires_in_s", type=show.NUMBER, help="Seconds (default: for ever).")
@show.as_json
def create(*, name: str, scope: str, expires_in_s: float | None, is_json: bool) -> None:
    """Make a token. It is shown this once."""
    with plane.client() as client:
        made = client.create_token(name=name, scope=scope, expires_in_s=expires_in_s)
    if is_json:
        show.json_value(made.raw)
        return
    click.echo(made.token or "")
    click.echo(f"Token {made.name or name} ({made.scope or scope}), shown this once.", err=True)


@tokens.command("ls")
@show.as_json
def ls(*, is_json: bool) -> None:
    """List the tokens."""
    with plane.client() as client:
        page = client.tokens()
    if is_json:
        show.json_value([each.raw for each in page.items])
        return
    rows = [(each.id, each.name, each.scope, show.age(each.created_at)) for each in page.items]
    show.table(("id", "name", "scope", "age"), rows, empty="There are no tokens.")


@tokens.command(epilog=show.examples("agentpool tokens revoke 0197c1b2-... 0197c1b3-... --yes"))
@click.argument("token_ids", nargs=-1, required=True, metavar="TOKEN_ID...")
@acts.yes
@show.as_json
def revoke(*, token_ids: Sequence[str], is_sure: bool, is_json: bool) -> None:
    """Revoke tokens by their ids."""
    told = f"{acts.counted(len(token_ids), 'token')} will be worth nothing at once, for good."
    acts.ask([told], is_sure=is_sure)
    with plane.client() as client:
        acts.each(
            token_ids,
            client.revoke_token,
            told=lambda name, done: f"Token {name} is revoked.",
            is_json=is_json,
        )
