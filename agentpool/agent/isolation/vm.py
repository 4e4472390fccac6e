"""
The virtual machine tier: qemu, with a kernel of its own, inside a sandbox of the process tier.

The guest's root is what a sandbox would see, shared by virtiofs: what may be written is decided by
mounts outside of the guest, and results are there at once. All else goes over one channel: what is
printed, measured and refused, and the doors to proxy and origin; only a `full` network is a
network. Whoever overcomes the guest's kernel and qemu is in that sandbox.
"""

import os
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agentpool.agent.isolation import (
    Exit,
    Incident,
    IsolationUnavailable,
    Means,
    Measure,
    Spec,
    around,
    bare,
    boot,
    cgroup,
    doors,
    mounts,
    process,
    qemu,
    seccomp,
)
from agentpool.agent.isolation.channel import Channel
from agentpool.agent.isolation.confined import PATH, enforcement
from agentpool.agent.isolation.given import given
from agentpool.agent.isolation.policy import Policy

_MB = 2**20
_PERIOD_US = 100_000
_HULL = Path(__file__).with_name("hull.py")
# Of an emulated processor on a busy machine; without a word by then it will not come up.
_UP_S = 120.0
# Threads of qemu and virtiofsd; those of the work are counted in the guest.
_PIDS = 256
_FAILED = 125
# Where an image has its programs.
_IMAGE_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class Machine(process.Sandbox):
    """One virtual machine."""

    def __init__(self, spec: Spec, kernel: boot.Kernel) -> None:
        super().__init__(spec)
        self._kernel = kernel
        self._born_with = spec.policy
        self._channel: Channel | None = None
        self._began_at = time.monotonic()
        lacks = {"tools"} if spec.means.disk else set()
        self.enforcement = enforcement("virtual_machine", self._policy, lacks=lacks)

    def run(self, *, command: Sequence[str], env: Mapping[str, str], cwd: Path) -> tuple[int, int]:
        """Start a machine for the command, which begins when the machine is up."""
        spec = self._spec
        archive = boot.archive(self._kernel, cache=spec.means.cache)
        binaries = self._commands("" if spec.means.disk else around.search_path())
        if not spec.means.disk:
            self._refuse_unknown(command[0], binaries, cwd)
        ports = self._open_doors()
        roots = self._give_workspace()
        self._make_group()
        env = {**env, "PATH": f"{mounts.REFUSALS}:{_IMAGE_PATH}" if spec.means.disk else PATH}
        if doors.PROXY_PORT in ports:
            env |= doors.proxy_variables()
        channel = self._channel = Channel(
            start=self._told(command, env, cwd, list(ports), roots),
            doors={port: spec.folder / "doors" / path.name for port, path in ports.items()},
            note=self._note,
        )
        walls = mounts.around_machine(
            policy=self._policy, uid=self._uid, files=self._files(archive)
        )
        with given() as files:
            shared = mounts.shared(
                spec=spec,
                policy=self._policy,
                binaries=binaries,
                roots=roots,
                uid=self._uid,
                resolver=qemu.RESOLVER if self._policy.network == "full" else "",
                given=files,
            )
            child = self._boot(files.arguments([*walls, *shared]), files.numbers, channel)
        if child.stdout is None:
            raise OSError("the machine's console is missing")
        return channel.serve(child.stdout.fileno())

    def poll(self) -> Exit | None:
        """Return how the command ended; at that moment the machine is gone."""
        channel, child = self._channel, self._child
        if self._exit is not None or channel is None or child is None:
            return self._exit
        if channel.code is None:
            if not channel.is_up and time.monotonic() - self._began_at > _UP_S:
                super().kill()
            if os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                return None
            # By itself, or killed: its last words may still be under way.
            channel.join()
        super().kill()
        _, status, _ = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu = self._group.cpu_seconds() if self._group else channel.used.cpu_seconds
        failed = -signal.SIGKILL if channel.is_expected else _FAILED
        self._exit = Exit(
            code=failed if channel.code is None else channel.code,
            cpu_seconds=round(cpu, 3),
            peak_memory_mb=max(self._peak_mb, channel.used.memory_mb),
        )
        return self._exit

    def measure(self) -> Measure:
        """Return the memory of the work in the guest, and the CPU of the whole machine."""
        if self._channel is None:
            return Measure()
        found = Measure(
            memory_mb=self._channel.used.memory_mb, cpu_seconds=self._machine_cpu_seconds()
        )
        self._peak_mb = max(self._peak_mb, found.memory_mb)
        return found

    def breach(self) -> Incident | None:
        """Return the limit that is broken: of memory as the kernel of guest or host says."""
        if self._channel is not None and self._channel.broken is not None:
            return Incident(kind="killed_for_memory", detail=f"{self._policy.memory_mb} MB")
        return super().breach()

    def resize(self, policy: Policy) -> bool:
        """
        Take changed limits of memory, CPU and disk.

        A machine keeps the memory and processors that it was born with: less holds, more does not.
        """
        more = policy.memory_mb > self._born_with.memory_mb
        if self._channel is None or more or policy.cpu_cores > qemu.cores(self._born_with):
            return False
        if self._group is not None and self._main_pid() is not None:
            try:
                size = qemu.memory_mb(self._born_with)
                self._group.resize(memory_mb=size, cpu_cores=policy.cpu_cores)
            except OSError:
                return False
        self._channel.order(f"limits {policy.memory_mb * _MB} {_quota(policy)}".encode())
        self._policy = policy
        return True

    def terminate(self) -> None:
        """Have the guest send SIGTERM to all of the work; a machine that is not up is ended."""
        if self._channel is not None and self._channel.is_up:
            self._channel.order(b"terminate")
        else:
            self.kill()

    def kill(self) -> None:
        """End the machine, with all that is in it."""
        if self._channel is not None:
            self._channel.is_expected = True
        super().kill()

    def destroy(self) -> None:
        """End the machine and remove everything around it."""
        super().destroy()
        if self._channel is not None:
            self._channel.close()

    # --- how it is put together -------------------------------------------------------------

    def _make_group(self) -> None:
        if self._group is not None:
            self._group.make(
                memory_mb=qemu.memory_mb(self._policy),
                cpu_cores=self._policy.cpu_cores,
                pids=_PIDS,
            )

    def _files(self, archive: Path) -> dict[str, Path]:
        """Return what the sandbox around the machine needs, by its name there."""
        found = {
            "qemu": Path(qemu.program()).resolve(),
            "kernel": self._kernel.file,
            "archive": archive,
            "hull.py": _HULL,
            "inside.py": mounts.INSIDE_PROGRAM,
        }
        if self._spec.means.disk is not None:
            found["disk"] = self._spec.means.disk
        if not qemu.kvm_fails():
            found["kvm"] = self._kvm()
        return found

    def _kvm(self) -> Path:
        """Return a device for this lease's user alone; the machine's own may be root's."""
        if not self._uid:
            return qemu.KVM
        mine = self._spec.folder / "kvm"
        os.mknod(mine, stat.S_IFCHR | 0o600, qemu.KVM.stat().st_rdev)
        os.chown(mine, self._uid, self._uid)
        return mine

    def _told(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        ports: Sequence[int],
        roots: Sequence[Path],
    ) -> dict[str, Any]:
        """Return what the guest is told to start."""
        policy, machine = self._policy, self._machine
        is_closed = self._spec.place not in roots
        return {
            "command": list(command),
            "env": {os.fsencode(name): os.fsencode(value) for name, value in env.items()},
            "cwd": str(self.inside(cwd)),
            "uid": self._uid or os.getuid(),
            "ports": list(ports),
            "read_only": ["/lease/in", *(["/lease/work"] if is_closed else [])],
            "writable": [str(self.inside(root)) for root in roots] if is_closed else [],
            "address": qemu.ADDRESS if policy.network == "full" else None,
            "resolver": qemu.RESOLVER if policy.network == "full" else "",
            "is_imaged": self._spec.means.disk is not None,
            "memory": policy.memory_mb * _MB,
            "cpu": _quota(policy),
            "pids": policy.pids,
            "largest_file": policy.disk_space_mb * _MB,
            "filter": seccomp.program(machine, asks=True) if machine else b"",
            "seccomp": process.SYSCALL_SECCOMP.get(os.uname().machine, 0),
            "machine": (machine.audit, dict(machine.numbers)) if machine else None,
            "policy": asdict(policy),
            "work": str(self.inside(self._spec.place)),
        }

    def _boot(
        self, arguments: int, files: list[int], channel: Channel
    ) -> "subprocess.Popen[bytes]":
        """Start bubblewrap, in it `hull.py`, which starts qemu and what shares the root."""
        policy, number = self._policy, channel.theirs.fileno()
        machine = qemu.words(
            policy=policy,
            channel=number,
            python=boot.interpreter(),
            files=mounts.MACHINE,
            disk=self._spec.means.disk,
        )
        child = self._child = subprocess.Popen(
            [
                *around.wrapped(self._group, policy),
                *("bwrap", "--args", str(arguments), "--"),
                *(around.python()[1], "-E", "-s", "-S", "-B", f"{mounts.MACHINE}/hull.py"),
                *(str(self._uid), str(policy.disk_space_mb * _MB)),
                *(*qemu.shares(mounts.SHARED), *machine),
            ],
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                bare.MARK: self._spec.lease_id,
                bare.RUNTIME: self._spec.runtime,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=[*files, number],
        )
        return child

    def _machine_cpu_seconds(self) -> float:
        if self._group is not None:
            return round(self._group.cpu_seconds(), 3)
        return bare.measure(self._tree()).cpu_seconds


def create(spec: Spec) -> Machine:
    """Return a new machine. Raises: IsolationUnavailable."""
    if why := _fails():
        raise IsolationUnavailable(why)
    return Machine(spec, boot.kernel(spec.means))


def missing(means: Means) -> str:
    """Return why this machine can't offer the tier, and what mends it; empty: it can."""
    if why := _fails():
        return why
    if means.disk is not None and not os.access(means.disk, os.R_OK):
        return f"the disk {means.disk} can't be read"
    try:
        boot.kernel(means)
    except IsolationUnavailable as error:
        return str(error)
    return ""


def remove_left(runtime: str) -> int:
    """End what a killed runtime of this name left: machines die with it, groups stay."""
    return bare.remove_left(runtime) + cgroup.remove_left(runtime)


def _fails() -> str:
    return around.bubblewrap_fails() or qemu.fails()


def _quota(policy: Policy) -> str:
    return f"{max(1000, int(policy.cpu_cores * _PERIOD_US))} {_PERIOD_US}"
