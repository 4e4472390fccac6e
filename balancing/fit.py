"""
Says whether an agent can serve a request, and if not, what it lacks, in numbers.

Pure. The claim asks the same in SQL; a test holds the two together.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import isfinite
from typing import Any, Literal

from agentpool.registry.states import IsolationLevel, SecurityLevel
from balancing.grants import Lack, cpu_floor, memory_floor, number, shortage


@dataclass(frozen=True)
class Capacity:
    """
    What an agent (or a launch template) offers.

    Amounts are what is asked about: all of it, or what is free. Memory and disk in MB, CPU in
    cores, tokens in tokens.
    """

    memory_mb: int
    cpu_cores: float | Decimal
    token_budget: int
    disk_space_mb: int
    security_level: SecurityLevel
    isolation_levels: Sequence[IsolationLevel]
    tools: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    labels: Mapping[str, Any] = field(default_factory=dict)
    agent_id: str = ""


@dataclass(frozen=True)
class Rule:
    """
    One condition on an agent's capability or label.

    op: a key of OPS; for a capability `exists` or `absent`. value: a string, a number or a
    boolean; a tuple of them for `in` and `not_in`; a number for `> >= < <=`; None for `exists`
    and `absent`.
    """

    kind: Literal["capability", "label"]
    name: str
    op: str
    value: Any = None


@dataclass(frozen=True)
class Needs:
    """
    What a request asks for, in the units of Capacity.

    min_memory_mb, min_cpu_cores: what it can live with; an agent must have the floor of the grant
    (`grants.memory_floor`). None: the whole ask. labels: equalities; rules: all must hold.
    """

    memory_mb: int
    cpu_cores: float | Decimal
    token_budget: int
    disk_space_mb: int
    security_level: SecurityLevel
    isolation_level: IsolationLevel
    special_tools: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    labels: Mapping[str, Any] = field(default_factory=dict)
    avoid_agents: frozenset[str] = frozenset()
    rules: tuple[Rule, ...] = ()
    min_memory_mb: int | None = None
    min_cpu_cores: float | Decimal | None = None


class BadRule(ValueError):
    """A wish for a label or capability that cannot be read: which field, and what is allowed."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


MAX_WEIGHT = 100
MAX_CHOICES = 100
MAX_TEXT = 200
_NAME = re.compile(r"[A-Za-z0-9._/-]{1,100}")
_AMOUNTS = (
    ("memory_mb", "memory", "MB"),
    ("cpu_cores", "CPU", "cores"),
    ("token_budget", "token budget", "tokens"),
    ("disk_space_mb", "disk", "MB"),
)
_SCALAR = f"a string of at most {MAX_TEXT} characters, a finite number, or true or false"


# -- judging ---------------------------------------------------------------------------------------


def lacks(capacity: Capacity, needs: Needs) -> tuple[Lack, ...]:
    """Return what an agent lacks for a request, in a fixed order; empty: it fits."""
    return (
        *_amounts(capacity, needs),
        *_levels(capacity, needs),
        *_words("special_tools", "tools", needs.special_tools, capacity.tools),
        *_words("capabilities", "capabilities", needs.capabilities, capacity.capabilities),
        *_labels(capacity, needs),
        *_rules(capacity, needs),
        *_avoided(capacity, needs),
    )


def fits(capacity: Capacity, needs: Needs) -> bool:
    """Return whether nothing is lacking."""
    return not lacks(capacity, needs)


def nearest(
    capacities: Iterable[Capacity], needs: Needs
) -> tuple[Capacity, tuple[Lack, ...]] | None:
    """
    Return who comes nearest to a request, and what it lacks; None: nobody is there at all.

    The fewest lacks win, then the smallest sum of relative shortages, then the agent_id.
    """
    judged = [(one, lacks(one, needs)) for one in capacities]
    return min(judged, key=_distance, default=None)


def holds(rule: Rule, capabilities: frozenset[str], labels: Mapping[str, Any]) -> bool:
    """Return whether an agent with these capabilities and labels obeys a rule."""
    has = _has(rule, capabilities, labels)
    if has is _NOTHING:
        return rule.op in _HOLD_WITHOUT
    return OPS[rule.op](has, rule.value)


def _distance(judged: tuple[Capacity, tuple[Lack, ...]]) -> tuple[int, float, str]:
    capacity, missing = judged
    return len(missing), sum(lack.shortage for lack in missing), capacity.agent_id


def _amounts(capacity: Capacity, needs: Needs) -> Iterator[Lack]:
    floors: dict[str, float | Decimal] = {
        "memory_mb": memory_floor(needs.memory_mb, needs.min_memory_mb),
        "cpu_cores": _cpu_floor(needs),
    }
    for name, word, unit in _AMOUNTS:
        need = _exact(floors.get(name, getattr(needs, name)))
        has = _exact(getattr(capacity, name))
        if need > has:
            sentence = f"{word}: needs {number(need)} {unit}, has {number(has)}"
            yield Lack(name, sentence, shortage(need, has))


