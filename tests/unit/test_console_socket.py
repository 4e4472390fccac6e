"""A console page whose browser goes while something is sent to it."""

import asyncio
import logging

from agentpool.console.socket import ConsoleSocket


class Drawn(ConsoleSocket):
    """A page that has one thing to send; no database is asked for it."""

    async def _follow(self):
        await self._push("<p>news</p>")


def test_a_browser_that_is_gone_is_no_fault(caplog):
    sent = []

    async def send(message):
        sent.append(message["type"])
        raise RuntimeError("Attempt to send on a closed protocol")

    async def draw():
        page = Drawn()
        page.base_send, page.told = send, asyncio.Event()
        page.told.set()
        await page._draw()

    with caplog.at_level(logging.WARNING):
        asyncio.run(draw())

    assert sent == ["websocket.send"]  # and nothing after it: no close of what is closed
    assert not caplog.records
