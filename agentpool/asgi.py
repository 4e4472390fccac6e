"""The ASGI application: pages and REST by Django, websockets by Channels."""

import os
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentpool.settings")
# Threads come and go here, so connections are pooled; see settings.
os.environ.setdefault("AGENTPOOL_DB_POOL", "20")

from django.core.asgi import get_asgi_application

django_application = get_asgi_application()

# Importing models needs the application above.
from channels.auth import AuthMiddlewareStack  # noqa: E402
from channels.routing import ProtocolTypeRouter, URLRouter  # noqa: E402
from channels.security.websocket import AllowedHostsOriginValidator  # noqa: E402

from agentpool.console import urls as console  # noqa: E402
from agentpool.gateway import urls as gateway  # noqa: E402
from agentpool.live.listener import listener  # noqa: E402

_people = AllowedHostsOriginValidator(AuthMiddlewareStack(URLRouter(console.websocket_urlpatterns)))
_programs = URLRouter(gateway.websocket_urlpatterns)


async def _websocket(scope: Any, receive: Any, send: Any) -> None:
    """Route a websocket: pages have an origin and a session, programs a token."""
    if scope["path"].startswith("/ws/console"):
        await _people(scope, receive, send)
    elif scope["path"].startswith("/ws/gateway"):
        await _programs(scope, receive, send)
    else:
        await send({"type": "websocket.close", "code": 4404})


_router = ProtocolTypeRouter({"http": django_application, "websocket": _websocket})


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Serve one connection; the first one of a process starts its listener."""
    listener.ensure_running()
    await _router(scope, receive, send)
