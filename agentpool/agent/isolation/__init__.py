"""
Isolated environments: where the command of a lease runs.

Each tier (process, container, virtual machine) offers `create(spec)`; what it returns can run one
command, be measured, and be destroyed with everything the command left behind.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

# Weakest first: a stronger tier satisfies a demand for a weaker one.
LEVELS = ("process", "container", "virtual_machine")
# The tiers that this runtime has; others are announced only when they are there.
_MODULES = {"process": "agentpool.agent.isolation.process"}


class IsolationUnavailable(Exception):
    """No tier of this machine is strong enough for the work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """What an environment is made for; `folder` is the private folder of the lease."""

    lease_id: str
    folder: Path
    grant: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How a command ended; a code below 0 is the number of the signal that killed it."""

    code: int
    cpu_seconds: float = 0.0
    peak_memory_mb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What the environment uses now; memory in MB, CPU in seconds since its start."""

    memory_mb: float = 0.0
    cpu_seconds: float = 0.0


class Environment(Protocol):
    """One isolated environment; it runs one command in its life."""

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """
        Start the command; return the descriptors of its stdout and stderr.

        Raises: OSError, it can't be started (FileNotFoundError: there is no such program).
        """

    def poll(self) -> Exit | None:
        """Return how the command ended, None while it runs."""

    def measure(self) -> Measure:
        """Return what everything in the environment uses now."""

    def terminate(self) -> None:
        """Ask everything in the environment to end."""

    def kill(self) -> None:
        """End everything in the environment now."""

    def destroy(self) -> None:
        """Remove the environment and whatever still runs in it; may be called twice."""


class Tier(Protocol):
    """A way to isolate work."""

    def create(self, spec: Spec) -> Environment:
        """Return a new environment."""


def tier(wanted: str) -> Tier:
    """Return the weakest tier here that is at least `wanted`. Raises: IsolationUnavailable."""
    rank = LEVELS.index(wanted) if wanted in LEVELS else len(LEVELS)
    for level in LEVELS[rank:]:
        if level in _MODULES:
            return cast(Tier, importlib.import_module(_MODULES[level]))
    raise IsolationUnavailable(f"isolation {wanted} is asked, this agent has {levels()}")


def levels() -> list[str]:
    """Return the levels that this machine can offer."""
    return [level for level in LEVELS if level in _MODULES]
