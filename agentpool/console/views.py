"""Pages for people; each works without JavaScript, the websocket makes it live."""

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import is_valid_path

from agentpool.console.draw import draw
from agentpool.console.page import Page
from agentpool.console.pages import PAGES
from agentpool.console.signin import signed_in
from agentpool.registry import rest
from agentpool.registry.errors import NotFound
from agentpool.registry.rest import principal_of_user


def page_view(page: Page) -> Callable[..., HttpResponse]:
    """Return the view of a page of the table."""

    @signed_in
    def view(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        params = page.params_of({**request.GET.dict(), **kwargs})
        may_act = principal_of_user(request.user).is_operator
        try:
            board, _, picture = draw(page, params, may_act=may_act)
        except NotFound as error:
            raise Http404(error.detail) from error
        context = {
            "page": page,
            "params": params,
            "board": board,
            "now": picture["now"],
            "subject": picture.get("subject", ""),
            "may_act": may_act,
            "menu": [each for each in PAGES.values() if each.menu],
            "live_query": urlencode({"page": page.name, **{k: v for k, v in params.items() if v}}),
        }
        return render(request, "console/page.html", context)

    return view


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """
    Return the answer for a path that leads nowhere: a page for browsers, else as REST has it.

    A page whose address came with a slash too many or too few is shown the way.
    """
    if request.path.startswith("/api/") or "text/html" not in request.headers.get("Accept", ""):
        return rest.not_found(request, exception)
    meant = request.path[:-1] if request.path.endswith("/") else f"{request.path}/"
    if request.method == "GET" and request.resolver_match is None and is_valid_path(meant):
        query = request.META["QUERY_STRING"]
        return redirect(f"{meant}?{query}" if query else meant)
    menu = [each for each in PAGES.values() if each.menu]
    return render(request, "console/not_found.html", {"menu": menu}, status=404)
