"""Lets nobody in who has not signed in, and leads who was signed out meanwhile to the sign-in."""

from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import redirect_to_login
from django.http import HttpRequest, HttpResponse
from django_htmx.http import HttpResponseClientRedirect

View = Callable[..., HttpResponse]


def signed_in(view: View) -> View:
    """
    Return a view for people who are signed in.

    A part that an open page asks for is answered by sending the whole page to the sign-in, and back
    to where it was: the sign-in must not show inside of a dialog.
    """
    guarded: View = login_required(view)

    @wraps(view)
    def door(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        htmx = getattr(request, "htmx", None)
        if not htmx or request.user.is_authenticated:
            return guarded(request, *args, **kwargs)
        # Of the address that the browser shows only what is below this server.
        shown = urlsplit(htmx.current_url_abs_path or settings.LOGIN_REDIRECT_URL)
        back = shown.path + (f"?{shown.query}" if shown.query else "")
        return HttpResponseClientRedirect(redirect_to_login(back).url)

    return door
