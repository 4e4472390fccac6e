"""How values are shown on a terminal: tables, key-value lists, JSON, ages."""

import contextlib
import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

as_json = click.option("--json", "is_json", is_flag=True, help="Print JSON.")
limit = click.option(
    "--limit", type=click.IntRange(1, 500), default=100, show_default=True, help="Rows at most."
)

# A word and a colour for each status; the word alone says it all.
_COLOURS = {
    "idle": "green",
    "active": "green",
    "good": "green",
    "granted": "green",
    "success": "green",
    "busy": "cyan",
    "waiting": "yellow",
    "offered": "yellow",
    "parked": "yellow",
    "starting": "yellow",
    "standby": "yellow",
    "draining": "yellow",
    "probation": "yellow",
    "maintenance": "yellow",
    "unreachable": "red",
    "lost": "red",
    "failed": "red",
    "failure": "red",
    "timeout": "red",
    "quarantined": "red",
    "refused": "red",
    "expired": "red",
}


class _Number(click.types.FloatParamType):
    """A number that JSON has, too: neither inf nor nan."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is no number to reckon with.", param, ctx)
        return number


NUMBER = _Number()


def examples(*lines: str) -> str:
    """Return the end of a command's help: lines that click leaves as they are."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def json_value(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, default=str))


def table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print rows under their columns, or `empty` when there are none."""
    found = list(rows)
    if not found:
        click.echo(empty)
        return
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for name in columns:
        shown.add_column(name, overflow="fold", no_wrap=name in ("id", "lease", "agent"))
    for row in found:
        shown.add_row(*(_cell(value) for value in row))
    _print(shown)


def bar(share: float, *, width: int = 20) -> str:
    """Return a share, 0 to 1, as a bar of so many characters."""
    filled = round(min(1.0, max(0.0, share)) * width)
    return "█" * filled + "·" * (width - filled)


@contextlib.contextmanager
def progress(text: str) -> Iterator[None]:
    """Turn something on the terminal while a person waits; show nothing to a pipe."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(f"{escape(text)} ..."):
        yield


def pairs(values: Mapping[str, Any], *, skip: Iterable[str] = ()) -> None:
    """Print an object as aligned keys and values, without what is empty."""
    hidden = set(skip)
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for key, value in values.items():
        if key not in hidden and value not in (None, "", [], {}):
            shown.add_row(key, _cell(value))
    _print(shown)


def age(at: datetime | None) -> str:
    """Return how long ago a time was."""
    return "" if at is None else duration((datetime.now(UTC) - at).total_seconds())


def duration(seconds: float | None) -> str:
    """Return seconds in the largest two units that make sense."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    if seconds < 60:
        return f"{seconds:.0f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours < 48 else f"{hours // 24}d"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return escape(" ".join(f"{key}={_plain(each)}" for key, each in value.items()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return escape(" ".join(map(_plain, value)))
    text = str(value)
    colour = _COLOURS.get(text)
    return f"[{colour}]{escape(text)}[/{colour}]" if colour else escape(text)


def _plain(value: object) -> str:
    if isinstance(value, Mapping | list):
        return json.dumps(value, default=str)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print(shown: Table) -> None:
    is_terminal = sys.stdout.isatty()
    # A pipe has no width; folded lines would be useless to grep.
    console = Console(highlight=False, width=None if is_terminal else 200)
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())
