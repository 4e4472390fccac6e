"""Find TCP ports that are free."""

import secrets
import socket

from agentpool.host.installation import HostError

# Below Linux's outgoing ports (32768 up), so that no connection of ours sits on it at a restart.
_RANGE = range(20000, 32000)


def why_taken(port: int, *, bind: str = "127.0.0.1") -> str | None:
    """Return why nobody can listen on a port of an address, None when it is free."""
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    with socket.socket(family) as attempt:
        # As servers bind: a port with connections in TIME_WAIT is free.
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((bind, port))
        except OSError as error:
            return error.strerror or str(error)
    return None


def any_free() -> int:
    """Return a port of the loopback address that is free now."""
    for _attempt in range(100):
        port = secrets.choice(_RANGE)
        if why_taken(port) is None:
            return port
    raise HostError(f"No port between {_RANGE[0]} and {_RANGE[-1]} is free.")
