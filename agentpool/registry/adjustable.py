"""
Describes the numbers that a policy may change, and takes some of them.

Pure. Rules are a frozen dataclass whose fields are made by `number` and
`share`: usual value, label, unit and bounds stand in one place for every door.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

_NAME = "setting"
# No number of ours makes sense above it: 30 years in seconds, a petabyte in MB.
MOST = 1e9
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Setting:
    """One number that a policy can set, 0 to `most` (1: a share), and more than `above`."""

    label: str
    unit: str
    most: float
    above: float


def number(
    usual: float, label: str, unit: str = "", *, most: float = MOST, above: float = -math.inf
) -> Any:
    """Return a field of rules; its value is 0 or more."""
    return field(default=usual, metadata={_NAME: Setting(label, unit, most, above)})


def share(usual: float, label: str, unit: str = "", *, above: float = -math.inf) -> Any:
    """Return a field of rules whose value is 0 to 1."""
    return number(usual, label, unit, most=1, above=above)


def settings_of(rules: Any) -> dict[str, Setting]:
    """Return what can be set of rules, or of their class, by name in their order."""
    return {each.name: each.metadata[_NAME] for each in fields(rules)}


def chosen(kind: type[R], settings: Mapping[str, Any]) -> R:
    """Return rules of a kind with some values changed. Raises: ValueError, naming the setting."""
    known = settings_of(kind)
    for name, value in settings.items():
        if name not in known:
            raise ValueError(f"{name}: there is no such setting.")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not value >= 0:
            raise ValueError(f"{name}: a number, 0 or more.")
        most = known[name].most
        if value > most:
            said = "a share, 0 to 1" if most == 1 else f"at most {most:,.0f}"
            raise ValueError(f"{name}: {said}.")
        if value <= known[name].above:
            raise ValueError(f"{name}: above {known[name].above:g}.")
    return kind(**{name: float(value) for name, value in settings.items()})
