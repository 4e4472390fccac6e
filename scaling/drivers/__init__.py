"""The drivers that ship with agentpool, by the name that a pool's launch template uses."""

from scaling.drivers.base import Driver, DriverError, Handle, Spec
from scaling.drivers.local import LocalDriver
from scaling.drivers.memory import MemoryDriver

_DRIVERS: dict[str, Driver] = {"local": LocalDriver(), "memory": MemoryDriver()}


def named(name: str) -> Driver:
    """Return a driver; raises DriverError, there is none of that name."""
    if name not in _DRIVERS:
        raise DriverError(f"There is no driver {name}; there are: {', '.join(sorted(_DRIVERS))}.")
    return _DRIVERS[name]


__all__ = ["Driver", "DriverError", "Handle", "Spec", "named"]
