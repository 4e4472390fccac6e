"""
Runs the (synchronous) services from asynchronous doors, in threads with connections of their own.

Channels' database_sync_to_async has one thread for the whole process outside of a request; calls
of a hundred agents would stand in line behind each other.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from django.db import close_old_connections

P = ParamSpec("P")
T = TypeVar("T")

THREADS = int(os.environ.get("AGENTPOOL_DB_THREADS", "6"))
_executor = ThreadPoolExecutor(THREADS, thread_name_prefix="service")


async def in_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what the call returns; it runs in a thread that may use the database."""

    def run() -> T:
        close_old_connections()
        try:
            return call(*args, **kwargs)
        finally:
            close_old_connections()

    return await asyncio.get_running_loop().run_in_executor(_executor, run)
