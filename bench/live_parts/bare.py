"""
The yardstick of bench/push.py: the least that an application can do to push what is committed.

One LISTEN a process; the notification carries the message; each socket is sent it in turn.
"""

import asyncio
import contextlib
import json
import os
from typing import Any

import psycopg

CHANNEL = "bare_push"

_sends: set[Any] = set()
_tasks: list[asyncio.Task[None]] = []


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve one socket, or a question whether the process is up."""
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})
        return
    if scope["type"] != "websocket":
        return
    if not _tasks:
        _tasks.append(asyncio.create_task(_follow()))
    await receive()
    await send({"type": "websocket.accept"})
    _sends.add(send)
    try:
        while (await receive())["type"] != "websocket.disconnect":
            pass
    finally:
        _sends.discard(send)


async def _follow() -> None:
    async with await psycopg.AsyncConnection.connect(
        os.environ["DATABASE_URL"], autocommit=True
    ) as connection:
        await connection.execute(f"LISTEN {CHANNEL}")
        async for notice in connection.notifies():
            text = json.dumps(json.loads(notice.payload))
            for send in list(_sends):
                with contextlib.suppress(OSError, RuntimeError):
                    await send({"type": "websocket.send", "text": text})
