"""
Isolated environments: where the command of a lease runs.

Each tier (process, container, virtual machine) offers `create(spec)`; what it returns can run one
command, be measured, resized, and be destroyed with everything the command left behind. Inside,
every tier looks the same: the workspace is /lease/work, what the work may read of the lease is in
/lease/in, what it reports goes to /lease/out.
"""

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, cast

from agentpool.agent.isolation.policy import Policy

# Weakest first: a stronger tier satisfies a demand for a weaker one.
LEVELS = ("process", "container", "virtual_machine")
_MODULES = {
    "process": "agentpool.agent.isolation.process",
    "container": "agentpool.agent.isolation.container",
    "virtual_machine": "agentpool.agent.isolation.vm",
}
# Runs work as a plain process of this user, and holds nothing of a policy but its time.
BARE = "agentpool.agent.isolation.bare"
# Where the lease's folder is, seen from inside.
INSIDE = Path("/lease")


# The kinds of incidents; the control plane takes no others.
KINDS = (
    "denied_network",
    "denied_write",
    "denied_syscall",
    "denied_signal",
    "tool_refused",
    "killed_for_memory",
    "killed_for_disk",
    "too_many_processes",
    "timed_out",
    "over_token_budget",
)


class IsolationUnavailable(Exception):
    """This machine can't isolate work as asked; the message says why, and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """
    Something that the sandbox refused, or ended the work for.

    kind: one of KINDS.
    """

    kind: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """
    What this runtime was given to isolate with.

    cache: a folder that outlives leases. exposed: further folders that all work may read.
    image: the container's image. kernel, disk: of the virtual machine.
    """

    cache: Path
    exposed: tuple[Path, ...] = ()
    image: str = ""
    kernel: Path | None = None
    disk: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """
    What an environment is made for.

    runtime: the name of the one that makes it (`enrolment.runtime_name`). folder: the private
    folder of the lease. place: the workspace, in the folder or one that was there before. origin:
    the local repository that it was cloned from, None: there is none.
    """

    lease_id: str
    runtime: str
    folder: Path
    place: Path
    policy: Policy
    means: Means
    origin: Path | None = None


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Enforcement:
    """Which aspects of the policy this environment holds, and which it only tells the work."""

    tier: str
    enforced: tuple[str, ...] = ()
    declared: tuple[str, ...] = field(default_factory=tuple)


class Environment(Protocol):
    """One isolated environment; it runs one command in its life."""

    enforcement: Enforcement
    # Where the workspace's local origin is reached from inside, empty: nowhere else than outside.
    origin_url: str

    def inside(self, path: Path) -> Path:
        """Return what a path of the lease's folder or workspace is called inside."""

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """
        Start the command; return the descriptors of its stdout and stderr. `cwd` is of outside.

        Raises: OSError, it can't be started (FileNotFoundError: there is no such program).
        """

    def poll(self) -> Exit | None:
        """Return how the command ended, None while it runs."""

    def measure(self) -> Measure:
        """Return what everything in the environment uses now."""

    def breach(self) -> Incident | None:
        """Return the limit that the work has broken, for which it must be ended now."""

    def incidents(self) -> list[Incident]:
        """Return what was refused since the last call."""

    def resize(self, policy: Policy) -> bool:
        """Take changed limits; return whether they hold now."""

    def terminate(self) -> None:
        """Ask everything in the environment to end."""

    def kill(self) -> None:
        """End everything in the environment now."""

    def destroy(self) -> None:
        """Remove the environment and whatever still runs in it; may be called twice."""


class Tier(Protocol):
    """A way to isolate work."""

    def create(self, spec: Spec) -> Environment:
        """Return a new environment. Raises: IsolationUnavailable, OSError."""

    def missing(self, means: Means) -> str:
        """Return why this machine can't offer the tier, and what mends it; empty: it can."""

    def remove_left(self, runtime: str) -> int:
        """End and remove what a killed runtime of this name left behind; return how many."""


def tier(level: str, *, bare: bool = False) -> Tier:
    """Return the tier of a level; bare: for `process`, the one that only runs the command."""
    name = BARE if bare and level == LEVELS[0] else _MODULES[level]
    return cast(Tier, importlib.import_module(name))


def weakest(wanted: str, offered: Sequence[str]) -> str:
    """Return the weakest offered level that is at least `wanted`. Raises: IsolationUnavailable."""
    rank = LEVELS.index(wanted) if wanted in LEVELS else len(LEVELS)
    for level in LEVELS[rank:]:
        if level in offered:
            return level
    raise IsolationUnavailable(
        f"isolation {wanted} is asked, this agent has {', '.join(offered) or 'none'}"
    )