def _cpu_floor(needs: Needs) -> Decimal:
    least = needs.min_cpu_cores
    return cpu_floor(_exact(needs.cpu_cores), None if least is None else _exact(least))


def _exact(value: float | Decimal) -> Decimal:
    # As it is written: the float 4.1 is a little less than the decimal 4.1 of a column.
    return Decimal(str(value))


def _levels(capacity: Capacity, needs: Needs) -> Iterator[Lack]:
    security, has_security = needs.security_level, capacity.security_level
    if security > has_security:
        sentence = f"security: needs {security.name.lower()}, has {has_security.name.lower()}"
        yield Lack("security_level", sentence, shortage(security, has_security))
    # A stronger isolation satisfies a weaker one.
    isolation, strongest = needs.isolation_level, max(capacity.isolation_levels)
    if isolation > strongest:
        wants, has = isolation.name.lower(), strongest.name.lower()
        sentence = f"isolation: needs {wants}, has at most {has}"
        yield Lack("isolation_level", sentence, shortage(isolation, strongest))


def _words(name: str, word: str, asked: frozenset[str], there: frozenset[str]) -> list[Lack]:
    missing = sorted(asked - there)
    if not missing:
        return []
    return [Lack(name, f"{word}: lacks {', '.join(missing)}", len(missing) / len(asked))]


def _labels(capacity: Capacity, needs: Needs) -> list[Lack]:
    wrong = [
        f"{name}={value}"
        for name, value in sorted(needs.labels.items())
        if name not in capacity.labels or not _same(capacity.labels[name], value)
    ]
    if not wrong:
        return []
    return [Lack("labels", f"labels: lacks {', '.join(wrong)}", len(wrong) / len(needs.labels))]


def _rules(capacity: Capacity, needs: Needs) -> list[Lack]:
    return [
        Lack(_FIELD[rule.kind], _said(rule, _has(rule, capacity.capabilities, capacity.labels)))
        for rule in needs.rules
        if not holds(rule, capacity.capabilities, capacity.labels)
    ]


def _avoided(capacity: Capacity, needs: Needs) -> list[Lack]:
    if capacity.agent_id and capacity.agent_id in needs.avoid_agents:
        return [Lack("avoid_agents", f"{capacity.agent_id} is to be avoided")]
    return []


# -- comparing: types never coerce -----------------------------------------------------------------


def _same(has: Any, value: Any) -> bool:
    return (_are_numbers(has, value) or type(has) is type(value)) and has == value


def _is_number(value: Any) -> bool:
    # Python calls True a number; JSON and people do not.
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _are_numbers(has: Any, value: Any) -> bool:
    return _is_number(has) and _is_number(value)


OPS: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": _same,
    "!=": lambda has, value: not _same(has, value),
    "in": lambda has, values: any(_same(has, one) for one in values),
    "not_in": lambda has, values: not any(_same(has, one) for one in values),
    ">": lambda has, value: _are_numbers(has, value) and has > value,
    ">=": lambda has, value: _are_numbers(has, value) and has >= value,
    "<": lambda has, value: _are_numbers(has, value) and has < value,
    "<=": lambda has, value: _are_numbers(has, value) and has <= value,
    "exists": lambda has, value: True,
    "absent": lambda has, value: False,
}
_HOLD_WITHOUT = frozenset({"!=", "not_in", "absent"})
_ORDERING = frozenset({">", ">=", "<", "<="})
_OF_MANY = frozenset({"in", "not_in"})
_OF_NONE = frozenset({"exists", "absent"})
_FIELD = {"capability": "capabilities", "label": "labels"}
_NOTHING = object()


def _has(rule: Rule, capabilities: frozenset[str], labels: Mapping[str, Any]) -> Any:
    """Return an agent's side of a rule, _NOTHING: it has no such label or capability."""
    if rule.kind == "capability":
        return True if rule.name in capabilities else _NOTHING
    return labels.get(rule.name, _NOTHING)


def _said(rule: Rule, has: Any) -> str:
    if rule.kind == "capability" and has is _NOTHING:
        return f"capabilities: lacks {rule.name}"
    has = "none" if has is _NOTHING else _shown(has)
    if rule.op in _OF_NONE:
        wish = rule.name if rule.op == "exists" else f"no {rule.name}"
    else:
        wish = f"{rule.name} {rule.op.replace('_', ' ')} {_shown(rule.value)}"
    return f"{_FIELD[rule.kind]}: needs {wish}, has {has}"


