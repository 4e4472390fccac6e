"""
Sends arrays to the database as they are: no text is made of their values, and none is parsed.

The driver's own way with lists takes longer than what is learnt from an outcome.
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import ArrayLike
from psycopg.adapt import Buffer, Dumper, PyFormat
from psycopg.pq import Format

# Postgres' numbers of the types, of one value and of an array.
_TEXT, _BYTEA, _FLOAT8 = (25, 1009), (17, 1001), (701, 1022)
_NUMBER = np.dtype([("length", ">i4"), ("value", ">f8")])
_LENGTH = struct.Struct(">i")


class Words:
    """Texts, of the type text[]; None is null."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[str | None]) -> None:
        self.values = values


class Blobs:
    """Bytes, of the type bytea[]."""

    __slots__ = ("values",)

    def __init__(self, values: Sequence[bytes]) -> None:
        self.values = values


class Numbers:
    """Rows of numbers, all of one length, of the type float8[]: read as `[row][column]`."""

    __slots__ = ("rows",)

    def __init__(self, rows: ArrayLike) -> None:
        self.rows = np.asarray(rows, dtype=np.float64)


def allow(connection: psycopg.Connection[Any]) -> None:
    """Let a connection take these as parameters."""
    try:
        connection.adapters.get_dumper(Numbers, PyFormat.AUTO)
    except psycopg.ProgrammingError:
        for kind, dumper in ((Words, _Words), (Blobs, _Blobs), (Numbers, _Numbers)):
            connection.adapters.register_dumper(kind, dumper)


class _Words(Dumper):
    oid = _TEXT[1]
    format = Format.BINARY

    def dump(self, obj: Words) -> Buffer:
        return _array(_TEXT[0], [None if each is None else each.encode() for each in obj.values])


class _Blobs(Dumper):
    oid = _BYTEA[1]
    format = Format.BINARY

    def dump(self, obj: Blobs) -> Buffer:
        return _array(_BYTEA[0], obj.values)


class _Numbers(Dumper):
    oid = _FLOAT8[1]
    format = Format.BINARY

    def dump(self, obj: Numbers) -> Buffer:
        if not obj.rows.size:
            return struct.pack(">3i", 0, 0, _FLOAT8[0])
        sent = np.empty(obj.rows.shape, _NUMBER)
        sent["length"], sent["value"] = 8, obj.rows
        rows, columns = obj.rows.shape
        return struct.pack(">7i", 2, 0, _FLOAT8[0], rows, 1, columns, 1) + sent.tobytes()


def _array(element: int, values: Sequence[bytes | None]) -> bytes:
    if not values:
        return struct.pack(">3i", 0, 0, element)
    parts = [struct.pack(">5i", 1, None in values, element, len(values), 1)]
    for value in values:
        if value is None:
            parts.append(_LENGTH.pack(-1))
        else:
            parts += _LENGTH.pack(len(value)), value
    return b"".join(parts)
