"""What a page of the console is, and what its address may ask for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from agentpool.live.listener import EVERYTHING
from agentpool.registry.errors import NotFound

Params = Mapping[str, str]
Picture = dict[str, Any]

# Rows at first, and how many more each time somebody asks; more than the most only by filtering.
ROWS = 100
MOST_ROWS = 1000
_LONGEST = 200


@dataclass(frozen=True)
class Page:
    """
    One page of the console.

    template: the board, all in fragments. topic: what of the stream of events it follows; kinds:
    beginnings of the kinds of events that change it. params: the filters that its address may
    carry, each with what it is when it does not; `id`: its path names a row.
    """

    name: str
    path: str
    title: str
    template: str
    picture: Callable[[Params], Picture]
    kinds: tuple[str, ...] = ("",)
    params: Params = field(default_factory=dict)
    topic: Callable[[Params], str] = lambda params: EVERYTHING
    menu: str = ""
    has_charts: bool = False
    # Work prints all the time, and one page alone shows what.
    ignores: tuple[str, ...] = ("lease.log",)

    @property
    def has_id(self) -> bool:
        """Whether the page is about one row, which its path names."""
        return "<uuid:id>" in self.path

    def concerns(self, kind: str) -> bool:
        """Whether an event of this kind changes the page."""
        return kind.startswith(self.kinds) and kind not in self.ignores

    def params_of(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the page's parameters from a query string; unknown names and NULs are ignored."""
        names = {**self.params, **({"id": ""} if self.has_id else {})}
        found = {name: str(given.get(name) or usual) for name, usual in names.items()}
        return {name: value[:_LONGEST].replace("\x00", "").strip() for name, value in found.items()}


def rows_shown(params: Params) -> int:
    """Return how many rows of a long list the address asks for."""
    text = params.get("shown", "")
    asked = int(text) if text.isascii() and text.isdigit() else ROWS
    return max(ROWS, min(MOST_ROWS, asked))


def row_id(params: Params) -> UUID:
    """
    Return the id of the row that the page is about.

    Raises: NotFound, it is none.
    """
    try:
        return UUID(params["id"])
    except ValueError as error:
        raise NotFound("There is no such row.") from error


def more(shown: int, total: int) -> Picture:
    """Return what the end of a long list says: how many there are, and how to see more."""
    after = min(MOST_ROWS, shown + ROWS)
    return {
        "shown": min(shown, total),
        "total": total,
        "next": after if total > shown and after > shown else None,
        "is_cut": total > shown >= MOST_ROWS,
    }
