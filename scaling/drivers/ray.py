"""
The `ray` driver: each runtime below a Ray actor, on whichever machine of the cluster has room.

Ray places (cores, memory, resources of its own), watches nodes and frees what ended; nothing of
that is done here. The actor is detached and named after the launch: it outlives the job worker, and
is found by its name. It ends with its runtime, and the runtime with it, however either dies.
"""

import contextlib
import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from scaling.drivers import runtimes
from scaling.drivers.base import DriverError, Handle, Spec

NAMESPACE = "agentpool"
# An actor that no node has room for stays pending without a word, as does one whose node is slow to
# start it; a call of a node that has just died is answered by nobody for some seconds. Several are
# made in one job, which has 25 s.
PLACED_WITHIN_S, STARTED_WITHIN_S, ANSWER_S = 6.0, 18.0, 2.0

# Has the kernel kill it when its parent dies, unless that is dead already; then runs the rest.
_WITH_PARENT = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() != int(sys.argv[1]):
    sys.exit("its actor has ended")
os.execv(sys.argv[2], sys.argv[2:])
"""


class Runtime:
    """The actor: one runtime, on the node that Ray chose."""

    def __init__(self, spec: Spec) -> None:
        root = os.environ.get("AGENTPOOL_AGENTS_DIR", spec.root)
        here = replace(spec, root=root)
        self._folder = runtimes.folder_of(here)
        with runtimes.log_file(here).open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-S", "-E", "-c", _WITH_PARENT, str(os.getpid())),
                    *runtimes.command(here, self._folder),
                ],
                env=runtimes.environment(here),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        threading.Thread(target=self._end_with_it, daemon=True).start()

    def where(self) -> Handle:
        """Return the node, and the folder there."""
        node = importlib.import_module("ray").get_runtime_context().get_node_id()
        return {"node": node, "folder": str(self._folder), "pid": self._process.pid}

    def is_alive(self) -> bool:
        """Return whether the runtime runs."""
        return self._process.poll() is None

    def stop(self, *, urgent: bool) -> None:
        """SIGTERM: the first drains, the second cancels the work."""
        self._process.send_signal(signal.SIGTERM)
        if urgent:
            self._process.send_signal(signal.SIGQUIT)

    def kill(self) -> None:
        """SIGKILL the runtime and everything below it."""
        with contextlib.suppress(psutil.Error):
            for below in psutil.Process(self._process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    below.kill()
        self._process.kill()

    def _end_with_it(self) -> None:
        self._process.wait()
        os._exit(0)  # Ray frees what the actor held


class RayDriver:
    """Starts `agentpool agent run` on a cluster of Ray (AGENTPOOL_RAY_ADDRESS; "auto")."""

    def start(self, spec: Spec) -> Handle:
        """Start a runtime; raises DriverError: no cluster, or no node has room for it."""
        ray = _connected()
        needs = {
            "num_cpus": spec.offers.get("cpu_cores", 0),
            "memory": int(spec.offers.get("memory_mb", 0)) * 2**20,
            "resources": dict(spec.resources),
        }
        made = ray.remote(Runtime).options(
            name=spec.launch_id, lifetime="detached", max_restarts=0, get_if_exists=True, **needs
        )
        try:
            where = _placed(ray, made.remote(spec), spec)
        except ray.exceptions.RayError as error:
            raise DriverError(f"The runtime did not start: {_last_line(error)}") from error
        return {"launch_id": spec.launch_id, **where}

    def find(self, launch_id: str) -> Handle | None:
        """Look for the actor of that name."""
        ray = _connected()
        actor = _actor(ray, launch_id)
        if actor is None:
            return None
        try:
            where = ray.get(actor.where.remote(), timeout=ANSWER_S)
        except ray.exceptions.RayError:
            return None
        return {"launch_id": launch_id, **where}

    def reaches(self, handle: Handle) -> bool:
        """Return whether the cluster answers."""
        try:
            _connected()
        except DriverError:
            return False
        return True

    def is_alive(self, handle: Handle) -> bool:
        """Return whether the runtime runs; while its node does not answer, it may."""
        ray = _connected()
        actor = _actor(ray, str(handle["launch_id"]))
        if actor is None:
            return False
        try:
            return bool(ray.get(actor.is_alive.remote(), timeout=ANSWER_S))
        except ray.exceptions.ActorDiedError:
            return False
        except ray.exceptions.RayError:
            return True

    def stop(self, handle: Handle, *, urgent: bool) -> None:
        """Ask the actor to pass on SIGTERM, or (urgent) SIGQUIT."""
        ray = _connected()
        if (actor := _actor(ray, str(handle["launch_id"]))) is not None:
            actor.stop.remote(urgent=urgent)

    def kill(self, handle: Handle) -> None:
        """Have the actor kill everything, then end the actor."""
        ray = _connected()
        if (actor := _actor(ray, str(handle["launch_id"]))) is None:
            return
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(actor.kill.remote(), timeout=ANSWER_S)
        ray.kill(actor)

    def clean(self, handle: Handle) -> None:
        """Remove the runtime's work folder on its node; with the node, it is gone."""
        ray = _connected()
        strategies = importlib.import_module("ray.util.scheduling_strategies")
        there = strategies.NodeAffinitySchedulingStrategy(handle["node"], soft=False)
        remove = ray.remote(_remove_left).options(
            num_cpus=0, max_retries=0, scheduling_strategy=there
        )
        with contextlib.suppress(ray.exceptions.RayError):
            ray.get(remove.remote(handle["folder"]), timeout=ANSWER_S)