def _shown(value: Any) -> str:
    """Return a value as in JSON, but plain words without quotes: the string "1" is no number."""
    if isinstance(value, tuple):
        return f"({', '.join(_shown(one) for one in value)})"
    if isinstance(value, str) and re.fullmatch(r"[^\W\d][\w.-]*", value):
        return value if value not in ("true", "false", "null", "none") else f'"{value}"'
    return json.dumps(value, ensure_ascii=False)


# -- reading a request's wishes --------------------------------------------------------------------


def rules_of(
    labels: Mapping[str, Any], capabilities: Sequence[Any]
) -> tuple[tuple[Rule, ...], tuple[tuple[Rule, float], ...]]:
    """
    Return what a request's JSON requires, and what it merely prefers, each with its weight.

    Args:
        labels: name to a value (equality), or to {op, value, weight}; op defaults to `=`.
        capabilities: names, or {name, weight}.
    A weight, 0 < weight <= 100, makes a preference of what were a requirement without one.
    Raises: BadRule, a ValueError that names the field and says what is allowed.
    """
    wishes = [_label_wish(name, wish) for name, wish in labels.items()]
    wishes += [_capability_wish(place, wish) for place, wish in enumerate(capabilities)]
    required = dict.fromkeys(rule for rule, weight in wishes if weight is None)
    return tuple(required), tuple((rule, weight) for rule, weight in wishes if weight is not None)


def _label_wish(name: str, wish: Any) -> tuple[Rule, float | None]:
    path = f"labels.{name}"
    if not _NAME.fullmatch(name):
        raise BadRule(path, "a name has 1 to 100 letters, digits or . _ / -")
    if not isinstance(wish, Mapping):
        return Rule("label", name, "=", _scalar(path, wish)), None
    _only(path, wish, "op", "value", "weight")
    op = wish.get("op", "=")
    if not isinstance(op, str) or op not in OPS:
        raise BadRule(f"{path}.op", f"one of {' '.join(OPS)}")
    return Rule("label", name, op, _operand(path, op, wish)), _weight(path, wish)


def _capability_wish(place: int, wish: Any) -> tuple[Rule, float | None]:
    path = f"capabilities.{place}"
    if isinstance(wish, str):
        return Rule("capability", _capability(path, wish), "exists"), None
    if not isinstance(wish, Mapping):
        raise BadRule(path, "a name, or an object with name and weight")
    _only(path, wish, "name", "weight")
    name = _capability(f"{path}.name", wish.get("name"))
    return Rule("capability", name, "exists"), _weight(path, wish)


def _only(path: str, wish: Mapping[str, Any], *allowed: str) -> None:
    unknown = sorted(str(key) for key in wish if key not in allowed)
    if unknown:
        raise BadRule(f"{path}.{unknown[0]}", f"unknown; allowed are {', '.join(allowed)}")


def _capability(path: str, name: Any) -> str:
    if not isinstance(name, str) or not 0 < len(name.strip()) <= MAX_TEXT:
        raise BadRule(path, f"a name of 1 to {MAX_TEXT} characters")
    return name.strip()


def _operand(path: str, op: str, wish: Mapping[str, Any]) -> Any:
    path, value = f"{path}.value", wish.get("value")
    if op in _OF_NONE:
        if "value" in wish:
            raise BadRule(path, f"{op} takes no value")
        return None
    if op in _OF_MANY:
        if not isinstance(value, list | tuple) or not 0 < len(value) <= MAX_CHOICES:
            raise BadRule(path, f"{op} takes a list of 1 to {MAX_CHOICES} values")
        return tuple(_scalar(f"{path}.{place}", one) for place, one in enumerate(value))
    if op in _ORDERING:
        return _number(path, value, f"{op} takes a finite number")
    return _scalar(path, value)


def _scalar(path: str, value: Any) -> str | int | float | bool:
    if isinstance(value, bool) or (isinstance(value, str) and len(value) <= MAX_TEXT):
        return value
    return _number(path, value, _SCALAR)


def _number(path: str, value: Any, allowed: str) -> int | float:
    # The length bounds what a huge whole number costs to compare and to store.
    if not _is_number(value) or len(str(value)) > MAX_TEXT or not isfinite(value):
        raise BadRule(path, allowed)
    good: int | float = value
    return good


def _weight(path: str, wish: Mapping[str, Any]) -> float | None:
    if "weight" not in wish:
        return None
    allowed = f"a number above 0, at most {MAX_WEIGHT}"
    weight = float(_number(f"{path}.weight", wish["weight"], allowed))
    if not 0 < weight <= MAX_WEIGHT:
        raise BadRule(f"{path}.weight", allowed)
    return weight
