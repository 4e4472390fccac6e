"""A pytest plugin: connections to the gateway of a real daphne; load it after serving."""

import contextlib

import pytest
from websockets.sync.client import connect

from tests.browser import serving
from tests.integration.gateway_talk import Line


@pytest.fixture
def own_web(transactional_db, pulse_thread, tmp_path):
    """A daphne with settings of its own: own_web(AGENTPOOL_FLUSH_S="30")."""
    with contextlib.ExitStack() as started:

        def start(**env):
            with pytest.MonkeyPatch.context() as patch:
                for name, value in env.items():
                    patch.setenv(name, value)
                web = serving.Web(log=tmp_path / "daphne.log")
                started.callback(web.stop)
                web.start()
            return web

        yield start


@pytest.fixture
def line(web):
    """Connect a program: line() or line(Authorization="Bearer ...")."""
    address = web.url.replace("http", "ws", 1) + "/ws/gateway/"
    with contextlib.ExitStack() as opened:

        def dial(**headers):
            socket = connect(address, additional_headers=headers, open_timeout=20, close_timeout=1)
            return Line(opened.enter_context(socket))

        yield dial


@pytest.fixture
def enrolled(api):
    """Register an agent as an agent does; returns its JSON with `credential`."""

    def enrol(agent_id, agent_type="code", **fields):
        token = api.post(f"/pools/{agent_type}/enrolment-tokens").body["token"]
        body = {"agent_id": agent_id, "agent_type": agent_type, **fields}
        answer = api.post("", body, token=token)
        assert answer.status_code == 201, answer.body
        return answer.body

    return enrol


@pytest.fixture
def worker(line, enrolled):
    """An agent that has said hello: worker("a1") returns its line."""

    def start(agent_id="a1", **fields):
        mine = line()
        assert mine.call("hello", token=enrolled(agent_id, **fields)["credential"])["ok"]
        return mine

    return start


@pytest.fixture
def boss(line, token_of):
    """An orchestrator that has said hello."""
    mine = line()
    assert mine.call("hello", token=token_of("orchestrator"))["scope"] == "orchestrator"
    return mine
