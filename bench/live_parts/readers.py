"""
Sockets that follow the stream, in a process of its own: how late each event comes, and in order.

Reads orders (a line of JSON each) on stdin: `connect` some to a server, `collect` what came.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

from live_parts.frames import Line, address


class Reader(Line):
    """One socket; events are searched for their number and moment, not parsed."""

    def __init__(self, url: str, path: str, headers: Mapping[str, str]) -> None:
        super().__init__(url, path, headers)
        self.last = -1
        self.in_order = True
        self.late_ms: list[float] = []

    def message(self, text: bytes) -> None:
        """Note an event."""
        now = time.monotonic()
        at = text.find(b'"sent": ')
        if at < 0:
            return  # where the stream begins, or a sign of life
        end = text.find(b"}", at)
        self.late_ms.append(1000 * (now - float(text[at + 8 : end].split(b",")[0])))
        at = text.find(b'"n": ')
        number = int(text[at + 5 : text.find(b",", at)])
        self.in_order = self.in_order and (number == self.last + 1 or self.last < 0)
        self.last = number


class Crowd:
    """All sockets of this process, by the way they follow."""

    def __init__(self) -> None:
        self.readers: dict[str, list[Reader]] = {}

    async def connect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Open sockets."""
        loop = asyncio.get_running_loop()
        made: list[Reader] = []
        for _ in range(order["clients"]):
            _, reader = await loop.create_connection(
                lambda: Reader(order["url"], order["path"], order["headers"]),
                *address(order["url"]),
            )
            made.append(reader)
            if len(made) % 50 == 0:
                await asyncio.gather(*(one.opened for one in made))
        await asyncio.gather(*(one.opened for one in made))
        self.readers[order["way"]] = made
        return {"open": len(made)}

    async def collect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Wait until everybody has so many events, or a time is over; say what came."""
        mine = self.readers[order["way"]]
        deadline = time.monotonic() + order["patience_s"]
        while time.monotonic() < deadline and any(len(r.late_ms) < order["count"] for r in mine):
            await asyncio.sleep(0.05)
        late = sorted(ms for reader in mine for ms in reader.late_ms)
        report = {
            "delivered": len(late) / (order["count"] * len(mine)),
            "in_order": all(reader.in_order for reader in mine),
            "p50_ms": late[len(late) // 2] if late else None,
            "p99_ms": late[len(late) * 99 // 100] if late else None,
            "lost": sum(reader.lost.done() for reader in mine),
        }
        for reader in mine:
            reader.late_ms.clear()
        return report

    async def close(self, order: dict[str, Any]) -> dict[str, Any]:
        """Hang up."""
        for reader in (one for some in self.readers.values() for one in some):
            reader.transport.close()
        self.readers.clear()
        return {}


async def main() -> None:
    """Serve orders until stdin ends."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd, loop = Crowd(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        before = resource.getrusage(resource.RUSAGE_SELF)
        report = await getattr(crowd, order["do"])(order)
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(json.dumps({**report, "cpu_s": used}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
