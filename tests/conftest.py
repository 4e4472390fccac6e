"""What every test may ask for: a furnished database, callers of each scope, agents and requests."""

import contextlib
import functools
import itertools
import os
import shutil

import pytest

from tests import database, migrated


def pytest_configure(config):
    # DRF and Django read it once; tests of the reaper set their own windows through `settings`.
    os.environ.setdefault("AGENTPOOL_LOG_LEVEL", "WARNING")


# Each of these starts databases, runtimes or web servers of its own: seconds a test.
SLOW_FOLDERS = ("tests/integration/host/", "tests/integration/agent/")
SLOW_FIXTURES = {"own_web"}


def pytest_collection_modifyitems(config, items):
    for item in items:
        if item.nodeid.startswith(SLOW_FOLDERS) or SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    if chromium or os.environ.get("CI"):
        return  # under CI a missing browser is a failure, not a skip
    skip = pytest.mark.skip(reason="chromium is not installed: make system")
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(skip)


# What migrations made and a running server keeps in memory: it stays as it is for all tests.
FURNITURE = {"django_content_type", "auth_permission", "auth_group", "auth_group_permissions"}


@pytest.fixture(autouse=True, scope="session")
def quick_flush():
    """
    Empty tables by DELETE, in one round trip: truncating small ones takes 300 ms a test, this 10.

    What a migration is followed by, content types and permissions, stays and is not made again.
    """
    from django.core.management.commands import flush
    from django.db import OperationalError
    from django.db.backends.postgresql.operations import DatabaseOperations

    def sql_flush(self, style, tables, **_):
        off, on = "SET session_replication_role = replica", "SET session_replication_role = DEFAULT"
        emptied = sorted(set(tables) - FURNITURE)
        deletes = (f"DELETE FROM {self.quote_name(table)}" for table in emptied)
        # What a relay numbers is emptied with its numbers, or not at all: it locks this, too.
        alone = "LOCK TABLE relay_state IN EXCLUSIVE MODE"
        return ["; ".join((off, alone, *deletes, on))]

    execute = DatabaseOperations.execute_sql_flush

    def execute_sql_flush(self, sql_list):
        """Once more when a server's thread, still at work, wanted the same rows the other way."""
        for _ in range(2):
            with contextlib.suppress(OperationalError):
                execute(self, sql_list)
                break
        else:
            execute(self, sql_list)
        assert _groups(self.connection) >= 3, "This test took groups from all tests after it."

    def _groups(connection):
        with connection.cursor() as cursor:
            cursor.execute("SELECT count(*) FROM auth_group")
            return cursor.fetchone()[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseOperations, "sql_flush", sql_flush)
        patch.setattr(DatabaseOperations, "execute_sql_flush", execute_sql_flush)
        patch.setattr(flush, "emit_post_migrate_signal", lambda *_, **__: None)
        yield


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    django_db_modify_db_settings_parallel_suffix, django_db_blocker, request
):
    """Before pytest-django makes the database: one of several processes migrates for all."""
    if hasattr(request.config, "workerinput"):
        with django_db_blocker.unblock():
            migrated.share(database.MIGRATED)


@pytest.fixture(autouse=True, scope="session")
def no_connection_left(django_db_setup, django_db_blocker):
    """End the connections that service threads keep, or the database could not be dropped."""
    yield
    from django.db import connection

    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


@pytest.fixture(autouse=True)
def quick_passwords(settings):
    """Hash passwords cheaply: each test furnishes an installation with an admin user."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def pools(db):
    """The four pools of a new installation."""
    from agentpool.registry import services

    return services.furnish()


@pytest.fixture
def memory(pools):
    """The pools use the memory driver and may have 0 to 20 agents; return the driver, empty."""
    from agentpool.registry.models import Pool
    from scaling import drivers

    Pool.objects.update(driver="memory", min_size=0, max_size=20)
    driver = drivers.named("memory")
    driver.running.clear()
    yield driver
    driver.running.clear()
    driver.failing = ""


@pytest.fixture
def numbers():
    return itertools.count(1)


@pytest.fixture
def make_agent(pools, numbers):
    """Register an agent that is alive: make_agent("code", max_concurrent=2)."""
    from agentpool.registry import queries
    from balancing.services import agents

    def make(agent_type="code", **fields):
        pool = queries.pool(agent_type)
        slots = fields.get("max_concurrent", 1)
        roomy = {"memory_mb": 1024 * slots, "cpu_cores": slots, "token_budget": 50_000 * slots}
        roomy["disk_space_mb"] = 500 * slots
        name = fields.pop("agent_id", f"{agent_type}-{next(numbers)}")
        return agents.register(
            agent_id=name,
            pool=pool,
            fields={**pool.launch_template, **roomy, **fields},
            by=None,
            actor="test",
        ).agent

    return make


@pytest.fixture
def make_request(pools):
    """An unsaved request: make_request("code", project="p", memory_mb=512)."""
    from agentpool.registry.models import Request

    def make(agent_type="code", **fields):
        fields.setdefault("project", "p")
        fields.setdefault("memory_mb", 1024)
        fields.setdefault("min_memory_mb", fields["memory_mb"])
        fields.setdefault("affinity", "none")
        return Request(pool_id=agent_type, requested_by="test", **fields)

    return make


@pytest.fixture
def submit(make_request):
    """Submit a request and return it as stored, with its lease as `.held` (None: it waits)."""
    from agentpool.registry.models import Request
    from balancing.services import requests

    def do(*args, **fields):
        wish = make_request(*args, **fields)
        lease = requests.submit(wish)
        stored = Request.objects.get(id=wish.id)
        stored.held = lease
        return stored

    return do


@pytest.fixture
def api(pools):
    """Call REST as an operator: api.get("/pools"), api.post("/requests", {...}, token=...)."""
    return Api(pools["operator_token"])


class Api:
    """A caller of the REST interface through Django's whole stack."""

    base = "/api/agent-pool"

    def __init__(self, token):
        from django.test import Client

        self.client = Client()
        self.client.handler = _handler()
        self.token = token

    def call(self, method, path, body=None, *, token=None, raw=None, **headers):
        import json

        names = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in headers.items()}
        secret = self.token if token is None else token
        if secret:
            names["HTTP_AUTHORIZATION"] = f"Bearer {secret}"
        data = raw if raw is not None else json.dumps(body) if body is not None else ""
        answer = self.client.generic(
            method, self.base + path, data, content_type="application/json", **names
        )
        answer.body = json.loads(answer.content) if answer.content else None
        return answer

    def get(self, path, **more):
        return self.call("GET", path, **more)

    def post(self, path, body=None, **more):
        return self.call("POST", path, {} if body is None else body, **more)

    def patch(self, path, body, **more):
        return self.call("PATCH", path, body, **more)

    def delete(self, path, **more):
        return self.call("DELETE", path, **more)


@functools.cache
def _handler():
    """Django's stack, made once: its middleware looks at every static file, for 18 ms."""
    from django.test.client import ClientHandler

    return ClientHandler(enforce_csrf_checks=False)


@pytest.fixture
def token_of(pools):
    """A token of a scope: token_of("viewer")."""
    from agentpool.registry import services
    from agentpool.registry.states import Scope

    def make(scope):
        return services.token(
            scope=Scope(scope), name=f"a {scope}", expires_in_s=None, actor="test"
        ).secret

    return make


@pytest.fixture
def whole():
    """Assert that every invariant of the tables holds, now and after the test."""
    from agentpool.registry import queries

    def check():
        assert queries.broken_invariants() == {}

    yield check
    check()
