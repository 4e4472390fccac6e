"""
The time from an offer to its command running, in each tier beside the bare tool.

That is bwrap, podman, and qemu with the same kernel, memory and accelerator, whose first program
prints the word. Each round starts one of either, in turn, so that both see the same machine; the
medians are told. What is started prints a word at once: the time ends when that word is read.

    .venv/bin/python bench/isolation.py [--tier NAME …] [--rounds N] [--json FILE]
"""

import argparse
import json
import os
import platform
import selectors
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from agentpool.agent import contract, workspace
from agentpool.agent.isolation import Environment, Means, Spec, boot, engine, qemu, tier
from agentpool.agent.isolation.policy import policy_of

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ["sh", "-c", "echo up"]
PROFILE = {
    "allowed_tools": ["read", "write", "git", "test_execution"],
    "network_access": "limited",
    "file_access": "read_write_source",
}
GRANT = {"memory_mb": 512, "cpu_cores": 2, "disk_space_mb": 100, "network": "limited"}


def main() -> int:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", action="append", choices=tuple(BARE))
    parser.add_argument("--rounds", type=int, help="of each tier (default 40; machines: 8)")
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    rows = []
    print(f"{'tier':<17}{'ours_ms':>9}{'bare_ms':>9}{'overhead_ms':>13}{'at once, s':>21}")
    for level in said.tier or BARE:
        if why := tier(level).missing(Means(cache=Path(os.devnull))):
            print(f"{level}: {why}", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            rows.append(row := measure(level, Path(folder), said.rounds or ROUNDS[level]))
        tier(level).remove_left(_runtime())
        print(
            f"{level:<17}{row['ours_ms']:>9}{row['bare_ms']:>9}{row['overhead_ms']:>13}"
            f"{row['at_once']:>15}: {row['at_once_s']}"
        )
    if said.json:
        said.json.write_text(json.dumps(_report(rows), indent=2) + "\n")
    return 0 if rows else 1


def measure(level: str, folder: Path, rounds: int) -> dict[str, object]:
    """Return the medians of both ways, started in turn; the first of each is not counted."""
    ours, bare = [], []
    for number in range(rounds + 1):
        ours.append(_timed(lambda number=number: _ours(level, folder, number)))
        bare.append(_timed(lambda: BARE[level](folder)))
    ours_ms, bare_ms = (round(statistics.median(each[1:]) * 1000, 1) for each in (ours, bare))
    return {
        "tier": level,
        "ours_ms": ours_ms,
        "bare_ms": bare_ms,
        "overhead_ms": round(ours_ms - bare_ms, 1),
        "ours_p90_ms": round(statistics.quantiles(ours[1:], n=10)[8] * 1000, 1),
        "bare_p90_ms": round(statistics.quantiles(bare[1:], n=10)[8] * 1000, 1),
        "rounds": rounds,
        "at_once": AT_ONCE[level],
        "at_once_s": round(_many(level, folder), 2),
    }


def _timed(start: Callable[[], Callable[[], None]]) -> float:
    """Return the seconds until the word was read; what was started is ended out of the count."""
    began = time.perf_counter()
    end = start()
    took = time.perf_counter() - began
    end()
    return took


def _ours(level: str, folder: Path, number: int) -> Callable[[], None]:
    """Do what the runtime does between the acknowledged offer and the running command."""
    environment, root = _sandbox(level, folder, f"lease-{number}", COMMAND)
    out = environment.out
    assert os.read(out, 64) == b"up\n"

    def end() -> None:
        environment.sandbox.destroy()
        workspace.remove(root)

    return end


class _Started:
    """A sandbox with the descriptor of what it prints."""

    def __init__(self, sandbox: Environment, out: int) -> None:
        self.sandbox = sandbox
        self.out = out


def _sandbox(level: str, folder: Path, name: str, command: list[str]) -> tuple[_Started, Path]:
    lease = contract.Folder(root=folder / "leases" / name)
    lease.make()
    place = lease.root / "work"
    place.mkdir()
    policy = policy_of(profile=PROFILE, grant=GRANT)
    contract.write_payload(folder=lease, lease={"id": name}, payload={})
    contract.write_profile(folder=lease, policy=policy.says())
    sandbox = tier(level).create(
        Spec(
            lease_id=f"{name}-{os.getpid()}",
            runtime=_runtime(),
            folder=lease.root,
            place=place,
            policy=policy,
            means=Means(cache=folder / "cache"),
        )
    )
    env = {"HOME": str(sandbox.inside(lease.home)), "LANG": "C.UTF-8"}
    out, _ = sandbox.run(command=command, env=env, cwd=place)
    return _Started(sandbox, out), lease.root


def _runtime() -> str:
    return f"bench-{os.getpid()}"


def _bare_process(folder: Path) -> Callable[[], None]:
    """Start the same command in the plainest sandbox that hides as much by namespaces."""
    return _plain(
        *("bwrap", "--unshare-all", "--die-with-parent", "--new-session"),
        *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
    )


def _bare_container(folder: Path) -> Callable[[], None]:
    """Start the same command by `podman run` in the same image with the same system in it."""
    shown = [word for each in ("/usr/lib", "/usr/bin") for word in ("-v", f"{each}:{each}:ro")]
    if Path("/usr/lib64").is_dir():
        shown += ["-v", "/usr/lib64:/usr/lib64:ro"]
    limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096", "--network", "none")
    words = ("podman", "--cgroup-manager", "cgroupfs", "run", "--rm", "--read-only", "--init")
    return _plain(*words, *limits, *shown, engine.machine_image())


def _bare_machine(folder: Path) -> Callable[[], None]:
    """Start qemu as it comes, with nothing but a kernel and an archive to start from."""
    kernel = boot.kernel(Means(cache=folder / "cache"))
    archive = boot.archive(kernel, cache=folder / "cache")
    accelerator = ["-accel", "tcg", "-cpu", "max"] if qemu.kvm_fails() else ["-accel", "kvm"]
    size = str(GRANT["memory_mb"] + qemu.RESERVE_MB)
    told = f"console=ttyS0 quiet panic=-1 rdinit={boot.interpreter()} -- -S -c print('up')"
    words = [qemu.program(), *accelerator, "-m", size, "-smp", str(GRANT["cpu_cores"])]
    words += ["-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    words += ["-kernel", str(kernel.file), "-initrd", str(archive), "-append", told]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    assert child.stdout is not None
    while (line := child.stdout.readline()) and b"up" not in line:
        pass
    assert line, "the machine has ended"

    def end() -> None:
        child.kill()
        child.wait()
        child.stdout.close()

    return end


def _plain(*words: str) -> Callable[[], None]:
    child = subprocess.Popen([*words, *COMMAND], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"

    def end() -> None:
        child.wait()
        child.stdout.close()

    return end


BARE = {
    "process": _bare_process,
    "container": _bare_container,
    "virtual_machine": _bare_machine,
}
AT_ONCE = {"process": 50, "container": 20, "virtual_machine": 4}
ROUNDS = {"process": 40, "container": 40, "virtual_machine": 8}


def _many(level: str, folder: Path) -> float:
    """Return the seconds until as many sandboxes as shall run at once have all said their word."""
    command = ["sh", "-c", "echo up; sleep 600"]
    began = time.perf_counter()
    started = [_sandbox(level, folder, f"many-{n}", command) for n in range(AT_ONCE[level])]
    with selectors.DefaultSelector() as selector:
        for each, _ in started:
            selector.register(each.out, selectors.EVENT_READ)
        waiting = len(started)
        while waiting:
            for key, _ in selector.select():
                assert os.read(key.fd, 64) == b"up\n"
                selector.unregister(key.fd)
                waiting -= 1
    took = time.perf_counter() - began
    for each, root in started:
        each.sandbox.destroy()
        workspace.remove(root)
    return took


def _report(rows: list[dict[str, object]]) -> dict[str, object]:
    git = shutil.which("git") or "git"
    commit = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "bench": "isolation",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.release()}",
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
