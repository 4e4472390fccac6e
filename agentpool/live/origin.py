"""Says who opens a websocket by a browser's session, and whether from a page of ours."""

from collections.abc import Mapping
from importlib import import_module
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib import auth
from django.http import HttpRequest

from agentpool.registry import rest
from agentpool.registry.errors import Unauthenticated
from agentpool.registry.rest import Principal


def is_ours(headers: Mapping[bytes, bytes]) -> bool:
    """
    Return whether the page that asks is of the host that is asked, or a trusted one.

    Browsers send cookies for pages of others, too.
    """
    origin = headers.get(b"origin", b"").decode("latin-1")
    own = urlsplit(origin).netloc == headers.get(b"host", b"").decode("latin-1")
    return own or origin in settings.CSRF_TRUSTED_ORIGINS


def person_of(session_key: str) -> Principal:
    """
    Return whose session it is, and what that person may do, as it is now.

    Raises: Unauthenticated, the session has ended, or the person may not sign in any more.
    """
    request = HttpRequest()
    request.session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    user = auth.get_user(request)
    if not user.is_authenticated or not user.is_active:
        raise Unauthenticated("The session has ended: log in again.")
    return rest.principal_of_user(user)
