"""
What an orchestrator imports: `Client`, `AsyncClient`, their errors and values, the batch runner.

Names are resolved when first used, because the agent runtime shares `calls` and `errors` and
must not pay for the HTTP client it never opens.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentpool.client.api import Client
    from agentpool.client.async_api import AsyncClient
    from agentpool.client.config import Config
    from agentpool.client.errors import (
        ApiError,
        CapacityExhausted,
        LeaseLost,
        Unreachable,
        Unsatisfiable,
    )
    from agentpool.client.held import AsyncHeldLease, HeldLease
    from agentpool.client.hosting import Host
    from agentpool.client.models import Agent, Event, Lease, Request

__all__ = [
    "Agent",
    "ApiError",
    "AsyncClient",
    "AsyncHeldLease",
    "CapacityExhausted",
    "Client",
    "Config",
    "Event",
    "HeldLease",
    "Host",
    "Lease",
    "LeaseLost",
    "Request",
    "Unreachable",
    "Unsatisfiable",
]

_HOMES = {
    "Agent": "models",
    "ApiError": "errors",
    "AsyncClient": "async_api",
    "AsyncHeldLease": "held",
    "CapacityExhausted": "errors",
    "Client": "api",
    "Config": "config",
    "Event": "models",
    "HeldLease": "held",
    "Host": "hosting",
    "Lease": "models",
    "LeaseLost": "errors",
    "Request": "models",
    "Unreachable": "errors",
    "Unsatisfiable": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
