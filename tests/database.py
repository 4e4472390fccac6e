"""
A pytest plugin, loaded before Django's settings: gives each test run a Postgres of its own.

DATABASE_URL wins; else the embedded server runs as the instance `test-PID`, without waiting for the
disk, because its data is thrown away at the end. Two runs at once do not meet.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

import psutil
import psycopg
import pytest
from psycopg import sql

from agentpool.host import installation, postgres

os.environ.setdefault("AGENTPOOL_SECRET_KEY", "tests")
os.environ.setdefault("AGENTPOOL_INSTANCE", f"test-{os.getpid()}")

# What is migrated for all test processes of a run has this name: they inherit it.
MIGRATED = os.environ.setdefault("AGENTPOOL_TESTS_MIGRATED", f"migrated_{os.getpid()}")
QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
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
    for left in Path(tempfile.gettempdir()).glob("agentpool-migrated_*"):
        if not psutil.pid_exists(int(left.name.rpartition("_")[2])):
            shutil.rmtree(left, ignore_errors=True)
    os.environ["DATABASE_URL"] = postgres.start(_started, settings=QUICK)


def _remove(instance):
    postgres.stop(instance, mode="immediate")
    shutil.rmtree(instance.home, ignore_errors=True)


_start()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if hasattr(config, "workerinput"):
        return
    shutil.rmtree(Path(tempfile.gettempdir()) / f"agentpool-{MIGRATED}", ignore_errors=True)
    if _started is not None:
        _remove(_started)
    else:
        with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
            connection.execute(
                sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(MIGRATED))
            )
