"""The ASGI application: pages and REST by Django, websockets by Channels."""

import gc
import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentpool.settings")
# Threads come and go here, so connections are pooled; see settings.
os.environ.setdefault("AGENTPOOL_DB_POOL", "20")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

# Importing models needs the application above.
from asgiref.sync import iscoroutinefunction  # noqa: E402
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from django.core.handlers.asgi import ASGIHandler  # noqa: E402
from django.urls import Resolver404, resolve  # noqa: E402

from agentpool.console import urls as console  # noqa: E402
from agentpool.gateway import urls as gateway  # noqa: E402
from agentpool.live.listener import listener  # noqa: E402

_people = AuthMiddlewareStack(URLRouter(console.websocket_urlpatterns))
_programs = URLRouter(gateway.websocket_urlpatterns)


async def _websocket(scope: Any, receive: Any, send: Any) -> None:
    """Route a websocket: people's pages have an origin and a session, programs a token."""
    if scope["path"] == "/ws/console/":
        await _people(scope, receive, send)
    elif scope["path"] in ("/ws/gateway/", "/ws/pool/"):
        await _programs(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 4404})


class _WaitingHandler(ASGIHandler):
    """
    Django for asynchronous views: a call that waits costs a coroutine, no thread.

    Django's own gives each call a thread for its middleware and keeps it to the call's end. These
    share one; the views' own work runs in the threads of agentpool.live.threads.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self.handle(scope, receive, send)


_waiting_application = _WaitingHandler()


async def _http(scope: Any, receive: Any, send: Any) -> None:
    """Route a call by the kind of its view."""
    try:
        waits = iscoroutinefunction(resolve(scope["path"]).func)
    except Resolver404:
        waits = False
    await (_waiting_application if waits else django_application)(scope, receive, send)


_router = ProtocolTypeRouter({"http": _http, "websocket": _websocket})


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection; the first one of a process starts its listener."""
    listener.ensure_running()
    await _router(scope, receive, send)


# What is loaded stays: the collector need not walk through it again and again.
gc.collect()
gc.freeze()
