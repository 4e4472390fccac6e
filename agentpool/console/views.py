"""Pages for people; each works without JavaScript, the websocket makes it live."""

from typing import Any
from uuid import UUID

from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render

from agentpool.console import pictures, reasons
from agentpool.registry.errors import NotFound


@login_required
def pool(request: HttpRequest) -> HttpResponse:
    """Show pools, agents and queue, filtered."""
    filters = pictures.filters_of(request.GET)
    return render(request, "console/pool.html", pictures.pool_picture(filters))


@login_required
def lease(request: HttpRequest, lease_id: UUID) -> HttpResponse:
    """Show one lease and what its work printed."""
    try:
        context: dict[str, Any] = pictures.lease_picture(lease_id)
    except NotFound as error:
        raise Http404(error.detail) from error
    return render(request, "console/lease.html", context)


@login_required
def request(request: HttpRequest, request_id: UUID) -> HttpResponse:
    """Show why a request got its agent, or why it waits."""
    try:
        context = reasons.request_picture(request_id)
    except NotFound as error:
        raise Http404(error.detail) from error
    return render(request, "console/request.html", context)
