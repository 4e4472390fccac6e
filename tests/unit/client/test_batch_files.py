"""What a batch file may say, and what is said about one that is wrong."""

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.client import batch

GOOD: dict[str, Any] = {
    "batch": {"project": "textkit", "parallel": 3, "retries": 1},
    "phase": [
        {
            "name": "design",
            "agent_type": "design",
            "command": ["python", "{script}", "{cycle}"],
            "ref": "story/{cycle}",
            "env": {"WHO": "{project}"},
            "requirements": {"memory_mb": 256, "cpu_cores": 0.5},
            "lock_keys": ["{repo}:main"],
        }
    ],
    "cycle": [{"id": "one", "script": "a.py"}, {"id": "two", "script": "b.py", "title": "Two"}],
}
WRONG: list[tuple[list[Any], Any, str, str]] = [
    (["batch"], None, "batch", "is missing"),
    (["batch", "project"], "", "batch.project", "non-empty"),
    (["batch", "parallel"], 0, "batch.parallel", "from 1"),
    (["batch", "parallel"], True, "batch.parallel", "whole number"),
    (["batch", "paralel"], 3, "batch.paralel", "is unknown"),
    (["batches"], {}, "batches", "is unknown"),
    (["phase"], [], "phase", "is missing"),
    (["phase"], {"name": "x"}, "phase", "is missing"),
    (["phase", 0], "x", "phase[0]", "must be a table"),
    (["phase", 0, "name"], None, "phase[0].name", "is missing"),
    (["phase", 0, "name"], "a b", "phase[0].name", "letters"),
    (["phase", 0, "command"], "ls -l", "phase[0].command", "list"),
    (["phase", 0, "command"], [], "phase[0].command", "program"),
    (["phase", 0, "timeout_s"], "5", "phase[0].timeout_s", "a number"),
    (["phase", 0, "env"], {"A": 1}, "phase[0].env", "table of texts"),
    (["phase", 0, "priority"], 101, "phase[0].priority", "100"),
    (["phase", 0, "requirements"], 5, "phase[0].requirements", "table"),
    (["phase", 0, "requirements", "ram"], 5, "phase[0].requirements.ram", "is unknown"),
    (["phase", 0, "requirements", "memory_mb"], -1, "phase[0].requirements.memory_mb", "from 1"),
    (["phase", 0, "requirements", "isolation_level"], "jail", ".isolation_level", "one of"),
    (["phase", 0, "command"], ["{nope}"], "phase[0].command[0]", "is unknown"),
    (["phase", 0, "ref"], "{title}", "phase[0].ref", "not a key of every cycle"),
    (["phase", 0, "env", "WHO"], "{x}", "phase[0].env.WHO", "is unknown"),
    (["phase", 0, "lock_keys"], ["{y}"], "phase[0].lock_keys[0]", "is unknown"),
    (["cycle", 1, "id"], "one", "cycle[1].id", "cycle[0] already"),
    (["cycle", 1, "id"], None, "cycle[1].id", "is missing"),
    (["cycle", 0, "tags"], "text", "cycle[0].tags", "list of texts"),
    (["cycle", 0, "repo"], "x", "cycle[0].repo", "templates have already"),
    (["cycle", 0, "number"], 5, "cycle[0].number", "is unknown"),
]


def changed(path: list[Any], value: Any) -> dict[str, Any]:
    """Return the good document with one place changed; None removes it."""
    document = copy.deepcopy(GOOD)
    place: Any = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return document


def test_a_good_document_is_read() -> None:
    found = batch.parse(GOOD)

    assert [cycle.id for cycle in found.cycles] == ["one", "two"]
    assert found.parallel == 3
    assert found.phases[0].requirements == {"memory_mb": 256, "cpu_cores": 0.5}
    assert found.cycles[0].words["script"] == "a.py"


@pytest.mark.parametrize(("path", "value", "place", "message"), WRONG)
def test_a_mistake_is_named_with_its_place(
    path: list[Any], value: Any, place: str, message: str
) -> None:
    with pytest.raises(batch.BatchInvalid) as caught:
        batch.parse(changed(path, value))

    named = [each for each in caught.value.mistakes if each.place.endswith(place)]
    assert named, str(caught.value)
    assert message in named[0].message


def test_all_mistakes_are_listed_at_once() -> None:
    document = changed(["batch", "parallel"], 0)
    document["phase"][0]["agent_type"] = ""
    document["cycle"][1]["id"] = "one"

    with pytest.raises(batch.BatchInvalid) as caught:
        batch.parse(document)

    places = {mistake.place for mistake in caught.value.mistakes}
    assert {"batch.parallel", "phase[0].agent_type", "cycle[1].id"} == places


def test_a_file_that_is_no_toml_says_so(tmp_path: Path) -> None:
    path = tmp_path / "cycles.toml"
    path.write_text("[batch\n")

    with pytest.raises(batch.BatchInvalid, match="is no TOML"):
        batch.load(path)


def test_templates_are_filled_and_doubled_braces_stay() -> None:
    words = {"cycle": "one", "repo": "/r"}

    assert batch.fill("{repo}:{cycle} {{cycle}} ${{HOME}} {", words) == "/r:one {cycle} ${HOME} {"


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    place=st.sampled_from([path for path, *_ in WRONG]),
    value=values.filter(lambda v: v is not None),
)
def test_any_value_anywhere_is_taken_or_refused_but_never_crashes(
    place: list[Any], value: Any
) -> None:
    document = copy.deepcopy(GOOD)
    target: Any = document
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value

    with contextlib.suppress(batch.BatchInvalid):
        batch.parse(document)
