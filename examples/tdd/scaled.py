"""Lets the demo's pools scale by themselves, and watches how large they are."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from agentpool.client import Client
from agentpool.client.errors import ApiError

LEAST = 1
LOOK_EVERY_S = 1.0
MOST_ROWS = 30
_SUPPLY = ("starting", "standby", "idle", "busy")


@dataclass(frozen=True)
class Look:
    """How the pools stood: seconds from the start; agents by pool; requests that waited in all."""

    t_s: float
    agents: tuple[int, ...]
    waiting: int


@dataclass
class Sizes:
    """What was seen of these pools, in the order of time."""

    pools: Sequence[str]
    looks: list[Look] = field(default_factory=list)

    @property
    def is_drained(self) -> bool:
        """Whether each pool had no more than its minimum when it was last looked at."""
        return bool(self.looks) and set(self.looks[-1].agents) == {LEAST}


def start(pools: Sequence[str], *, most: int) -> Callable[[], None]:
    """Let each pool have 1 to `most` agents by itself; return what takes that back."""
    before = []
    with Client() as client:
        modes = {row["agent_type"]: row for row in client.scaling_policies()["results"]}
        for pool in pools:
            row = modes[pool]
            before.append((pool, row["mode"], row["min_size"], row["max_size"]))
            client.change_pool(pool, changes={"min_size": LEAST, "max_size": most})
            client.set_scaling_policy(policy={"agent_type": pool, "mode": "auto"})

    def take_back() -> None:
        with Client() as client:
            for pool, mode, least, largest in before:
                client.set_scaling_policy(policy={"agent_type": pool, "mode": mode})
                client.change_pool(pool, changes={"min_size": least, "max_size": largest})

    return take_back


@contextlib.contextmanager
def watched(pools: Sequence[str]) -> Iterator[Sizes]:
    """Look at the pools once a second, until the block ends."""
    sizes, is_over = Sizes(pools), threading.Event()
    began = time.monotonic()

    def watch() -> None:
        with Client() as client:
            while not is_over.wait(LOOK_EVERY_S):
                with contextlib.suppress(ApiError):  # a look that fails is one look less
                    sizes.looks.append(_look(client, pools, time.monotonic() - began))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield sizes
    finally:
        is_over.set()
        thread.join()


def _look(client: Client, pools: Sequence[str], t_s: float) -> Look:
    agents = [each for each in client.agents(limit=500).items if each.status in _SUPPLY]
    counts = tuple(sum(each.agent_type == pool for each in agents) for pool in pools)
    waiting = sum(each["queue_depth"] for each in client.metrics_summary()["pools"])
    return Look(t_s, counts, waiting)


def wait_until_drained(sizes: Sizes, *, within_s: float) -> bool:
    """Wait until each pool is down to its minimum; return whether it is."""
    deadline = time.monotonic() + within_s
    with Console().status("waiting until the pools have drained …"):
        while time.monotonic() < deadline and not sizes.is_drained:
            time.sleep(LOOK_EVERY_S)
    return sizes.is_drained


def report(sizes: Sizes) -> None:
    """Print the sizes at each change, and how large each pool became."""
    changes = [
        look
        for before, look in zip([None, *sizes.looks], sizes.looks, strict=False)
        if before is None or before.agents != look.agents
    ]
    table = Table(title="Agents over time", title_justify="left", box=None, pad_edge=False)
    for name in ("after", *sizes.pools, "waiting"):
        table.add_column(name, justify="right")
    for look in changes[:MOST_ROWS]:
        table.add_row(f"{look.t_s:.0f} s", *map(str, look.agents), str(look.waiting))
    most = [max(look.agents[n] for look in sizes.looks) for n in range(len(sizes.pools))]
    last = sizes.looks[-1].agents
    table.add_row("most", *map(str, most), str(max(look.waiting for look in sizes.looks)))
    table.add_row("last", *map(str, last), str(sizes.looks[-1].waiting))
    Console(highlight=False).print(table)
    if len(changes) > MOST_ROWS:
        print(f"{len(changes) - MOST_ROWS} more changes are not shown.")
