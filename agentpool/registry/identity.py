"""Ids of rows of which there are many."""

import os
import time
from uuid import UUID

_VERSION, _VARIANT = 0x7 << 76, 0b10 << 62
_LOW_62, _LOW_12 = (1 << 62) - 1, (1 << 12) - 1


def time_ordered() -> UUID:
    """
    Return a UUID of version 7 (RFC 9562): milliseconds since 1970, then 74 random bits.

    So what is new is written at the end of an index, not all over it. SQL's is new_id_1.
    """
    chance = int.from_bytes(os.urandom(10))
    at = (time.time_ns() // 1_000_000) << 80
    high = (chance >> 62 & _LOW_12) << 64
    return UUID(int=at | _VERSION | high | _VARIANT | chance & _LOW_62)
