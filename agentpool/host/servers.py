"""
The web servers there are, and how each is started: daphne, or granian when it is installed.

The main one speaks ASGI (pages, REST, websockets). A second listener may speak WSGI: REST calls
cost it less than half, and nothing waits there (agentpool/wsgi.py).
"""

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass

from agentpool.host.installation import HostError
from agentpool.host.probes import Site

KINDS = ("daphne", "granian")
ASGI, WSGI = "agentpool.asgi:application", "agentpool.wsgi:application"
# Worker processes of granian: one uses one core.
_WORKERS = 2
# Threads of a WSGI worker. Python runs one at a time; the others wait for the database.
_THREADS = 16
# An idle thread keeps its database connection this long, seconds: as long as Django would.
_THREAD_IDLE_S = 600
# What a stop may take; websockets do not end by themselves, and all of `up` has 10 s.
_KILL_AFTER_S = 1


@dataclass(frozen=True)
class Servers:
    """
    Which server serves.

    kind: of the main listener. wsgi_port: of the second one, None: there is none.
    workers: processes of each granian.
    """

    kind: str = "daphne"
    wsgi_port: int | None = None
    workers: int = _WORKERS


def chosen(*, environ: Mapping[str, str] | None = None) -> Servers:
    """
    Return what the environment asks for.

    Raises: HostError, it asks for a server that is not known or not installed.
    """
    env = os.environ if environ is None else environ
    kind = env.get("AGENTPOOL_SERVER") or "daphne"
    port = env.get("AGENTPOOL_WSGI_PORT") or None
    workers = env.get("AGENTPOOL_WEB_WORKERS") or str(_WORKERS)
    if kind not in KINDS:
        raise HostError(f"AGENTPOOL_SERVER={kind!r} is not known; there are: {', '.join(KINDS)}.")
    if port and not (port.isdecimal() and 1 <= int(port) <= 65535):
        raise HostError(f"AGENTPOOL_WSGI_PORT={port!r} is not a TCP port: use 1 to 65535.")
    if not (workers.isdecimal() and int(workers) >= 1):
        raise HostError(f"AGENTPOOL_WEB_WORKERS={workers!r} is not a number of processes.")
    if (kind == "granian" or port) and importlib.util.find_spec("granian") is None:
        name = "AGENTPOOL_SERVER=granian" if kind == "granian" else "AGENTPOOL_WSGI_PORT"
        raise HostError(f"{name} needs granian: pip install 'agentpool[fast]', or unset it.")
    return Servers(kind=kind, wsgi_port=int(port) if port else None, workers=int(workers))


def asgi(servers: Servers, *, site: Site) -> tuple[str, ...]:
    """Return the command, after `python -m`, of the main listener."""
    if servers.kind == "granian":
        # asginl: the application has no lifespan of its own.
        return (*_granian("asginl", servers, site), ASGI)
    # -v 0: no line for each request; errors still come through Django's log.
    return ("daphne", "-v", "0", "-b", site.bind, "-p", str(site.port), ASGI)


def wsgi(servers: Servers, *, site: Site) -> tuple[str, ...]:
    """Return the command, after `python -m`, of the second listener."""
    threads = ("--blocking-threads", str(_THREADS))
    idle = ("--blocking-threads-idle-timeout", str(_THREAD_IDLE_S))
    return (*_granian("wsgi", servers, site), *threads, *idle, WSGI)


def _granian(interface: str, servers: Servers, site: Site) -> tuple[str, ...]:
    return (
        *("granian", "--interface", interface, "--host", site.bind, "--port", str(site.port)),
        *("--workers", str(servers.workers), "--workers-kill-timeout", str(_KILL_AFTER_S)),
        # Its warnings are about the number of threads, which is meant.
        *("--log-level", "error"),
    )
