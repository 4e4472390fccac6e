"""The few column and constraint shapes that several tables share."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Func, Q


class NextVal(Func):
    """`nextval('name')`: the next number of a Postgres sequence, as a column default."""

    function = "nextval"
    template = "%(function)s('%(sequence)s')"
    output_field = models.BigIntegerField()

    def __init__(self, sequence: str) -> None:
        super().__init__(sequence=sequence)

    def deconstruct(self) -> tuple[str, tuple[Any, ...], dict[str, Any]]:
        """Let migrations write the expression down."""
        path = f"{self.__class__.__module__}.{self.__class__.__qualname__}"
        return path, (self.extra["sequence"],), {}


def choices(enum: type[StrEnum] | type[IntEnum]) -> list[tuple[str | int, str]]:
    """Return a column's choices from its enum, as plain values."""
    return [(v.value, v.name.lower()) for v in enum]


def values(members: Iterable[StrEnum]) -> list[str]:
    """Return some members' plain values in a fixed order, as migrations need them."""
    return sorted(member.value for member in members)


def one_of(table: str, field: str, values: Iterable[StrEnum | IntEnum]) -> models.CheckConstraint:
    """Return the constraint that holds a column to its enum; a test compares the two."""
    return models.CheckConstraint(
        condition=Q(**{f"{field}__in": [v.value for v in values]}),
        name=f"{table}_{field}_legal",
    )


def never_negative(table: str, *fields: str) -> models.CheckConstraint:
    """Return the constraint that keeps amounts at zero or above."""
    condition = Q()
    for field in fields:
        condition &= Q(**{f"{field}__gte": 0})
    return models.CheckConstraint(condition=condition, name=f"{table}_amounts_not_negative")


class WrittenJSON(models.JSONField):
    """
    A column for JSON that is written once and handed on as it is (`json`, not `jsonb`).

    Kept as text it is neither taken apart for storage nor put together for each answer. What asks
    for a part of it says so by KT("column__part"): of `json` there is no equality.
    """

    def db_type(self, connection: Any) -> str:
        """Return the type in the database."""
        return "json"

    def from_db_value(self, value: Any, expression: Any, connection: Any) -> Any:
        """Return the value; the driver reads this type itself, but for parts of it."""
        if isinstance(value, str):
            return super().from_db_value(value, expression, connection)
        return value


def words() -> ArrayField[Any, Any]:
    """Return a column for a list of short words."""
    return ArrayField(models.TextField(), default=list, blank=True)


def cores(**options: Any) -> models.DecimalField[Any, Any]:
    """Return a column for CPU cores: a decimal, because sums of floats drift."""
    return models.DecimalField(max_digits=9, decimal_places=3, **options)


def money(**options: Any) -> models.DecimalField[Any, Any]:
    """Return a column for US dollars."""
    return models.DecimalField(max_digits=12, decimal_places=6, **options)
