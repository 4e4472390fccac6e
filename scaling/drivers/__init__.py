"""Drivers by the name that a pool's launch template uses: ours, and those of other packages."""

from importlib.metadata import entry_points

from scaling.drivers.base import Driver, DriverError, Handle, Spec
from scaling.drivers.local import LocalDriver
from scaling.drivers.memory import MemoryDriver
from scaling.drivers.ray import RayDriver

# Of the entry points by which an installed package offers drivers: NAME = module:Class.
GROUP = "agentpool.drivers"
_DRIVERS: dict[str, Driver] = {
    "local": LocalDriver(),
    "ray": RayDriver(),
    "memory": MemoryDriver(),
}


def named(name: str) -> Driver:
    """
    Return a driver: one of these, or one that an installed package offers as an entry point.

    Raises: DriverError, there is none of that name.
    """
    if name not in _DRIVERS:
        offered = {point.name: point for point in entry_points(group=GROUP)}
        if name not in offered:
            there = ", ".join(sorted({*_DRIVERS, *offered}))
            raise DriverError(f"There is no driver {name}; there are: {there}.")
        _DRIVERS[name] = offered[name].load()()
    return _DRIVERS[name]


__all__ = ["Driver", "DriverError", "Handle", "Spec", "named"]
