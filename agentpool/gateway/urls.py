"""Paths of the doors that can wait, below /api/agent-pool, and the gateway's websocket."""

from typing import Any

from django.urls import path, re_path

from agentpool.gateway import waiting
from agentpool.gateway.socket import gateway
from agentpool.gateway.stream import stream
from agentpool.registry import converters  # noqa: F401  (importing registers them)

urlpatterns = [
    path("/requests", waiting.requests),
    path("/requests/<uuid:request_id>", waiting.request_detail),
    path("/leases/<uuid:lease_id>/log", waiting.lease_log),
    path("/events", waiting.events),
    path("/<agent_id:agent_id>/offers", waiting.offers),
]

# Plain ASGI applications, which the router of channels takes as they are.
_gateway: Any = gateway
_stream: Any = stream
websocket_urlpatterns = [
    re_path(r"^ws/gateway/$", _gateway),
    re_path(r"^ws/pool/$", _stream),
]
