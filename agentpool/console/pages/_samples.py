"""Reads the samples of the last hour, which the pages with charts share."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from django.db.models.functions import Now

from agentpool.registry import measuring

LOOK_BACK = timedelta(hours=1)


def of_last_hour(*columns: str) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return the samples by pool, in the order of time, each with `at` and these columns."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    rows = measuring.samples().filter(at__gt=Now() - LOOK_BACK).order_by("at")
    for row in rows.values("pool_id", "at", *columns):
        found.setdefault(str(row["pool_id"]), []).append(row)
    return found
