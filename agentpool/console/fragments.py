"""
Takes a page apart into named fragments, and says what a viewer lacks of them.

A fragment is one element with an id, marked by the tag `fragment`. One that holds others is a list:
its rows, and nothing else, are fragments, and only one level deep.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

# Above this share of rows that come or go, the whole list is less than its single changes.
WHOLE_LIST_SHARE = 0.5


@dataclass(frozen=True)
class Fragment:
    """
    One element as it stands on the page.

    version: a digest of its HTML; of a list: of all of it but its rows. rows: the ids of a list's
    fragments in their order, None: it holds none.
    """

    id: str
    html: str
    version: str
    rows: tuple[str, ...] | None = None


@dataclass
class Drawing:
    """A page as it is drawn: its fragments by id; `open` and `done` are the tag's own."""

    fragments: dict[str, Fragment] = field(default_factory=dict)
    inner: dict[str, Fragment] = field(default_factory=dict)
    open: list[list[Fragment]] = field(default_factory=list)

    def begin(self) -> None:
        """This will take what is drawn from now on as the inside of one fragment."""
        self.open.append([])

    def end(self, id: str, html: str) -> str:
        """Note the fragment that was begun last; return its HTML with its version in it."""
        rows = self.open.pop()
        version = _digest(_without(html, rows))
        html = html.replace(f'id="{id}"', f'id="{id}" data-v="{version}"', 1)
        ids = tuple(row.id for row in rows) if rows or "data-list" in html else None
        found = Fragment(id, html, version, ids)
        if self.open:
            self.open[-1].append(found)
            self.inner[id] = found
        else:
            self.fragments[id] = found
        return html


def _without(html: str, rows: Sequence[Fragment]) -> str:
    shell, at = [], 0
    for row in rows:
        found = html.index(row.html, at)
        shell.append(html[at:found])
        at = found + len(row.html)
    # What stands between rows is white space, more of it with every row.
    return " ".join("".join([*shell, html[at:]]).split()) if rows else html.strip()


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=6).hexdigest()


@dataclass
class Seen:
    """What one viewer has on the screen: versions by id, and the rows of each list in order."""

    versions: dict[str, str] = field(default_factory=dict)
    rows: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, told: Iterable[Any]) -> Seen:
        """Return what a browser says it has: [id, version, id of the list or null] each."""
        seen, rows = cls(), dict[str, list[str]]()
        for entry in told:
            if not (isinstance(entry, list) and len(entry) == 3):
                continue
            id, version, parent = (str(part or "") for part in entry)
            seen.versions[id] = version
            rows.setdefault(parent, []).append(id)
        seen.rows = {parent: tuple(ids) for parent, ids in rows.items() if parent}
        return seen


def changes(seen: Seen, drawing: Drawing) -> list[str]:
    """
    Return the HTML that brings a viewer up to date, to be swapped in this order by the ids.

    `seen` is then what the viewer has.
    """
    out: list[str] = []
    for fragment in drawing.fragments.values():
        is_known = seen.versions.get(fragment.id) == fragment.version
        if fragment.rows is None or not is_known:
            out += [] if is_known else [fragment.html]
        else:
            out += _list_changes(seen, fragment, drawing.inner)
    seen.rows = {f.id: f.rows for f in drawing.fragments.values() if f.rows is not None}
    everything = [*drawing.fragments.values(), *drawing.inner.values()]
    seen.versions = {fragment.id: fragment.version for fragment in everything}
    return out


def messages(parts: Iterable[str]) -> list[str]:
    """
    Return HTML in as few messages as a browser reads without loss.

    Whoever parses elements drops parts of tables that stand after others of another kind.
    """
    kinds: dict[str, list[str]] = {"": [], "<tr": [], "<tbody": []}
    for html in parts:
        kind = next((k for k in ("<tr", "<tbody") if html.lstrip().startswith(k)), "")
        kinds[kind].append(html)
    return ["".join(found) for found in kinds.values() if found]


def _list_changes(seen: Seen, whole: Fragment, inner: Mapping[str, Fragment]) -> list[str]:
    old, new = seen.rows.get(whole.id, ()), whole.rows or ()
    staying = rows_that_stay(old, new)
    gone = [id for id in old if id not in staying]
    come = [id for id in new if id not in staying]
    if len(gone) + len(come) > WHOLE_LIST_SHARE * max(4, len(new)):
        return [whole.html]
    out = [f'<div id="{id}" hx-swap-oob="delete"></div>' for id in gone]
    before = ""
    for id in new:
        if id not in staying:
            out.append(_inserted(inner[id].html, whole.id, before))
        elif seen.versions.get(id) != inner[id].version:
            out.append(inner[id].html)
        before = id
    return out


def _inserted(html: str, list_id: str, before: str) -> str:
    where = f"afterend:#{before}" if before else f"afterbegin:#{list_id}"
    # A browser drops a row of a table that stands outside of one.
    tag = "tbody" if html.lstrip().startswith("<tr") else "div"
    return f'<{tag} hx-swap-oob="{where}">{html}</{tag}>'


def rows_that_stay(old: Sequence[str], new: Sequence[str]) -> set[str]:
    """Return the most rows that need no move: the longest sequence that both have in order."""
    place = {id: number for number, id in enumerate(old)}
    common = [id for id in new if id in place]
    tails: list[int] = []
    ends: list[int] = []
    came_from: list[int] = []
    for index, id in enumerate(common):
        at = bisect_left(tails, place[id])
        came_from.append(ends[at - 1] if at else -1)
        tails[at : at + 1] = [place[id]]
        ends[at : at + 1] = [index]
    staying: set[str] = set()
    index = ends[-1] if ends else -1
    while index >= 0:
        staying.add(common[index])
        index = came_from[index]
    return staying
