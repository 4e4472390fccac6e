"""
What a driver must do: start, find, judge and stop the runtime of one agent.

A driver holds no state of its own: everything it needs to find a runtime again is in the handle,
which the launch's row keeps. docs/drivers.md explains how to write one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Handle = dict[str, Any]


class DriverError(Exception):
    """A runtime could not be started or stopped; the message says why."""


@dataclass(frozen=True)
class Spec:
    """
    The runtime to start.

    launch_id: marks the runtime, so that a start whose result was never stored is found again.
    env: how it reaches the control plane and enrols; slots: leases at once; root: the folder below
    which runtimes of this installation keep their files. offers: of memory_mb, cpu_cores,
    token_budget and disk_space_mb what the agent offers, without what is 0; resources: what it
    takes of the driver's own kinds, an amount by name.
    """

    launch_id: str
    agent_id: str
    agent_type: str
    slots: int
    exec: str
    root: str
    env: Mapping[str, str]
    offers: Mapping[str, float] = field(default_factory=dict)
    resources: Mapping[str, float] = field(default_factory=dict)


class Driver(Protocol):
    """Starts and stops runtimes somewhere."""

    def start(self, spec: Spec) -> Handle:
        """Start a runtime that outlives this process; raises DriverError."""
        ...

    def find(self, launch_id: str) -> Handle | None:
        """Return the handle of a runtime that was started for a launch, None: there is none."""
        ...

    def reaches(self, handle: Handle) -> bool:
        """Return whether this process can judge and end that runtime from where it runs."""
        ...

    def is_alive(self, handle: Handle) -> bool:
        """Return whether the runtime still runs."""
        ...

    def stop(self, handle: Handle, *, urgent: bool) -> None:
        """Ask a runtime to end: after its work, or (urgent) cancelling it. Gone already is fine."""
        ...

    def kill(self, handle: Handle) -> None:
        """End a runtime and its work at once. Gone already is fine."""
        ...

    def clean(self, handle: Handle) -> None:
        """Remove what an ended runtime has left behind. Gone already is fine."""
        ...
