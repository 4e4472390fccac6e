"""The values that callers may send: each kind refuses what Postgres can't store."""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from enum import IntEnum
from typing import Any, NoReturn

from rest_framework import serializers

MAX_INT = 2**31 - 1
MAX_BIGINT = 2**53 - 1  # the largest integer that JSON readers in JavaScript keep exact


class Number(serializers.FloatField):
    """A finite number."""

    def to_internal_value(self, data: Any) -> float:
        """Return the number; booleans, NaN and infinities are refused."""
        if isinstance(data, bool):
            raise serializers.ValidationError("A valid number is required.")
        value = super().to_internal_value(data)
        if not math.isfinite(value):
            raise serializers.ValidationError("Must be finite.")
        return value


class Seconds(Number):
    """A duration, seconds."""


class Cores(serializers.DecimalField):
    """CPU cores with three decimals, shown as a number."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_value", 4096)
        super().__init__(
            max_digits=9,
            decimal_places=3,
            coerce_to_string=False,
            min_value=Decimal(0),
            **options,
        )

    def to_representation(self, value: Any) -> Any:
        """Return a plain number."""
        return float(value)


class Whole(serializers.IntegerField):
    """A whole number within what a column and a JSON reader can hold."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("min_value", 0)
        options.setdefault("max_value", MAX_INT)
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> int:
        """Return the number; booleans are refused."""
        if isinstance(data, bool):
            raise serializers.ValidationError("A valid integer is required.")
        return int(super().to_internal_value(data))


class Text(serializers.CharField):
    """A short string."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_length", 200)
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> str:
        """Return the text; only JSON strings are taken, numbers would lose their form."""
        if not isinstance(data, str):
            raise serializers.ValidationError("Not a valid string.")
        return str(super().to_internal_value(data))


class Choice(serializers.ChoiceField):
    """One of some words, all of which a refusal names."""

    def fail(self, key: str, **said: Any) -> NoReturn:
        """Refuse the value."""
        if key == "invalid_choice":
            words = ", ".join(map(str, self.choices))
            raise serializers.ValidationError(f'"{said["input"]}" is none of {words}.')
        super().fail(key, **said)


class Words(serializers.ListField):
    """A list of short words without repeats."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_length", 100)
        super().__init__(child=Text(max_length=200), **options)

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the words in their order, each once."""
        return list(dict.fromkeys(super().to_internal_value(data)))


class Flag(serializers.BooleanField):
    """true or false, nothing that merely looks like it."""

    def to_internal_value(self, data: Any) -> bool:
        """Return the flag."""
        if not isinstance(data, bool):
            raise serializers.ValidationError("Must be true or false.")
        return data


class Object(serializers.JSONField):
    """A JSON object that Postgres can store."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Return the object."""
        if not isinstance(data, dict):
            raise serializers.ValidationError("Must be an object.")
        check_storable(data)
        return data


class Value(serializers.JSONField):
    """Any JSON value that Postgres can store."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the value."""
        check_storable(data)
        return data


class Labels(Object):
    """A flat object of short names to strings, numbers or booleans."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Return the labels."""
        labels = super().to_internal_value(data)
        if len(labels) > 100:
            raise serializers.ValidationError("At most 100 labels.")
        for name, value in labels.items():
            if not re.fullmatch(r"[A-Za-z0-9._/-]{1,100}", name):
                raise serializers.ValidationError(f"{name!r} cannot be the name of a label.")
            if not isinstance(value, str | int | float | bool) or len(str(value)) > 200:
                raise serializers.ValidationError(f"{name}: a short string, number or boolean.")
        return labels


class Level(serializers.Field):  # type: ignore[type-arg]
    """One of an ordered enum's names, stored as its number."""

    def __init__(self, enum: type[IntEnum], **options: Any) -> None:
        self.enum = enum
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> int:
        """Return the level's number."""
        names = {member.name.lower(): member.value for member in self.enum}
        if not isinstance(data, str) or data not in names:
            raise serializers.ValidationError(f"One of: {', '.join(names)}.")
        return int(names[data])

    def to_representation(self, value: int) -> str:
        """Return the level's name."""
        return self.enum(value).name.lower()


class Levels(serializers.ListField):
    """A list of an ordered enum's names, at least one."""

    def __init__(self, enum: type[IntEnum], **options: Any) -> None:
        options.setdefault("max_length", len(enum))
        super().__init__(child=Level(enum), allow_empty=False, **options)


def check_storable(value: Any, depth: int = 20) -> None:
    """
    Refuse a JSON value that Postgres cannot store: it has no NUL, no lone surrogate, no infinity.

    Raises: ValidationError, also where it is nested more than `depth` deep.
    """
    if depth < 0:
        raise serializers.ValidationError("Nested too deeply.")
    match value:
        case str():
            if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
                raise serializers.ValidationError("NUL and lone surrogates cannot be stored.")
        case float() if not math.isfinite(value):
            raise serializers.ValidationError("Numbers must be finite.")
        case dict():
            for name, inner in value.items():
                check_storable(name, depth)
                check_storable(inner, depth - 1)
        case list():
            for inner in value:
                check_storable(inner, depth - 1)


class Strict(serializers.Serializer[Any]):
    """An object whose unknown fields are errors: a misspelt limit must not be ignored."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the fields; unknown ones are refused by name."""
        if isinstance(data, Mapping):
            known = {name for name, f in self.fields.items() if not f.read_only}
            if unknown := sorted(str(name) for name in set(data) - known):
                raise serializers.ValidationError({name: ["Unknown field."] for name in unknown})
        return super().to_internal_value(data)


class Query(serializers.Serializer[Any]):
    """The parameters of a list; unknown ones are ignored, as links may carry their own."""

    limit = serializers.IntegerField(min_value=1, max_value=500, required=False)
    cursor = serializers.CharField(max_length=500, required=False)
