"""What an action of the console is: on what it acts, what it asks, what it says it will do."""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentpool.registry.errors import Invalid

Row = Any
Values = Mapping[str, str]


@dataclass(frozen=True)
class Kind:
    """
    A kind of rows that actions act on; `name` is also the parameter that names one in an address.

    load: the rows of these keys, those that are not there left out. key: what names a row. told,
    state: what a person calls it, and how it is. seen: its version, by which a change by somebody
    else is noticed.
    """

    name: str
    plural: str
    load: Callable[[Sequence[str]], Sequence[Row]]
    told: Callable[[Row], str] = str
    seen: Callable[[Row], str] = lambda row: ""
    state: Callable[[Row], str] = lambda row: ""
    key: Callable[[Row], str] = lambda row: str(row.pk)


@dataclass(frozen=True)
class Field:
    """
    One thing that an action asks for.

    kind: text, number, select, lines (words, one or more a line), or minutes (from now; the browser
    tells the time). choices: value and label each. usual: what holds when nothing is typed.
    only_for: values of the form's first select with which it is shown; empty: always.
    """

    name: str
    label: str
    kind: str = "text"
    value: Any = ""
    choices: Sequence[tuple[str, str]] = ()
    hint: str = ""
    unit: str = ""
    is_required: bool = False
    usual: str = ""
    only_for: Sequence[str] = ()


NOTE = Field("note", "Note", hint="Why? It stands in the history.")


@dataclass(frozen=True)
class Done:
    """
    What has been done to one row.

    secret: shown this once; command: what to do with it. undo: the value that takes it back.
    faults: of a form that was refused, what is wrong by field.
    """

    sentence: str
    secret: str = ""
    commands: Sequence[str] = ()
    undo: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Trial:
    """What would come of what was typed: a sentence, and a small table."""

    sentence: str
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()


Run = Callable[[Row, Values, str], Done]


@dataclass(frozen=True)
class Action:
    """
    One thing that an operator may do.

    on: None when it makes something new. tells: sentences in numbers, of what will happen to the
    rows. allows: whether a row's state permits it, as far as the page knows; the service decides.
    undo: the action that takes it back, "" when nothing does. tries: says what would come of it.
    button: what the dialog's button says for one row, where the label could mean leaving it.
    """

    name: str
    label: str
    on: Kind | None
    tells: Callable[[Sequence[Row]], Sequence[str]]
    run: Run
    fields: Callable[[Sequence[Row]], Sequence[Field]] = lambda rows: (NOTE,)
    allows: Callable[[Row], bool] = lambda row: True
    undo: str = ""
    is_grave: bool = False
    is_for_many: bool = False
    is_hidden: bool = False
    tries: Callable[[Row, Values], Trial] | None = None
    button: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of one row of an action."""

    row: str
    is_ok: bool
    done: Done
    row_id: str = ""


@dataclass(frozen=True)
class Results:
    """What became of all rows of an action."""

    action: Action
    outcomes: Sequence[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> Sequence[Outcome]:
        """The rows that were not changed."""
        return [outcome for outcome in self.outcomes if not outcome.is_ok]

    @property
    def done(self) -> Sequence[Outcome]:
        """The rows that were changed."""
        return [outcome for outcome in self.outcomes if outcome.is_ok]

    @property
    def secrets(self) -> Sequence[Done]:
        """What is shown this once."""
        return [outcome.done for outcome in self.done if outcome.done.secret]


def number(values: Values, name: str, label: str) -> float | None:
    """
    Return a number that was typed, None: none was.

    Commas may keep thousands apart, and nothing else: many people write one and a half as 1,5.
    Raises: Invalid.
    """
    text = values.get(name, "").replace(" ", "").strip()
    if not text:
        return None
    if _APART.fullmatch(text):
        text = text.replace(",", "")
    with contextlib.suppress(ValueError):
        if "_" not in text and math.isfinite(typed := float(text)):
            return typed
    fault = "No number; decimals are written with a point." if "," in text else "No number."
    raise Invalid(f"{label}: {text[:40]!r} is no number.", errors=[(name, fault)])


_APART = re.compile(r"[+-]?[0-9]{1,3}(,[0-9]{3})+(\.[0-9]*)?")


def count(rows: Sequence[Row], noun: str, plural: str = "") -> str:
    """Return how many there are, in words: "3 leases"."""
    return f"{len(rows)} {noun if len(rows) == 1 else plural or noun + 's'}"
