"""The file that describes a batch of cycles: read, checked as a whole, and filled in."""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_TEMPLATE = re.compile(r"\{\{|\}\}|\{([A-Za-z_][A-Za-z0-9_]*)\}")
BUILT_IN = frozenset({"repo", "cycle", "phase", "project"})


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong in a batch file, and where."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


class BatchInvalid(Exception):
    """The file is no batch; `mistakes` lists everything that is wrong with it."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One step of every cycle; texts may hold templates such as `{cycle}`."""

    name: str
    agent_type: str
    command: Sequence[str]
    ref: str | None = None
    timeout_s: float = 600.0
    ttl_s: float = 3600.0
    requirements: Mapping[str, Any] = field(default_factory=dict)
    lock_keys: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Sequence[str] = ()
    priority: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Cycle:
    """One unit of parallel work: it runs the phases in order."""

    id: str
    title: str = ""
    story_type: str | None = None
    tags: Sequence[str] = ()
    paths: Sequence[str] = ()
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """All cycles of a file; `parallel` cycles are in flight, `retries` tries more per phase."""

    project: str
    phases: Sequence[Phase]
    cycles: Sequence[Cycle]
    repository: str | None = None
    parallel: int = 4
    retries: int = 0


def load(path: Path) -> Batch:
    """Return the batch in a TOML file. Raises: BatchInvalid; OSError, the file can't be read."""
    try:
        document = tomllib.loads(path.read_bytes().decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BatchInvalid([Mistake(str(path), f"is no TOML: {error}")]) from error
    return parse(document)


def parse(document: Mapping[str, Any]) -> Batch:
    """Return the batch of a parsed document. Raises: BatchInvalid with every mistake in it."""
    found: list[Mistake] = []
    _refuse_unknown(document, {"batch", "phase", "cycle"}, "", found)
    head = document.get("batch")
    if not isinstance(head, Mapping):
        found.append(Mistake("batch", "is missing: a table [batch] with at least `project`"))
        head = {}
    fields = _fields(head, _BATCH, "batch", found)
    phases = _rows(document, "phase", _PHASE, found)
    cycles = _rows(document, "cycle", _CYCLE, found, open_to_words=True)
    _refuse_twins(phases, "phase", "name", found)
    _refuse_twins(cycles, "cycle", "id", found)
    _check_templates(phases, cycles, found)
    if found:
        raise BatchInvalid(found)
    return Batch(
        **fields,
        phases=tuple(Phase(**row) for row in phases),
        cycles=tuple(_cycle(row) for row in cycles),
    )


def fill(text: str, words: Mapping[str, str]) -> str:
    """
    Return `text` with each `{word}` replaced; `{{` and `}}` stand for the braces themselves.

    Raises: KeyError, a word is not known.
    """
    literal = {"{{": "{", "}}": "}"}
    return _TEMPLATE.sub(lambda hit: literal.get(hit[0]) or words[hit[1]], text)


def words_of(*, batch: Batch, cycle: Cycle, phase: Phase, repository: str | None) -> dict[str, str]:
    """Return what the templates of a phase of a cycle may name."""
    words = {
        **cycle.words,
        "cycle": cycle.id,
        "phase": phase.name,
        "project": batch.project,
    }
    return words if repository is None else {**words, "repo": repository}


def templates(phase: Phase) -> list[str]:
    """Return all texts of a phase in which templates are filled in."""
    ref = [] if phase.ref is None else [phase.ref]
    return [*phase.command, *ref, *phase.lock_keys, *phase.env.values()]


# --- what a field may hold: a check returns what is wrong, or None -------------------------------

Check = Callable[[Any], str | None]


@dataclass(frozen=True, slots=True)
class _Field:
    check: Check
    required: bool = False


def _text(value: Any) -> str | None:
    return None if isinstance(value, str) and value.strip() else "must be a non-empty text"


def _label(value: Any) -> str | None:
    return None if isinstance(value, str) else "must be a text"


def _word(value: Any) -> str | None:
    if isinstance(value, str) and _NAME.fullmatch(value):
        return None
    return "must be 1 to 128 of the letters A-Z a-z 0-9 . _ : -"


def _texts(value: Any) -> str | None:
    is_good = isinstance(value, list) and all(isinstance(each, str) and each for each in value)
    return None if is_good else "must be a list of texts"


def _command(value: Any) -> str | None:
    return "must be a list with the program and its arguments" if not value else _texts(value)


def _table_of_texts(value: Any) -> str | None:
    is_good = isinstance(value, Mapping) and all(isinstance(each, str) for each in value.values())
    return None if is_good else "must be a table of texts"


def _number(*, low: float, high: float, whole: bool = True) -> Check:
    kind = "a whole number" if whole else "a number"

    def check(value: Any) -> str | None:
        is_number = isinstance(value, int if whole else (int, float))
        if not is_number or isinstance(value, bool) or not low <= value <= high:
            return f"must be {kind} from {low:g} to {high:g}"
        return None

    return check


def _flag(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def _one_of(*words: str) -> Check:
    return lambda value: None if value in words else f"must be one of {', '.join(words)}"


def _labels(value: Any) -> str | None:
    return None if isinstance(value, Mapping) else "must be a table"


_MEMORY = _number(low=1, high=16_000_000)
_REQUIREMENTS: Mapping[str, _Field] = {
    "memory_mb": _Field(_MEMORY),
    "min_memory_mb": _Field(_MEMORY),
    "cpu_cores": _Field(_number(low=0.01, high=4096, whole=False)),
    "token_budget": _Field(_number(low=0, high=10**12)),
    "disk_space_mb": _Field(_number(low=0, high=10**9)),
    "network_access": _Field(_flag),
    "special_tools": _Field(_texts),
    "capabilities": _Field(_texts),
    "labels": _Field(_labels),
    "security_level": _Field(_one_of("low", "standard", "high", "critical")),
    "isolation_level": _Field(_one_of("process", "container", "virtual_machine")),
}
_BATCH: Mapping[str, _Field] = {
    "project": _Field(_text, required=True),
    "repository": _Field(_text),
    "parallel": _Field(_number(low=1, high=10_000)),
    "retries": _Field(_number(low=0, high=20)),
}
_PHASE: Mapping[str, _Field] = {
    "name": _Field(_word, required=True),
    "agent_type": _Field(_word, required=True),
    "command": _Field(_command, required=True),
    "ref": _Field(_text),
    "timeout_s": _Field(_number(low=1, high=14_400, whole=False)),
    "ttl_s": _Field(_number(low=1, high=604_800, whole=False)),
    "requirements": _Field(_labels),
    "lock_keys": _Field(_texts),
    "env": _Field(_table_of_texts),
    "secrets": _Field(_texts),
    "priority": _Field(_number(low=0, high=100)),
}
_CYCLE: Mapping[str, _Field] = {
    "id": _Field(_word, required=True),
    "title": _Field(_label),
    "story_type": _Field(_text),
    "tags": _Field(_texts),
    "paths": _Field(_texts),
}


def _fields(
    row: Mapping[str, Any],
    known: Mapping[str, _Field],
    place: str,
    found: list[Mistake],
    *,
    open_to_words: bool = False,
) -> dict[str, Any]:
    """Return the row, noting what is missing, wrong or unknown in it."""
    if not open_to_words:
        _refuse_unknown(row, known, place, found)
    for name, rule in known.items():
        if name not in row:
            if rule.required:
                found.append(Mistake(f"{place}.{name}", "is missing"))
        elif wrong := rule.check(row[name]):
            found.append(Mistake(f"{place}.{name}", wrong))
    return dict(row)


def _rows(
    document: Mapping[str, Any],
    noun: str,
    known: Mapping[str, _Field],
    found: list[Mistake],
    *,
    open_to_words: bool = False,
) -> list[dict[str, Any]]:
    rows = document.get(noun, [])
    if not isinstance(rows, list) or not rows:
        found.append(Mistake(noun, f"is missing: at least one table [[{noun}]]"))
        return []
    read = []
    for index, row in enumerate(rows):
        place = f"{noun}[{index}]"
        if not isinstance(row, Mapping):
            found.append(Mistake(place, "must be a table"))
            continue
        read.append(_fields(row, known, place, found, open_to_words=open_to_words))
        if open_to_words:
            _check_words(row, known, place, found)
        if isinstance(needs := row.get("requirements"), Mapping):
            _fields(needs, _REQUIREMENTS, f"{place}.requirements", found)
    return read


def _check_words(
    row: Mapping[str, Any], known: Iterable[str], place: str, found: list[Mistake]
) -> None:
    """A cycle may have keys of its own, for templates: texts that hide no built-in word."""
    for key in sorted(set(row) - set(known)):
        if key in BUILT_IN:
            found.append(Mistake(f"{place}.{key}", "is a word that templates have already"))
        elif not isinstance(row[key], str):
            found.append(Mistake(f"{place}.{key}", "is unknown (a word for templates is a text)"))


def _refuse_unknown(
    row: Mapping[str, Any], known: Iterable[str], place: str, found: list[Mistake]
) -> None:
    names = sorted(known)
    for key in sorted(set(row) - set(names)):
        where = f"{place}.{key}" if place else key
        found.append(Mistake(where, f"is unknown; known here: {', '.join(names)}"))


def _refuse_twins(
    rows: Iterable[Mapping[str, Any]], noun: str, key: str, found: list[Mistake]
) -> None:
    first: dict[str, int] = {}
    for index, row in enumerate(rows):
        name = row.get(key)
        if not isinstance(name, str):
            continue
        if name in first:
            message = f"{name!r} is the name of {noun}[{first[name]}] already"
            found.append(Mistake(f"{noun}[{index}].{key}", message))
        first.setdefault(name, index)


def _check_templates(
    phases: Sequence[Mapping[str, Any]],
    cycles: Sequence[Mapping[str, Any]],
    found: list[Mistake],
) -> None:
    """Each word in a template must be known for every cycle."""
    common = set.intersection(*(_own_words(row) for row in cycles)) if cycles else set()
    some = set().union(*(_own_words(row) for row in cycles))
    for index, row in enumerate(phases):
        for place, text in _template_places(row):
            for hit in _TEMPLATE.finditer(text):
                word = hit[1]
                if word is None or word in BUILT_IN or word in common:
                    continue
                lacks = "is not a key of every cycle" if word in some else "is unknown"
                message = f"template {{{word}}} {lacks} (write {{{{{word}}}}} for plain braces)"
                found.append(Mistake(f"phase[{index}].{place}", message))


def _own_words(row: Mapping[str, Any]) -> set[str]:
    return {key for key, value in row.items() if isinstance(value, str)} - BUILT_IN


def _template_places(row: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for key in ("command", "lock_keys"):
        texts = row.get(key)
        for index, text in enumerate(texts if isinstance(texts, list) else ()):
            if isinstance(text, str):
                yield f"{key}[{index}]", text
    if isinstance(ref := row.get("ref"), str):
        yield "ref", ref
    env = row.get("env")
    for name, text in (env if isinstance(env, Mapping) else {}).items():
        if isinstance(text, str):
            yield f"env.{name}", text


def _cycle(row: Mapping[str, Any]) -> Cycle:
    own = {key: value for key, value in row.items() if key in _CYCLE}
    return Cycle(**own, words={key: row[key] for key in row if isinstance(row[key], str)})
