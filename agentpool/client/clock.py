"""The clock by which leases are counted on this machine."""

import time


def now() -> float:
    """
    Return seconds of a clock that never goes back and, on Linux, also runs while suspended.

    A lease goes on running out while this machine sleeps; CLOCK_MONOTONIC would not show it.
    """
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()
