"""How a call goes over the wire with httpx, for both clients."""

from typing import Any

import httpx

from agentpool.client import calls, config, errors, exchange

_CONNECT_S = 5.0
_ANSWER_S = 15.0
_LIMITS = httpx.Limits(max_connections=512, max_keepalive_connections=64, keepalive_expiry=20)


def http_options(settings: config.Config) -> dict[str, Any]:
    """Return what every connection of a client has."""
    headers = {"Accept": "application/json, application/problem+json"}
    if settings.token:
        headers["Authorization"] = f"Bearer {settings.token}"
    options = {"base_url": settings.url, "headers": headers, "limits": _LIMITS}
    if config.is_here(settings.url):
        # Of the environment what it says of certificates, not its proxies.
        options |= {"trust_env": False, "verify": httpx.create_ssl_context()}
    return options


def request_options(call: calls.Call[Any]) -> dict[str, Any]:
    """Return a call in the words of httpx."""
    return {
        "method": call.method,
        "url": call.path,
        "params": dict(call.params) or None,
        "json": call.body,
        "headers": dict(call.headers),
        "timeout": httpx.Timeout(_ANSWER_S + call.hold_s, connect=_CONNECT_S),
    }


def reply(response: httpx.Response) -> exchange.Reply:
    """Return what came back, in our words."""
    try:
        body = response.json() if response.content else None
    except ValueError:
        body = None
    # An error answer names its header in lower case here, whatever the server wrote.
    headers = {key.lower(): value for key, value in response.headers.items()}
    return exchange.Reply(response.status_code, headers, body, response.text[:2000])


def unreachable(error: httpx.HTTPError, url: str) -> errors.Unreachable:
    """Return connection trouble as our error."""
    cause = str(error) or type(error).__name__
    return errors.Unreachable(f"{url} can't be reached: {cause}")
