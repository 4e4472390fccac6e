"""What all works of one runtime share."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentpool.agent import isolation
from agentpool.agent.enrolment import Identity
from agentpool.agent.link import Link


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all works of a runtime share."""

    identity: Identity
    link: Link
    workdir: Path
    slots: threading.Semaphore
    means: isolation.Means
    # The levels that this runtime offers; bare: its `process` is no isolation at all.
    levels: Sequence[str] = ("process",)
    is_bare: bool = False
    exec_line: str | None = None
    secrets_dir: Path | None = None
    may_start: Callable[[], bool] = lambda: True
    # Called at the end of each work.
    on_over: Callable[[], None] = lambda: None
    # After this moment nobody waits for an answer any more; None: no such moment.
    leaves_at: Callable[[], float | None] = lambda: None
