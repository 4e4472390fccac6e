"""The `agentpool db` commands: the embedded database of this installation."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

import click

from agentpool.cli import show
from agentpool.host import backup, postgres, postmaster
from agentpool.host import up as installation_up
from agentpool.host.installation import HostError, current

_P = ParamSpec("_P")
_R = TypeVar("_R")


def _plain_errors(command: Callable[_P, _R]) -> Callable[_P, _R]:
    @wraps(command)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return command(*args, **kwargs)
        except HostError as error:
            raise click.ClickException(str(error)) from error

    return run


_as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")


@click.group()
def db() -> None:
    """
    Look after the embedded Postgres of this installation.

    `agentpool up` starts and stops it by itself. With DATABASE_URL set there is no embedded
    database; dump and restore then work on that one.
    """


@db.command()
@_as_json
@_plain_errors
def start(*, is_json: bool) -> None:
    """Start the database in the background, unless it runs already."""
    _require_embedded()
    url = postgres.start(current())
    if is_json:
        click.echo(json.dumps({"url": url}))
        return
    parts = urlsplit(url)
    click.echo(f"The database answers on {parts.hostname}:{parts.port}.")
    click.echo(f"Its DATABASE_URL is in {current().database_file}.")


@db.command()
@click.option(
    "--mode",
    type=click.Choice(["smart", "fast", "immediate"]),
    default="fast",
    show_default=True,
    help="smart waits for clients to leave, fast ends them, immediate recovers at the next start.",
)
@_plain_errors
def stop(*, mode: postmaster.StopMode) -> None:
    """Stop the database."""
    installation = current()
    other = installation_up.running(installation)
    if other and not os.environ.get("DATABASE_URL"):
        raise HostError(
            f"`agentpool up` (pid {other.get('pid')}) uses the database and would start it"
            " again: stop that, and the database stops with it."
        )
    was_running = postgres.stop(installation, mode=mode)
    click.echo("Stopped." if was_running else "It was not running.")


@db.command()
@_as_json
@_plain_errors
def status(*, is_json: bool) -> None:
    """Say whether the database takes connections; exit code 3 when it does not."""
    found = postgres.status(current())
    if is_json:
        click.echo(json.dumps(asdict(found) | {"is_running": found.is_running}, default=str))
    else:
        state = f"accepting on port {found.port}" if found.is_running else found.answer
        for name, value in (
            ("state", state if found.pid else "not running"),
            ("pid", found.pid or "-"),
            ("version", found.version or "-"),
            ("data", found.data),
            ("log", found.log),
        ):
            click.echo(f"{name:8} {value}")
        if os.environ.get("DATABASE_URL"):
            click.echo("DATABASE_URL is set: the embedded database is not used.")
    # As `systemctl status` and pg_ctl say "not running".
    raise SystemExit(0 if found.is_running else 3)


@db.command(epilog=show.examples("agentpool db dump backup.dump"))
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@_plain_errors
def dump(*, file: Path) -> None:
    """Save the whole database to FILE (pg_dump's custom format)."""
    backup.dump(current(), file.absolute(), database_url=os.environ.get("DATABASE_URL"))
    click.echo(f"Saved {file} ({file.stat().st_size / 1e6:.1f} MB).")


@db.command(epilog=show.examples("agentpool db restore backup.dump --yes"))
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--yes", is_flag=True, help="Do not ask.")
@_plain_errors
def restore(*, file: Path, yes: bool) -> None:
    """
    Replace the database by what FILE holds.

    Everything is read into a new database first, so a failure leaves the old one as it is.
    Fencing tokens go on 1,000,000 beyond the last known one, so that none is handed out twice.
    """
    installation = current()
    other = installation_up.running(installation)
    if other:
        raise HostError(f"Stop `agentpool up` (pid {other.get('pid')}) first.")
    if not yes:
        click.confirm(f"Replace the database of {installation.home} by {file}?", abort=True)
    token = backup.restore(
        installation, file.absolute(), database_url=os.environ.get("DATABASE_URL")
    )
    click.echo(f"Restored. Fencing tokens go on after {token}.")


def _require_embedded() -> None:
    if os.environ.get("DATABASE_URL"):
        raise HostError("DATABASE_URL is set: that database is used, and started by its owner.")
