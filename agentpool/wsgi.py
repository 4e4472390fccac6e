"""
The WSGI application, for a server with threads: all of Django, and nothing that waits.

REST costs less than half of what it does under ASGI. There a call that waits is a coroutine; here
it would hold a thread, so doors that can wait serve their plain view, which refuses to.
"""

import gc
import os
from collections.abc import Callable, Iterable
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentpool.settings")

import django
from django.core.handlers.exception import convert_exception_to_response
from django.core.handlers.wsgi import WSGIHandler, get_script_name
from django.http import HttpRequest
from django.urls import ResolverMatch, set_script_prefix

django.setup(set_prefix=False)

from django.middleware.common import CommonMiddleware  # noqa: E402
from django.middleware.security import SecurityMiddleware  # noqa: E402

_API = "/api/agent-pool"


class _PlainHandler(WSGIHandler):
    """Django with the plain view of each door that can wait."""

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Return view and arguments of a request."""
        match = super().resolve_request(request)
        match.func = getattr(match.func, "plain", match.func)
        return match


class _ProgramHandler(_PlainHandler):
    """The same for programs, which bring a token: what serves browsers only is left out."""

    def load_middleware(self, is_async: bool = False) -> None:
        """Compose what a call with a token needs: sessions, forms, files and pages are not it."""
        self._view_middleware: list[Any] = []
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        handler: Any = self._get_response  # type: ignore[attr-defined]
        for layer in (CommonMiddleware, SecurityMiddleware):
            handler = convert_exception_to_response(layer(convert_exception_to_response(handler)))
        self._middleware_chain = handler

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        """
        Answer one call, as Django's own handler does but for the signal at its start.

        What that does for the thread's connection, the one at its end does, too.
        """
        set_script_prefix(get_script_name(environ))
        request = self.request_class(environ)
        response = self.get_response(request)
        cookies = [("Set-Cookie", c.output(header="")) for c in response.cookies.values()]
        start_response(
            f"{response.status_code} {response.reason_phrase}", [*response.items(), *cookies]
        )
        return response


_pages, _programs = _PlainHandler(), _ProgramHandler()
# What is loaded stays: the collector need not walk through it again and again.
gc.collect()
gc.freeze()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Serve a call: with a bearer token to the API, or any other one."""
    has_token = environ.get("HTTP_AUTHORIZATION", "")[:7].lower() == "bearer "
    is_program = has_token and environ.get("PATH_INFO", "").startswith(_API)
    answer: Iterable[bytes] = (_programs if is_program else _pages)(environ, start_response)
    return answer
