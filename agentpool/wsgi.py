"""
The WSGI application, for a server with threads: all of Django, and nothing that waits.

REST costs less than half of what it does under ASGI. There a call that waits is a coroutine; here
it would hold a thread, so doors that can wait serve their plain view, which refuses to.
"""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "agentpool.settings")

import django
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest
from django.urls import ResolverMatch

django.setup(set_prefix=False)


class _PlainHandler(WSGIHandler):
    """Django with the plain view of each door that can wait."""

    def resolve_request(self, request: HttpRequest) -> ResolverMatch:
        """Return view and arguments of a request."""
        match = super().resolve_request(request)
        match.func = getattr(match.func, "plain", match.func)
        return match


application = _PlainHandler()
