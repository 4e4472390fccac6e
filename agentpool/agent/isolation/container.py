"""
The container tier: podman over its API, with the same limits, filter and doors as a sandbox.

With `--image`, work runs in that image, which the operator has fetched; without, in the machine's
own system, shown as the process tier shows it. The root is read only, there is no capability, the
user is the lease's own, and the network a loopback, kept by a process beside it (`keeper.py`).
"""

import contextlib
import hashlib
import os
import resource
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpool.agent.isolation import (
    Exit,
    IsolationUnavailable,
    Means,
    Spec,
    around,
    cgroup,
    doors,
    engine,
    mounts,
    seccomp,
)
from agentpool.agent.isolation.confined import PATH, Confined, enforcement, exit_code

if TYPE_CHECKING:
    import docker

_MB = 2**20
_KEEPER = Path(__file__).with_name("keeper.py")
_KEEPER_S, _END_S = 10.0, 10.0
_LOOK_S, _LOOK_MOST_S = 0.005, 0.25
# What podman says of a process that ended while it looked.
_GONE = "no such process"
_NOFILE, _NPROC = 65536, 4096
# Of the engine's stream: one byte says which (1 stdout, 2 stderr), four at the end how long.
_HEAD_BYTES = 8


class Container(Confined):
    """One container."""

    def __init__(self, spec: Spec) -> None:
        # Where the engine makes the container's own, too.
        super().__init__(spec, is_top=True)
        self._client: docker.APIClient | None = None
        self._name = f"agentpool-{hashlib.sha256(spec.lease_id.encode()).hexdigest()[:24]}"
        self._pid: int | None = None
        # Of its first process: a number alone may be another's by the time it is killed.
        self._handle: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._carrier: threading.Thread | None = None
        self._pipes: list[int] = []
        lacks = {"tools"} if spec.means.image else set()
        self.enforcement = enforcement("container", self._policy, lacks=lacks)

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """Start the command in a new container."""
        spec, is_machine = self._spec, not self._spec.means.image
        client = self._client = engine.client(spec.runtime)
        commands = self._commands(around.search_path() if is_machine else "")
        if is_machine:
            self._refuse_unknown(command[0], commands, cwd)
        ports = self._open_doors()
        self._keep(ports)
        roots = self._give_workspace()
        self._make_group()
        mounts.write_etc(spec.folder / "etc", self._uid)
        image = spec.means.image or engine.machine_image()
        env = {**env, "PATH": PATH if is_machine else self._path_of(client, image)}
        if doors.PROXY_PORT in ports:
            env |= doors.proxy_variables()
        shown = mounts.binds(
            spec=spec,
            policy=self._policy,
            commands=commands,
            roots=roots,
            is_machine=is_machine,
        )
        with _told_by(command[0]):
            client.create_container(
                image,
                command=list(command),
                name=self._name,
                user=f"{self._uid}:{self._uid}",
                hostname="agentpool",
                working_dir=str(self.inside(cwd)),
                environment=dict(env),
                entrypoint=[],
                labels={engine.LABEL: spec.runtime},
                host_config=self._host_config(client, shown),
            )
            return self._start(client)

    def poll(self) -> Exit | None:
        """Return how the command ended; at that moment nothing in the container lives."""
        return self._exit

    def kill(self) -> None:
        """Kill the container; the kernel ends all that is in it with its first process."""
        if self._handle is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._handle, signal.SIGKILL)

    def destroy(self) -> None:
        """Kill what is left, remove the container, close the doors."""
        self.kill()
        for pipe in self._pipes:  # nobody reads any more: the carrier must not wait for that
            os.close(pipe)
        self._pipes = []
        if self._carrier is not None:
            self._carrier.join(_END_S)
        if self._client is not None:
            _remove(self._client, self._name)
            self._client.close()
            self._client = None
        if self._keeper is not None:
            _let_go(self._keeper)
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        for name in self._filter_files():
            name.unlink(missing_ok=True)
        self._leave()

    # --- how it is put together -------------------------------------------------------------

    def _keep(self, ports: Mapping[int, Path]) -> None:
        """Start what keeps the network and the doors; it must be ready before the command is."""
        told = ",".join(
            f"{port}={self._spec.folder / 'doors' / to.name}" for port, to in ports.items()
        )
        network = "host" if self._policy.network == "full" else "own"
        self._keeper = subprocess.Popen(
            [
                *(str(around.python()[0]), "-E", "-s", "-S", "-B", str(_KEEPER)),
                *(network, told, *engine.remove_command(self._name)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
            start_new_session=True,
        )

    def _wait_for_keeper(self) -> int:
        keeper = self._keeper
        if keeper is None or keeper.stdout is None or keeper.stdout.readline() != b"ready\n":
            raise IsolationUnavailable("the container's network could not be made")
        return keeper.pid

    def _host_config(self, client: "docker.APIClient", shown: Sequence[mounts.Bind]) -> Any:
        from docker.types import LogConfig, Mount, Ulimit

        policy = self._policy
        of_files = min(_NOFILE, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
        limits = {
            "fsize": policy.disk_space_mb * _MB,
            "core": 0,
            "nofile": of_files,
            "nproc": max(_NPROC, policy.pids),
        }
        tmpfs = {"/run": f"size={policy.memory_mb * _MB},mode=0755"}
        keeper = self._wait_for_keeper()
        return client.create_host_config(
            mounts=[
                Mount(each.target, str(each.source), type="bind", read_only=not each.is_writable)
                for each in shown
            ],
            tmpfs=tmpfs,
            network_mode="host" if policy.network == "full" else f"ns:/proc/{keeper}/ns/net",
            cap_drop=["ALL"],
            security_opt=["no-new-privileges", *self._filter()],
            read_only=True,
            init=True,
            cgroup_parent=self._group.path() if self._group else None,
            ulimits=[Ulimit(name=name, soft=most, hard=most) for name, most in limits.items()],
            log_config=LogConfig(type="none"),
        )

    def _filter_files(self) -> tuple[Path, Path]:
        own = engine.folder(self._spec.runtime) / self._name
        return own.with_suffix(".json"), own.with_suffix(".sock")

    def _filter(self) -> list[str]:
        """Write the filter of system calls; whoever starts the container hands us the questions."""
        if self._machine is None:
            return []
        profile, listener = self._filter_files()
        observer = self._observe(self._machine)
        door = socket.socket(socket.AF_UNIX)
        listener.unlink(missing_ok=True)
        door.bind(str(listener))
        door.listen(1)
        engine.seccomp_file(profile, profile=seccomp.profile(self._machine), listener=listener)

        def hand_over() -> None:
            with door, contextlib.suppress(OSError):
                door.settimeout(_KEEPER_S + _END_S)
                caller, _ = door.accept()
                with caller:
                    _, found, _, _ = socket.recv_fds(caller, 64 * 1024, 4)
                observer.start(found[0])

        threading.Thread(target=hand_over, name="filter", daemon=True).start()
        return [f"seccomp={profile}"]

    def _start(self, client: "docker.APIClient") -> tuple[int, int]:
        """Start the container with two pipes for what it prints."""
        said = client.attach_socket(self._name, params={"stdout": 1, "stderr": 1, "stream": 1})
        client.start(self._name)
        self._pid = self._state(client)["Pid"] or None
        with contextlib.suppress(ProcessLookupError):
            self._handle = os.pidfd_open(self._pid) if self._pid else None
        (out, theirs_out), (err, theirs_err) = os.pipe2(os.O_CLOEXEC), os.pipe2(os.O_CLOEXEC)
        self._pipes = [out, err]
        self._carrier = threading.Thread(
            target=self._carry, args=(client, said, theirs_out, theirs_err), daemon=True
        )
        self._carrier.start()
        return out, err

    def _carry(self, client: "docker.APIClient", said: Any, out: int, err: int) -> None:
        """Take the engine's one stream apart until it ends; then the command has ended, too."""
        code = 125
        stream = getattr(said, "_sock", said)
        try:
            stream.settimeout(None)
            with contextlib.suppress(OSError), stream.makefile("rb") as frames:
                while len(head := frames.read(_HEAD_BYTES)) == _HEAD_BYTES:
                    data = frames.read(int.from_bytes(head[4:], "big"))
                    _write(err if head[0] == 2 else out, data)
            with contextlib.suppress(OSError):
                code = self._code(client)
        finally:
            # The engine may have failed rather than the command ended.
            self.kill()
            os.close(out)
            os.close(err)
            cpu = self._group.cpu_seconds() if self._group else 0.0
            self._exit = Exit(
                code=exit_code(code),
                cpu_seconds=round(cpu, 3),
                peak_memory_mb=round(self._peak_mb, 1),
            )
            # The answer first: it closes what it reads from, the socket itself it leaves open.
            for each in (getattr(said, "_response", said), stream):
                each.close()

    def _code(self, client: "docker.APIClient") -> int:
        """Wait for the end, return its code; the engine's own wait looks but 4 times a second."""
        pause_s = _LOOK_S
        while (state := self._state(client))["Running"]:
            time.sleep(pause_s)
            pause_s = min(_LOOK_MOST_S, pause_s * 1.5)
        return int(state["ExitCode"])

    def _state(self, client: "docker.APIClient") -> dict[str, Any]:
        """Return how the container is; in the instant of its end the engine finds no process."""
        import docker

        give_up_at = time.monotonic() + _END_S
        while True:
            try:
                return dict(client.inspect_container(self._name)["State"])
            except docker.errors.APIError as error:
                if _GONE not in str(error.explanation) or time.monotonic() > give_up_at:
                    raise
            time.sleep(_LOOK_S)

    def _path_of(self, client: "docker.APIClient", image: str) -> str:
        """Return the image's own PATH, behind the notes about refused tools."""
        said = client.inspect_image(image).get("Config", {}).get("Env") or []
        own = next((each[5:] for each in said if each.startswith("PATH=")), os.defpath)
        return f"{mounts.REFUSALS}:{own}"

    def _main_pid(self) -> int | None:
        return self._pid if self._exit is None else None


def create(spec: Spec) -> Container:
    """Return a new container. Raises: IsolationUnavailable."""
    if why := engine.fails():
        raise IsolationUnavailable(why)
    return Container(spec)


def missing(means: Means) -> str:
    """Return why this machine can't offer the tier, and what mends it; empty: it can."""
    if why := engine.fails():
        return why
    if means.image and not engine.has_image(means.image):
        return f"the image {means.image} is not here: podman pull {means.image}"
    return ""


def remove_left(runtime: str) -> int:
    """Remove what a killed runtime of this name left; its keepers may have been faster."""
    return engine.remove_left(runtime) + cgroup.remove_left(runtime)


@contextlib.contextmanager
def _told_by(program: str) -> Iterator[None]:
    """Raise what the engine refuses as what starting a program raises."""
    import docker

    try:
        yield
    except docker.errors.APIError as error:
        said = str(error.explanation)
        if "executable file" in said:
            raise FileNotFoundError(2, "no such program in the image", program) from error
        raise OSError(5, f"podman: {said}", program) from error


def _let_go(keeper: "subprocess.Popen[bytes]") -> None:
    """Tell a keeper that its container is removed already."""
    with keeper, contextlib.suppress(BrokenPipeError):
        try:
            keeper.communicate(b".", timeout=_END_S)
        except subprocess.TimeoutExpired:
            keeper.kill()


def _remove(client: "docker.APIClient", name: str) -> None:
    import docker

    try:
        client.remove_container(name, force=True, v=True)
    except (docker.errors.DockerException, OSError):
        # The engine is gone or hangs: the command line needs none.
        subprocess.run(engine.remove_command(name), capture_output=True, timeout=60, check=False)


def _write(number: int, data: bytes) -> None:
    """Write all of it, as fast as the reader takes it; a reader that is gone loses it."""
    rest = memoryview(data)
    with contextlib.suppress(OSError):
        while rest:
            rest = rest[os.write(number, rest) :]
