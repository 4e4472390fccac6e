"""What commands that change many things share: their options, the question, the report."""

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click

from agentpool.cli import show
from agentpool.client import errors

note = click.option("--note", "--reason", "note", default="", help="Why; kept in the history.")
until = click.option("--until", metavar="TIME", help="ISO-8601 time at which it ends by itself.")
yes = click.option("--yes", "-y", "is_sure", is_flag=True, help="Do not ask.")


def seconds(context: click.Context, option: click.Parameter, said: str | None) -> float | None:
    """
    Return a time span as people write it, `90s`, `30m`, `2h`, `1d` or plain seconds, in seconds.

    Raises: BadParameter.
    """
    if said is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", said.strip())
    if found is None:
        raise click.BadParameter(f"{said!r} is no time span such as 90s, 30m or 2h")
    return float(found[1]) * _UNITS[found[2]]


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def ask(sentences: Sequence[str], *, is_sure: bool) -> None:
    """
    Say what will happen and ask a person at a terminal; a script is not asked.

    Raises: ClickException, the person said no.
    """
    if not is_asked(is_sure):
        return
    for sentence in sentences:
        click.echo(sentence, err=True)
    if not click.confirm("Go on?", err=True):
        raise click.ClickException("nothing was changed")


def is_asked(is_sure: bool) -> bool:
    """Whether somebody sits there who has not said yes already."""
    return not is_sure and sys.stdin.isatty()


def each(
    names: Sequence[str],
    act: Callable[[str], Any],
    *,
    told: Callable[[str, Any], str],
    is_json: bool,
) -> None:
    """
    Do something to each, whatever becomes of the others, and report.

    told: the line for a person, of a name and what `act` returned. Raises: SystemExit(1) when one
    failed, after all were tried; Unreachable at once.
    """
    report, failed = [], 0
    for name in names:
        try:
            done = act(name)
        except errors.Unreachable:
            raise
        except errors.ApiError as error:
            failed += 1
            report.append({"named": name, "ok": False, "code": error.code, "error": str(error)})
            if len(names) == 1 and not is_json:
                raise  # with the hint that fits its code
            if not is_json:
                click.echo(f"{name}: {error}", err=True)
            continue
        report.append({**getattr(done, "raw", done or {}), "named": name, "ok": True})
        if not is_json and (line := told(name, done)):
            click.echo(line)
    if is_json:
        show.json_value(report)
    if failed:
        raise SystemExit(1)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 lease`, `3 leases`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
