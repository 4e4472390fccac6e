"""How a program reads the event stream, for the tests that are one."""

import json

from websockets.sync.client import connect

from agentpool.registry import events
from tests.integration.gateway_talk import SOON_S


def dial(web, after=None, **headers):
    path = "/ws/pool/" + (f"?after={after}" if after is not None else "")
    url = web.url.replace("http", "ws", 1) + path
    # Whoever goes in the middle of a stream need not read its end.
    return connect(url, additional_headers=headers, open_timeout=20, close_timeout=1, max_size=None)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def hear(socket, timeout_s=SOON_S):
    return json.loads(socket.recv(timeout=timeout_s))


def events_of(socket, count, timeout_s=SOON_S):
    """The next events, without what only says that the line lives, or that a token was made."""
    found = []
    while len(found) < count:
        message = hear(socket, timeout_s)
        assert "error" not in message, message
        is_event = "seq" in message and message["kind"] != "token.created"
        found += [message] if is_event else []
    return found


def tell(*numbers):
    for number in numbers:
        events.append("test", agent_type="code", actor="test", n=number)
