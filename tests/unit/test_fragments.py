"""What a viewer is sent brings it up to date, whatever it had on its screen."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.console.fragments import Drawing, Seen, changes, messages, rows_that_stay

NAMES = st.lists(st.sampled_from([f"r{n}" for n in range(12)]), unique=True, max_size=12)
ROWS = NAMES.flatmap(
    lambda names: st.tuples(*(st.integers(0, 2) for _ in names)).map(
        lambda values: dict(zip(names, values, strict=True))
    )
)


def draw(rows, title="t", tag="li"):
    """A page of a head and a list of rows, drawn as the tag does."""
    drawing = Drawing()
    drawing.begin()
    drawing.end("head", f'<h1 id="head">{title}</h1>')
    drawing.begin()
    inner = []
    for name, value in rows.items():
        drawing.begin()
        inner.append(drawing.end(name, f'<{tag} id="{name}">{value}</{tag}>'))
    drawing.end("list", '<ul id="list" data-list>\n' + "\n".join(inner) + "\n</ul>")
    return drawing


def on_screen(drawing):
    """What a browser reports that shows this drawing."""
    told = [[f.id, f.version, None] for f in drawing.fragments.values()]
    return told + [[id, drawing.inner[id].version, "list"] for id in drawing.fragments["list"].rows]


class Screen:
    """A browser's page, as far as htmx changes it out of band."""

    def __init__(self, drawing):
        self.head = drawing.fragments["head"].html
        self.rows = {id: drawing.inner[id].html for id in drawing.fragments["list"].rows}

    def swap(self, html):
        if html.startswith("<h1"):
            self.head = html
        elif html.startswith("<ul"):
            found = re.findall(r'(<li id="(\w+)".*?</li>)', html)
            self.rows = {id: row for row, id in found}
        elif 'hx-swap-oob="delete"' in html:
            del self.rows[re.search(r'id="(\w+)"', html)[1]]
        elif inserted := re.match(r'<div hx-swap-oob="(\w+):#(\w+)">(.*)</div>$', html):
            self._insert(*inserted.groups())
        else:
            id = re.search(r'id="(\w+)"', html)[1]
            assert id in self.rows
            self.rows[id] = html

    def _insert(self, how, where, html):
        rows = list(self.rows.items())
        at = 0 if how == "afterbegin" else list(self.rows).index(where) + 1
        rows.insert(at, (re.search(r'id="(\w+)"', html)[1], html))
        self.rows = dict(rows)


@given(ROWS, ROWS, st.booleans())
def test_what_is_sent_makes_the_old_page_the_new_one(before, after, same_title):
    old, new = draw(before), draw(after, "t" if same_title else "u")
    screen, seen = Screen(old), Seen.of(on_screen(old))

    for html in changes(seen, new):
        screen.swap(html)

    fresh = Screen(new)
    assert (screen.head, list(screen.rows.items())) == (fresh.head, list(fresh.rows.items()))
    assert changes(seen, new) == []


@given(NAMES, NAMES)
def test_rows_that_stay_are_in_order_in_both(old, new):
    staying = rows_that_stay(old, new)

    assert [id for id in old if id in staying] == [id for id in new if id in staying]
    assert staying <= set(old) & set(new)


def test_a_row_that_changes_is_sent_alone():
    rows = {f"r{n}": 0 for n in range(100)}
    seen = Seen.of(on_screen(draw(rows)))

    sent = changes(seen, draw({**rows, "r50": 1}))

    assert len(sent) == 1
    assert '<li id="r50"' in sent[0]


def test_a_row_that_comes_is_put_where_it_belongs():
    rows = {f"r{n}": 0 for n in range(9)}
    seen = Seen.of(on_screen(draw(rows)))

    sent = changes(seen, draw({"first": 0, **rows}))

    assert [re.match(r'<div hx-swap-oob="([\w:#]+)">', html)[1] for html in sent] == [
        "afterbegin:#list"
    ]


def test_a_row_of_a_table_travels_in_a_table():
    rows = {f"r{n}": 0 for n in range(9)}
    seen = Seen.of(on_screen(draw(rows, tag="tr")))

    sent = changes(seen, draw({**rows, "last": 0}, tag="tr"))

    assert sent[0].startswith('<tbody hx-swap-oob="afterend:#r8"><tr id="last"')


def test_who_has_nothing_gets_everything_once():
    drawing, seen = draw({"a": 1, "b": 2}), Seen()

    sent = changes(seen, drawing)

    assert [re.search(r'id="(\w+)"', html)[1] for html in sent] == ["head", "list"]


@pytest.mark.parametrize("told", [[], [1], ["x"], [[1, 2]], [[None, None, None]], [["a", 5, {}]]])
def test_a_browser_may_say_what_it_likes(told):
    drawing = draw({"a": 1})

    assert len(changes(Seen.of(told), drawing)) == 2


def test_parts_of_tables_come_in_messages_of_their_own():
    parts = ["<p id=a></p>", "<tr id=r></tr>", "<tbody id=b></tbody>", "<i id=c></i>"]

    assert messages(parts) == [
        "<p id=a></p><i id=c></i>",
        "<tr id=r></tr>",
        "<tbody id=b></tbody>",
    ]
    assert messages(["<p></p>"]) == ["<p></p>"]
