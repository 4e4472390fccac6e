"""Other servers than daphne: granian serves REST and the gateway, and a WSGI listener beside it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec

import httpx
import pytest
from websockets.sync.client import connect

from agentpool.checks import the_server_is_there
from agentpool.host import ports, probes, servers, up
from agentpool.host.installation import HostError
from agentpool.host.probes import Site
from agentpool.host.servers import Servers

pytest_plugins = ["tests.browser.serving"]
START_S = 60
needs_granian = pytest.mark.skipif(
    find_spec("granian") is None and not os.environ.get("CI"), reason="granian is not installed"
)


# -- which one -------------------------------------------------------------------------------------


def test_daphne_serves_alone_when_nothing_is_said():
    assert servers.chosen(environ={}) == Servers(kind="daphne", wsgi_port=None)
    assert servers.asgi(Servers(), site=Site())[0] == "daphne"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"AGENTPOOL_SERVER": "apache"}, "there are: daphne, granian"),
        ({"AGENTPOOL_WSGI_PORT": "http"}, "not a TCP port"),
        ({"AGENTPOOL_WSGI_PORT": "70000"}, "not a TCP port"),
        ({"AGENTPOOL_WEB_WORKERS": "0"}, "not a number of processes"),
    ],
)
def test_a_choice_that_cannot_be_served_is_refused(environ, said):
    with pytest.raises(HostError, match=said):
        servers.chosen(environ=environ)


@pytest.mark.parametrize("name", ["AGENTPOOL_SERVER", "AGENTPOOL_WSGI_PORT"])
def test_granian_that_is_not_installed_is_named_with_the_way_out(monkeypatch, name):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    monkeypatch.setenv(name, "granian" if name == "AGENTPOOL_SERVER" else "8601")

    (error,) = the_server_is_there()

    assert error.id == "agentpool.E004"
    assert name in error.msg
    assert "pip install 'agentpool[fast]'" in error.msg


def test_the_second_listener_is_supervised_on_the_same_address():
    web = Servers(kind="granian", wsgi_port=8700)
    found = up.children(site=Site(bind="::1"), env={}, stale_after_s=15, web=web)

    assert [child.name for child in found] == ["web", "wsgi", "jobs", "pulse"]
    assert {"::1", "8700", "wsgi"} <= set(found[1].argv)
    assert "AGENTPOOL_DB_POOL" not in found[1].env


# -- served ----------------------------------------------------------------------------------------


class Served:
    """One granian on the test database."""

    def __init__(self, command, *, log, pooled):
        self.site = Site(port=ports.any_free())
        self.url, self.log = self.site.url, log
        self._command, self._more = command, {"AGENTPOOL_DB_POOL": "4"} if pooled else {}

    def __enter__(self):
        from tests.browser import serving  # a plugin: pytest itself must be the first to import it

        web = Servers(kind="granian")
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *self._command(web, site=self.site)],
                env={**serving._environment(), **self._more},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        serving.poll(self._is_up, timeout_s=START_S)
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        assert "Traceback" not in self.log.read_text(), self.log.read_text()[-3000:]

    def _is_up(self):
        assert self.process.poll() is None, self.log.read_text()[-3000:]
        return probes.is_alive(self.site)

    def call(self, token, path, body=None, *, timeout_s=30):
        method = "GET" if body is None else "POST"
        return httpx.request(
            method,
            f"{self.url}/api/agent-pool{path}",
            json=body,
            headers={"Authorization": f"Bearer {token}"},
            timeout=timeout_s,
        )


@pytest.fixture(scope="module")
def granian(django_db_setup, django_db_blocker, tmp_path_factory):
    log = tmp_path_factory.mktemp("granian") / "asgi.log"
    with Served(servers.asgi, log=log, pooled=True) as served:
        yield served


@pytest.fixture(scope="module")
def plain(django_db_setup, django_db_blocker, tmp_path_factory):
    log = tmp_path_factory.mktemp("granian") / "wsgi.log"
    with Served(servers.wsgi, log=log, pooled=False) as served:
        yield served


real = [
    needs_granian,
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("whole"),
]


class TestGranian:
    pytestmark = [*real, pytest.mark.usefixtures("pulse_thread")]

    def test_rest_grants_and_takes_back(self, granian, token_of, make_agent):
        make_agent("code")
        token = token_of("orchestrator")

        lease = granian.call(token, "/requests", {"agent_type": "code", "project": "p"})
        path = f"/leases/{lease.json()['id']}/release"
        ended = granian.call(token, path, {"fencing_token": lease.json()["fencing_token"]})

        assert (lease.status_code, ended.status_code) == (201, 200)
        assert ended.json()["status"] == "released"

    def test_a_waiting_call_is_woken_by_its_grant(self, granian, token_of, make_agent):
        token, wish = token_of("orchestrator"), {"agent_type": "code", "project": "p"}
        make_agent("code")
        held = granian.call(token, "/requests", wish).json()
        waits = granian.call(token, "/requests", wish).json()

        path = f"/leases/{held['id']}/release"
        granian.call(token, path, {"fencing_token": held["fencing_token"]})
        found = granian.call(token, f"/requests/{waits['id']}?wait=20&seen=waiting")

        assert found.json()["status"] == "granted"

    def test_the_gateway_grants_and_takes_back(self, granian, token_of, make_agent):
        make_agent("code")
        address = granian.url.replace("http", "ws", 1) + "/ws/gateway/"
        headers = {"Authorization": f"Bearer {token_of('orchestrator')}"}

        with connect(address, additional_headers=headers, open_timeout=20) as socket:
            hello = json.loads(socket.recv(timeout=20))
            wish = {"id": 1, "op": "acquire", "agent_type": "code", "project": "p"}
            lease = _answer(socket, wish)["lease"]
            fenced = {"lease_id": lease["id"], "fencing_token": lease["fencing_token"]}
            ended = _answer(socket, {"id": 2, "op": "release", **fenced})

        assert (hello["ok"], ended["ok"]) == (True, True)
        assert ended["lease"]["status"] == "released"

    def test_it_stops_in_time_with_connections_open(self, tmp_path, token_of):
        address = "/ws/gateway/"
        with Served(servers.asgi, log=tmp_path / "log", pooled=True) as served:
            url = served.url.replace("http", "ws", 1) + address
            with connect(url, open_timeout=20):
                began = time.monotonic()
                served.process.send_signal(signal.SIGTERM)
                served.process.wait(timeout=8)

        assert time.monotonic() - began < 5


def _answer(socket, message):
    socket.send(json.dumps(message))
    while True:
        answer = json.loads(socket.recv(timeout=20))
        if answer.get("id") == message["id"]:
            return answer


class TestTheListenerWithThreads:
    pytestmark = real

    def test_rest_grants_and_takes_back(self, plain, token_of, make_agent):
        make_agent("code")
        token = token_of("orchestrator")

        lease = plain.call(token, "/requests", {"agent_type": "code", "project": "p", "wait_s": 0})
        path = f"/leases/{lease.json()['id']}/release"
        ended = plain.call(token, path, {"fencing_token": lease.json()["fencing_token"]})

        assert (lease.status_code, ended.status_code) == (201, 200)

    def test_what_cannot_be_granted_waits_in_the_queue(self, plain, token_of):
        answer = plain.call(
            token_of("orchestrator"), "/requests", {"agent_type": "code", "project": "p"}
        )

        assert (answer.status_code, answer.json()["status"]) == (202, "waiting")

    def test_a_request_that_asks_to_wait_is_refused(self, plain, token_of):
        wish = {"agent_type": "code", "project": "p", "wait_s": 30}
        answer = plain.call(token_of("orchestrator"), "/requests", wish)

        assert (answer.status_code, answer.json()["code"]) == (400, "invalid")
        assert answer.json()["errors"] == [{"field": "wait_s", "message": "Not taken here."}]
        assert "Nothing waits at this listener" in answer.json()["detail"]

    @pytest.mark.parametrize("path", ["/events?after=0&wait=5", "/nobody/offers?wait=5"])
    def test_a_look_that_asks_to_wait_is_refused(self, plain, token_of, path):
        began = time.monotonic()
        answer = plain.call(token_of("operator"), path)

        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "wait")
        assert time.monotonic() - began < 4

    def test_a_look_without_waiting_is_answered(self, plain, token_of):
        answer = plain.call(token_of("viewer"), "/events?after=0")

        assert answer.status_code == 200

    def test_who_calls_must_say_who_it_is(self, plain, token_of):
        assert plain.call("wrong", "/requests", {}).status_code == 401
        assert plain.call(token_of("viewer"), "/requests", {}).status_code == 403

    def test_pages_are_served_too(self, plain, pools):
        page = httpx.get(f"{plain.url}/admin/login/", timeout=20)

        assert page.status_code == 200
