"""
Says whether an agent can serve a request, and if not, what it lacks, in numbers.

Pure. The claim asks the same in SQL (`fits_1`); a test holds the two together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentpool.registry.states import IsolationLevel, SecurityLevel


@dataclass(frozen=True)
class Capacity:
    """
    What an agent (or a launch template) offers.

    Amounts are what is asked about: all of it, or what is free. Memory and disk in MB, CPU in
    cores, tokens in tokens.
    """

    memory_mb: int
    cpu_cores: float
    token_budget: int
    disk_space_mb: int
    security_level: SecurityLevel
    isolation_levels: Sequence[IsolationLevel]
    tools: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    labels: Mapping[str, Any] = field(default_factory=dict)
    agent_id: str = ""


@dataclass(frozen=True)
class Needs:
    """What a request asks for, in the units of Capacity."""

    memory_mb: int
    cpu_cores: float
    token_budget: int
    disk_space_mb: int
    security_level: SecurityLevel
    isolation_level: IsolationLevel
    special_tools: frozenset[str] = frozenset()
    capabilities: frozenset[str] = frozenset()
    labels: Mapping[str, Any] = field(default_factory=dict)
    avoid_agents: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Lack:
    """One thing that is missing: its name, and a sentence with the numbers."""

    name: str
    sentence: str


_AMOUNTS = (
    ("memory_mb", "memory", "MB"),
    ("cpu_cores", "CPU", "cores"),
    ("token_budget", "token budget", "tokens"),
    ("disk_space_mb", "disk", "MB"),
)


def lacks(capacity: Capacity, needs: Needs) -> tuple[Lack, ...]:
    """Return what an agent lacks for a request, in a fixed order; empty: it fits."""
    return (
        *_amounts(capacity, needs),
        *_levels(capacity, needs),
        *_words("special_tools", "tools", needs.special_tools - capacity.tools),
        *_words("capabilities", "capabilities", needs.capabilities - capacity.capabilities),
        *_labels(capacity, needs),
        *_avoided(capacity, needs),
    )


def fits(capacity: Capacity, needs: Needs) -> bool:
    """Return whether nothing is lacking."""
    return not lacks(capacity, needs)


def _amounts(capacity: Capacity, needs: Needs) -> list[Lack]:
    return [
        Lack(
            name, f"{word}: needs {getattr(needs, name):g} {unit}, has {getattr(capacity, name):g}"
        )
        for name, word, unit in _AMOUNTS
        if getattr(needs, name) > getattr(capacity, name)
    ]


def _levels(capacity: Capacity, needs: Needs) -> list[Lack]:
    found = []
    if needs.security_level > capacity.security_level:
        wants, has = needs.security_level.name.lower(), capacity.security_level.name.lower()
        found.append(Lack("security_level", f"security: needs {wants}, has {has}"))
    # A stronger isolation satisfies a weaker one.
    if needs.isolation_level > max(capacity.isolation_levels):
        wants = needs.isolation_level.name.lower()
        has = max(capacity.isolation_levels).name.lower()
        found.append(Lack("isolation_level", f"isolation: needs {wants}, has at most {has}"))
    return found


def _words(name: str, word: str, missing: frozenset[str]) -> list[Lack]:
    return [Lack(name, f"{word}: lacks {', '.join(sorted(missing))}")] if missing else []


def _labels(capacity: Capacity, needs: Needs) -> list[Lack]:
    wrong = [
        f"{name}={value}"
        for name, value in sorted(needs.labels.items())
        if name not in capacity.labels or capacity.labels[name] != value
    ]
    return [Lack("labels", f"labels: lacks {', '.join(wrong)}")] if wrong else []


def _avoided(capacity: Capacity, needs: Needs) -> list[Lack]:
    if capacity.agent_id and capacity.agent_id in needs.avoid_agents:
        return [Lack("avoid_agents", f"{capacity.agent_id} is to be avoided")]
    return []
