"""Narrows an admin list to a stretch of time, in UTC."""

from datetime import UTC
from typing import Any

from django.db.models import QuerySet
from django.http import HttpRequest
from unfold.contrib.filters.admin import RangeDateTimeFilter
from unfold.utils import parse_datetime_str


class Between(RangeDateTimeFilter):
    """
    From a moment to another; a day without a time is meant whole.

    unfold's own takes what was typed for a time without a zone, which warns at each use and
    overflows at the ends of all years.
    """

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows of that time; what is no date narrows nothing."""
        bounds = {}
        for end, lookup, hour in (("from", "gte", "00:00:00"), ("to", "lte", "23:59:59")):
            day, time = (self.used_parameters.get(f"{self.field_path}_{end}_{n}") for n in (0, 1))
            if day and (moment := parse_datetime_str(f"{day} {time or hour}")):
                bounds[f"{self.field_path}__{lookup}"] = moment.replace(tzinfo=UTC)
        return queryset.filter(**bounds)
