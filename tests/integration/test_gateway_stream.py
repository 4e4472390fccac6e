"""The event stream at /ws/pool/: in order, from any number, for whoever may look, whatever dies."""

import contextlib
import functools
import json
import time

import pytest
from django.contrib.auth import get_user_model
from django.db import connection
from django.test import Client
from websockets.exceptions import ConnectionClosed

from agentpool.gateway import stream
from agentpool.registry import events
from agentpool.registry.models import Credential, Event, EventNumber
from tests.integration.gateway_talk import SOON_S
from tests.integration.stream_talk import bearer, dial, events_of, hear, tell

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
pytestmark = pytest.mark.django_db(transaction=True)


def settled():
    """
    Where the stream stands once everything that was told has its number.

    A reader that does not say where to begin begins where the web process is, which may be among
    the events of an earlier test, and those are no longer kept.
    """
    poll(lambda: not Event.objects.filter(number=None).exists())
    return position()


def poll(look):
    deadline = time.monotonic() + 20
    while not look():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def position():
    with connection.cursor() as cursor:
        cursor.execute("SELECT last_seq FROM relay_state")
        return cursor.fetchone()[0]


def test_events_come_as_rest_shows_them_in_order(web, token_of, api):
    token = token_of("viewer")
    with dial(web, after=settled(), **bearer(token)) as socket:
        ready = hear(socket)
        tell(*range(5))
        found = events_of(socket, 1)
        while found[-1]["detail"].get("n") != 4:
            found += events_of(socket, 1)

    assert ready["ready"]
    assert [event["detail"]["n"] for event in found[-5:]] == [0, 1, 2, 3, 4]
    assert found == api.get(f"/events?after={ready['after']}").body["events"]


def test_a_reader_goes_on_after_the_last_number_it_saw(web, token_of):
    token, start = token_of("viewer"), settled()
    # More than one page of the table.
    Event.objects.bulk_create(Event(kind="test", detail={"n": n}) for n in range(1200))
    events.nudge_on_commit()
    assert settled() == start + 1200
    with dial(web, after=start, **bearer(token)) as socket:
        first = events_of(socket, 700)
    tell(1200)

    with dial(web, after=first[-1]["seq"], **bearer(token)) as socket:
        rest = events_of(socket, 501)

    assert [event["detail"]["n"] for event in first + rest] == list(range(1201))


def test_what_is_no_longer_kept_is_gone(web, token_of):
    token, start = token_of("viewer"), settled()
    tell(1, 2, 3)
    assert settled() == start + 3
    EventNumber.objects.filter(seq__lte=start + 2).delete()

    with dial(web, after=start or 1, **bearer(token)) as socket:
        assert hear(socket)["ready"]
        assert hear(socket)["error"]["code"] == "gone"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=SOON_S)
        assert socket.close_code == 4410


@pytest.mark.parametrize(
    ("headers", "code"),
    [({"Authorization": "Bearer nonsense"}, 4401), ({"Authorization": "Basic x"}, 4401)],
)
def test_a_wrong_token_is_refused(web, pools, headers, code):
    with dial(web, **headers) as socket:
        assert hear(socket)["error"]["code"] == "unauthenticated"
        with pytest.raises(ConnectionClosed):
            socket.recv(timeout=SOON_S)
        assert socket.close_code == code


def test_an_agent_may_not_read_the_stream(web, enrolled):
    with dial(web, **bearer(enrolled("a1")["credential"])) as socket:
        assert hear(socket)["error"]["code"] == "forbidden"


@pytest.mark.parametrize("after", ["x", "-1", "9" * 17, "9" * 30])
def test_a_wrong_number_is_refused(web, token_of, after):
    with dial(web, after=after, **bearer(token_of("viewer"))) as socket:
        assert hear(socket)["error"]["code"] == "invalid"


def test_the_token_may_come_as_the_first_message(web, token_of):
    with dial(web) as socket:
        socket.send(json.dumps({"token": token_of("operator")}))
        assert hear(socket)["ready"]


