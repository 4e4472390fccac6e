"""
A pytest plugin, loaded before Django's settings: gives each test run a Postgres of its own.

DATABASE_URL wins; else the embedded server runs as the instance `test-PID`, without waiting for the
disk, because its data is thrown away at the end. Two runs at once do not meet.
"""

import os
import re
import shutil

import psutil
import psycopg
import pytest
from psycopg import sql

from agentpool.host import installation, postgres

os.environ.setdefault("AGENTPOOL_SECRET_KEY", "tests")
os.environ.setdefault("AGENTPOOL_INSTANCE", f"test-{os.getpid()}")

# The name of the database that is migrated for all test processes: they inherit it.
MIGRATED = os.environ.setdefault("AGENTPOOL_TESTS_MIGRATED", f"migrated_{os.getpid()}")
_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_started = None


def _start():
    """Start the server, after removing what runs that were killed have left."""
    global _started
    if os.environ.get("DATABASE_URL"):
        return
    _started = installation.current()
    for left in _started.root.glob("test-*") if _started.root.is_dir() else ():
        pid = re.fullmatch(r"test-(\d+)", left.name)
        if pid and not psutil.pid_exists(int(pid[1])):
            _remove(installation.Installation(**{**vars(_started), "instance": left.name}))
    os.environ["DATABASE_URL"] = postgres.start(_started, settings=_QUICK)


def _remove(instance):
    postgres.stop(instance, mode="immediate")
    shutil.rmtree(instance.home, ignore_errors=True)


_start()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if _started is not None:
        _remove(_started)
    elif not hasattr(config, "workerinput"):
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(MIGRATED))
            )
