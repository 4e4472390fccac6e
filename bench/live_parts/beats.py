"""
Hosts that send heartbeats: a load generator in a process of its own.

Reads orders (a line of JSON each) on stdin and answers each with a line. `connect` opens hosts and
says hello for their agents; `flood` sends as much as is answered; `pace` sends each agent's beat
once an interval; `rest` posts them one after the other.
"""

import asyncio
import json
import resource
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

from live_parts.frames import Line, address, frame

# Beats of each agent that may wait for their answers, which come about once a second.
WINDOW = 3
HELLOS_AT_ONCE = 50
GROUP = 100


class Host(Line):
    """One connection that speaks for some agents."""

    def __init__(self, url: str, agents: list[str], errors: Counter[str]) -> None:
        super().__init__(url, "/ws/gateway/", {})
        self.errors = errors
        self.hellos = [frame(_hello(name)) for name in agents]
        self.singles = [frame(_beat(name)) for name in agents]
        groups = [agents[i : i + GROUP] for i in range(0, len(agents), GROUP)]
        self.groups = [(frame(_beats(names)), len(names)) for names in groups]
        self.waiting = self.answered = 0
        self.weight = 1
        self.news = asyncio.Event()

    def message(self, text: bytes) -> None:
        """Count an answer."""
        if b'"ok": true' in text[:60] or b'"ok":true' in text[:60]:
            self.answered += self.weight
        else:
            self.errors[text[:200].decode(errors="replace")] += 1
        self.waiting -= 1
        self.news.set()

    async def greet(self) -> None:
        """Say hello for all agents, some at a time."""
        for start in range(0, len(self.hellos), HELLOS_AT_ONCE):
            some = self.hellos[start : start + HELLOS_AT_ONCE]
            self.send(b"".join(some), len(some))
            await self.until(0)

    def send(self, frames: bytes, count: int) -> None:
        """This will send some messages."""
        self.waiting += count
        self.transport.write(frames)

    async def until(self, most: int) -> None:
        """Wait until at most so many wait for an answer."""
        while self.waiting > most:
            self.news.clear()
            if self.lost.done():
                raise ConnectionError("the server hung up")
            await asyncio.wait_for(self.news.wait(), 60)

    async def flood(self, way: str, until: float) -> None:
        """Send round after round, as long as few enough are under way."""
        if way == "ws_single":
            bursts = [(b"".join(self.singles), len(self.singles))]
        else:
            bursts = [(b"".join(frames for frames, _ in self.groups), len(self.groups))]
            self.weight = GROUP
        while time.perf_counter() < until:
            for frames, count in bursts:
                await self.until((WINDOW * FLOODS[way] - 1) * count)
                self.send(frames, count)
        await self.until(0)
        self.weight = 1


# An aggregated message is small for what it says: more of them must be under way to fill a flush.
FLOODS = {"ws_single": 1, "ws_aggregated": 10}


def _hello(name: str) -> bytes:
    return json.dumps({"id": 0, "op": "hello", "token": f"ap_{name}"}).encode()


def _beat(name: str) -> bytes:
    return json.dumps({"id": 1, "op": "heartbeat", "agent_id": name, "incarnation": 1}).encode()


def _beats(names: list[str]) -> bytes:
    agents = [{"agent_id": name, "incarnation": 1} for name in names]
    return json.dumps({"id": 1, "op": "heartbeat", "agents": agents}).encode()


class Generator:
    """The hosts, and what they have been told by the server."""

    def __init__(self) -> None:
        self.hosts: list[Host] = []
        self.errors: Counter[str] = Counter()

    async def connect(self, order: dict[str, Any]) -> dict[str, Any]:
        """Open the hosts and say hello for everybody."""
        began = time.perf_counter()
        loop = asyncio.get_running_loop()
        names, each = order["agents"], order["each"]
        for first in range(0, len(names), each):
            some = names[first : first + each]
            made = loop.create_connection(
                lambda some=some: Host(order["url"], some, self.errors), *address(order["url"])
            )
            _, host = await made
            await host.opened
            self.hosts.append(host)
        await asyncio.gather(*(host.greet() for host in self.hosts))
        for host in self.hosts:
            host.answered = 0
        return {"hello_s": time.perf_counter() - began}

    async def flood(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send as much as is answered."""
        before = sum(host.answered for host in self.hosts)
        began = time.perf_counter()
        until = began + order["seconds"]
        await asyncio.gather(*(host.flood(order["way"], until) for host in self.hosts))
        count = sum(host.answered for host in self.hosts) - before
        return {"count": count, "seconds": time.perf_counter() - began}

    async def pace(self, order: dict[str, Any]) -> dict[str, Any]:
        """Send each agent's beat once an interval, the hosts evenly spread over it."""
        before = sum(host.answered for host in self.hosts)
        began = time.perf_counter()
        every_s = order["interval_s"] / len(self.hosts)
        number = late = 0
        while (due := began + number * every_s) < began + order["seconds"]:
            pause = due - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            late += pause < -1
            host = self.hosts[number % len(self.hosts)]
            if order["way"] == "ws_single":
                host.send(b"".join(host.singles), len(host.singles))
            else:
                for frames, count in host.groups:
                    host.weight = count
                    host.send(frames, 1)
            number += 1
        await asyncio.gather(*(host.until(0) for host in self.hosts))
        count = sum(host.answered for host in self.hosts) - before
        for host in self.hosts:
            host.weight = 1
        return {"count": count, "seconds": time.perf_counter() - began, "late": late}

    async def close(self, order: dict[str, Any]) -> dict[str, Any]:
        """Hang up."""
        for host in self.hosts:
            host.transport.close()
        self.hosts.clear()
        return {}

    async def rest(self, order: dict[str, Any]) -> dict[str, Any]:
        """Post heartbeats, one after the other on each connection."""
        until = time.perf_counter() + order["seconds"]
        began = time.perf_counter()
        posts = [
            _post(order["url"], order["agents"][number :: order["clients"]], until, self.errors)
            for number in range(order["clients"])
        ]
        counts = await asyncio.gather(*posts)
        return {"count": sum(counts), "seconds": time.perf_counter() - began}


async def _post(url: str, agents: list[str], until: float, errors: Counter[str]) -> int:
    reader, writer = await asyncio.open_connection(*address(url))
    body = b'{"incarnation":1}'
    host, count = urlsplit(url).netloc, 0
    while time.perf_counter() < until:
        name = agents[count % len(agents)]
        head = (
            f"POST /api/agent-pool/{name}/heartbeat HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer ap_{name}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        writer.write(head.encode() + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        lowered = answer.lower()
        size = int(lowered.split(b"content-length:")[1].split(b"\r\n")[0])
        said = await reader.readexactly(size)
        if b" 200 " in answer[:16]:
            count += 1
        else:
            errors[(answer[:16] + said[:200]).decode(errors="replace")] += 1
    writer.close()
    return count


async def main() -> None:
    """Serve orders until stdin ends."""
    generator, loop = Generator(), asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        if "names" in order:
            order["agents"] = [f"beat-{n}" for n in range(*order["names"])]
        before = resource.getrusage(resource.RUSAGE_SELF)
        try:
            report = await getattr(generator, order["do"])(order)
        except (OSError, TimeoutError) as error:
            generator.errors[f"{type(error).__name__}: {error}"] += 1
            report = {"count": 0, "seconds": 1.0}
        after = resource.getrusage(resource.RUSAGE_SELF)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        errors, generator.errors = dict(generator.errors.most_common(5)), Counter()
        for host in generator.hosts:
            host.errors = generator.errors
        print(json.dumps({**report, "cpu_s": used, "errors": errors}), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
