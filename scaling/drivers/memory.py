"""The `memory` driver: runtimes that exist only as entries of this process, for tests."""

from scaling.drivers.base import DriverError, Handle, Spec


class MemoryDriver:
    """Keeps what was started in a dictionary; `failing` makes starts fail."""

    def __init__(self) -> None:
        self.running: dict[str, Spec] = {}
        self.failing = ""

    def start(self, spec: Spec) -> Handle:
        """Note the runtime as running."""
        if self.failing:
            raise DriverError(self.failing)
        self.running[spec.launch_id] = spec
        return {"launch_id": spec.launch_id}

    def find(self, launch_id: str) -> Handle | None:
        """Return the handle of a noted runtime."""
        return {"launch_id": launch_id} if launch_id in self.running else None

    def reaches(self, handle: Handle) -> bool:
        """Return True: there is only this process."""
        return True

    def is_alive(self, handle: Handle) -> bool:
        """Return whether it is still noted."""
        return handle.get("launch_id") in self.running

    def stop(self, handle: Handle, *, urgent: bool) -> None:
        """Forget the runtime."""
        self.kill(handle)

    def kill(self, handle: Handle) -> None:
        """Forget the runtime."""
        self.running.pop(str(handle.get("launch_id")), None)

    def clean(self, handle: Handle) -> None:
        """Leave nothing: there is nothing."""
