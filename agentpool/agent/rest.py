"""
Sends calls over plain HTTP with the standard library alone.

The runtime is started many times on one machine; the orchestrator's HTTP client would double its
memory for the few calls it makes beside its websocket.
"""

import http.client
import json
from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

from agentpool.client import errors, exchange
from agentpool.client.calls import Call
from agentpool.client.gateway import encoded

T = TypeVar("T")
_TIMEOUT_S = 10.0


def send(call: Call[T], *, url: str, token: str) -> T:
    """
    Send one call on a connection of its own and return the parsed answer; never repeats it.

    Raises: ApiError; Unreachable, nothing answered in 10 s beyond the call's own wait.
    """
    address = urlsplit(url)
    kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
    connection = kind(
        address.hostname or "127.0.0.1", address.port, timeout=_TIMEOUT_S + call.hold_s
    )
    try:
        connection.request(
            call.method,
            address.path.rstrip("/") + call.path + _query(call.params),
            body=None if call.body is None else encoded(call.body).encode(),
            headers=_headers(call, token),
        )
        response = connection.getresponse()
        reply = _reply(response.status, dict(response.headers.items()), response.read())
    except (OSError, http.client.HTTPException) as error:
        cause = str(error) or type(error).__name__
        raise errors.Unreachable(f"{url} can't be reached: {cause}") from error
    finally:
        connection.close()
    return exchange.answer(call, reply)


def _query(params: Mapping[str, Any]) -> str:
    return f"?{urlencode(params)}" if params else ""


def _headers(call: Call[Any], token: str) -> dict[str, str]:
    headers = {"Accept": "application/json, application/problem+json", **call.headers}
    if call.body is not None:
        headers["Content-Type"] = "application/json"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


def _reply(status: int, headers: Mapping[str, str], content: bytes) -> exchange.Reply:
    text = content.decode("utf-8", "replace")
    try:
        body = json.loads(text) if text else None
    except ValueError:
        body = None
    lowered = {key.lower(): value for key, value in headers.items()}
    return exchange.Reply(status, lowered, body, text[:2000])
