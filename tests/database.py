"""
A pytest plugin, loaded before Django's settings: gives the tests a Postgres of their own.

DATABASE_URL wins; else the embedded server runs as the instance `test`, without waiting for the
disk (its data is thrown away), and is stopped at the end.
"""

import os

import pytest

os.environ.setdefault("AGENTPOOL_SECRET_KEY", "tests")
os.environ.setdefault("AGENTPOOL_INSTANCE", "test")

_QUICK = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
_started = None


def _start():
    global _started
    if os.environ.get("DATABASE_URL"):
        return
    from agentpool.host import installation, postgres

    _started = installation.current()
    os.environ["DATABASE_URL"] = postgres.start(_started, settings=_QUICK)


_start()


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    if _started is not None:
        from agentpool.host import postgres

        postgres.stop(_started, mode="immediate")