def test_a_page_reads_with_its_session_and_a_foreign_page_does_not(web, pools):
    user = get_user_model().objects.create_user("looker", password="x")
    browser = Client()
    browser.force_login(user)
    cookie = f"agentpool_session={browser.cookies['agentpool_session'].value}"

    with dial(web, Cookie=cookie, Origin=web.url) as socket:
        assert hear(socket)["ready"]
    with dial(web, Cookie=cookie, Origin="http://evil.example") as socket:
        socket.send("{}")  # it must say who it is, as anybody
        assert hear(socket)["error"]["code"] == "unauthenticated"


@pytest.mark.slow
def test_a_revoked_token_reads_no_more_however_much_there_is_to_read(web, api, token_of):
    token = token_of("orchestrator")
    with dial(web, after=settled(), **bearer(token)) as socket:
        assert hear(socket)["ready"]
        api.delete(f"/tokens/{Credential.objects.get(scope='orchestrator').id}")
        deadline, message = time.monotonic() + stream.PING_EVERY_S + SOON_S, {}
        while "error" not in message and time.monotonic() < deadline:
            tell(1)
            time.sleep(0.2)
            message = hear(socket)

    assert message["error"]["code"] == "unauthenticated"


def test_an_orchestrator_sees_its_own_requests_only(web, api, token_of, make_agent, submit):
    make_agent(max_concurrent=2)
    token = token_of("orchestrator")
    start = settled()
    with dial(web, after=start, **bearer(token)) as socket:
        assert hear(socket)["ready"]
        submit()
        api.post("/requests", {"agent_type": "code", "project": "p"}, token=token)
        tell("last")
        pushed = []
        while not pushed or pushed[-1]["kind"] != "test":
            pushed += events_of(socket, 1)

    mine = {event["request_id"] for event in pushed if event["request_id"]}
    assert len(mine) == 1
    polled = api.get(f"/events?after={start}", token=token).body["events"]
    assert {event["request_id"] for event in polled if event["request_id"]} == mine
    everything = api.get(f"/events?after={start}").body["events"]
    assert len({event["request_id"] for event in everything if event["request_id"]}) == 2


@pytest.mark.slow
def test_a_line_lives_for_its_reader_also_while_others_are_busy(web, token_of, submit):
    token = token_of("orchestrator")
    with dial(web, after=settled(), **bearer(token)) as socket:
        assert hear(socket)["ready"]

        deadline, told = time.monotonic() + 25, {}
        while "ping" not in told:
            assert time.monotonic() < deadline, "no ping: the line seems dead"
            submit()
            with contextlib.suppress(TimeoutError):
                told = hear(socket, 1)


def test_what_is_no_hello_is_refused_and_leaves_no_trace(web, pools):
    for said in ("[" * 50_000, '"token"', b"x", '{"token": "\\ud800"}'):
        with dial(web) as socket:
            socket.send(said)
            assert hear(socket)["error"]["code"] == "unauthenticated"


@pytest.mark.slow
def test_a_slow_reader_misses_nothing_and_holds_up_nobody(web, token_of, eventually):
    token, start, many = token_of("viewer"), settled(), 6000
    line = functools.partial(dial, web, after=start, **bearer(token))
    with line() as slow, line() as quick:
        assert hear(slow)["ready"]
        assert hear(quick)["ready"]
        Event.objects.bulk_create(
            Event(kind="test", actor="x" * 2000, detail={"n": n}) for n in range(many)
        )
        events.nudge_on_commit()

        heard = events_of(quick, many, 20)
        eventually(lambda: position() >= start + many)
        late = events_of(slow, many, 20)

    assert [event["detail"]["n"] for event in heard] == list(range(many))
    assert [event["detail"]["n"] for event in late] == list(range(many))


def test_a_web_process_listens_once_for_all_its_readers(web, token_of):
    with contextlib.ExitStack() as opened:
        for _ in range(5):
            assert hear(opened.enter_context(dial(web, **bearer(token_of("viewer")))))["ready"]
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name = 'agentpool live' AND query NOT LIKE '%%advisory%%'"
                " AND pid IN (SELECT pid FROM pg_stat_activity WHERE client_port IS NOT NULL)"
                " AND (query LIKE 'LISTEN agentpool_events%%' OR query LIKE 'SELECT seq%%')"
            )
            assert cursor.fetchone()[0] == 1
