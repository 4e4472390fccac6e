"""Pages of lists: each begins after the row that the one before it ended with, whatever changes."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any

from django.core.exceptions import ValidationError as FieldInvalid
from django.db import DataError
from django.db.models import Q, QuerySet
from rest_framework import pagination
from rest_framework.response import Response
from rest_framework.utils.urls import replace_query_param
from rest_framework.views import APIView

from agentpool.registry.errors import Invalid

# What Python, Django and Postgres say of a text that is no place in a list.
_NO_PLACE = (ValueError, OverflowError, DataError, FieldInvalid)


class Pages(pagination.CursorPagination):
    """
    Says how long a page is, and what its cursor is: the values of the last row's ordering columns.

    REST framework's own remembers the first column and how many rows have the same: it leaves out
    or repeats some when these come and go, and never gets past a thousand of them.
    """

    page_size = 100
    max_page_size = 500
    page_size_query_param = "limit"

    def size(self, request: Any) -> int:
        """Return how many rows are wanted."""
        return self.get_page_size(request) or self.page_size

    def place(self, request: Any, columns: int) -> list[str] | None:
        """Return where the page begins, None: at the list's beginning. Raises: ValueError."""
        cursor = request.query_params.get(self.cursor_query_param)
        if cursor is None:
            return None
        values = json.loads(urlsafe_b64decode(cursor.encode("ascii")))
        if not isinstance(values, list) or not all(isinstance(each, str) for each in values):
            raise ValueError("A place is a list of texts.")
        if len(values) != columns:
            raise ValueError("A place has a value of each column.")
        return values

    def following(self, request: Any, values: Sequence[Any]) -> str:
        """Return the address of the page after the row with these values."""
        told = [each.isoformat() if hasattr(each, "isoformat") else str(each) for each in values]
        cursor = urlsafe_b64encode(json.dumps(told).encode()).decode()
        return str(
            replace_query_param(request.build_absolute_uri(), self.cursor_query_param, cursor)
        )


def page(
    view: APIView,
    rows: QuerySet[Any],
    *,
    ordering: tuple[str, ...],
    show: Callable[[list[Any]], Any],
) -> Response:
    """
    Return the page of rows that the request's `cursor` and `limit` name.

    ordering: one column, or two; the last must be unique and none null. Raises: Invalid, the
    cursor is not one of ours.
    """
    pages, request = Pages(), view.request
    size, ordered = pages.size(request), rows.order_by(*ordering)
    try:
        place = pages.place(request, len(ordering))
        begun = ordered if place is None else ordered.filter(_after(ordering, place))
        found = list(begun[: size + 1])
    except _NO_PLACE as error:
        # The place in a cursor is text, which becomes a value of the column only here.
        if "cursor" not in request.query_params:
            raise
        raise Invalid("The cursor is not one that this list gave out.") from error
    shown, following = found[:size], None
    if len(found) > size:
        names = [rows.model._meta.get_field(name.lstrip("-")).attname for name in ordering]
        following = pages.following(request, [getattr(shown[-1], name) for name in names])
    return Response({"results": show(shown), "next": following})


def _after(ordering: Sequence[str], place: Sequence[str]) -> Q:
    """Return what holds of the rows behind a place."""
    beyond = [
        Q(**{f"{name.lstrip('-')}__{'lt' if name.startswith('-') else 'gt'}": value})
        for name, value in zip(ordering, place, strict=True)
    ]
    if len(beyond) == 1:
        return beyond[0]
    first = ordering[0].lstrip("-")
    # The first part alone lets an index on the first column find where to begin.
    reached = "lte" if ordering[0].startswith("-") else "gte"
    return Q(**{f"{first}__{reached}": place[0]}) & (beyond[0] | beyond[1])