def _remove_left(folder: str) -> None:
    runtimes.remove_left(Path(folder))


def _connected() -> Any:
    """Return Ray's module, connected to the cluster; raises DriverError."""
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise DriverError("The driver ray needs its extra: agentpool[server,ray].") from error
    if not ray.is_initialized():
        address = os.environ.get("AGENTPOOL_RAY_ADDRESS", "auto")
        try:
            _knock(address)
            ray.init(
                address=address, namespace=NAMESPACE, log_to_driver=False, configure_logging=False
            )
        except (OSError, RuntimeError, ValueError) as error:
            raise DriverError(f"No Ray cluster at {address}: {_last_line(error)}") from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError at once where nobody listens; Ray itself would try for minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()


def _actor(ray: Any, launch_id: str) -> Any:
    try:
        return ray.get_actor(launch_id, namespace=NAMESPACE)
    except ValueError:
        return None


def _placed(ray: Any, actor: Any, spec: Spec) -> dict[str, Any]:
    """Return where an actor runs; raises DriverError, and it is gone: not in time."""
    where = actor.where.remote()
    said = f"No node of the Ray cluster has room within {PLACED_WITHIN_S:g} s"
    if not ray.wait([where], timeout=PLACED_WITHIN_S)[0] and _has_room(ray, spec):
        said = f"No node of the Ray cluster has started it within {STARTED_WITHIN_S:g} s"
        ray.wait([where], timeout=STARTED_WITHIN_S - PLACED_WITHIN_S)
    if ray.wait([where], timeout=0)[0]:
        found: dict[str, Any] = ray.get(where)
        return found
    told = ", ".join(f"{name} {asked:g} of {free:g}" for name, asked, free in _needs(ray, spec))
    ray.kill(actor)
    raise DriverError(f"{said}; asked, of what is free in all: {told}.")


def _has_room(ray: Any, spec: Spec) -> bool:
    """Whether the nodes together have what is asked for: then one of them may be at it."""
    return all(asked <= free for _, asked, free in _needs(ray, spec))


def _needs(ray: Any, spec: Spec) -> list[tuple[str, float, float]]:
    """Return what is asked for of each resource, and what is free of it."""
    offers = spec.offers
    asked = {"CPU": offers.get("cpu_cores", 0), "memory MB": offers.get("memory_mb", 0)}
    free = ray.available_resources()
    free["memory MB"] = free.get("memory", 0) // 2**20
    return [(name, need, free.get(name, 0)) for name, need in {**asked, **spec.resources}.items()]


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
