"""
The time from an offer to its command running, in our sandbox beside bubblewrap alone.

Each round starts one of either, in turn, so that both see the same machine; the medians are told.
What is started prints a word at once: the time ends when that word is read.

    .venv/bin/python bench/isolation.py [--rounds N] [--json FILE]
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
from agentpool.agent.isolation import Means, Spec, process
from agentpool.agent.isolation.policy import policy_of

ROOT = Path(__file__).resolve().parents[1]
COMMAND = ["sh", "-c", "echo up"]
PROFILE = {
    "allowed_tools": ["read", "write", "git", "test_execution"],
    "network_access": "limited",
    "file_access": "read_write_source",
}
GRANT = {"memory_mb": 512, "cpu_cores": 2, "disk_space_mb": 100, "network": "limited"}
MOST_AT_ONCE = 50


def main() -> int:
    """Measure, print, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--json", type=Path)
    said = parser.parse_args()
    if why := process.missing(Means(cache=Path(os.devnull))):
        print(why, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        row = measure(Path(folder), said.rounds)
    print(f"{'tier':<10}{'ours_ms':>9}{'bare_ms':>9}{'overhead_ms':>13}{'50 at once, s':>15}")
    print(
        f"{row['tier']:<10}{row['ours_ms']:>9}{row['bare_ms']:>9}{row['overhead_ms']:>13}"
        f"{row['at_once_s']:>15}"
    )
    if said.json:
        said.json.write_text(json.dumps(_report(row), indent=2) + "\n")
    return 0


def measure(folder: Path, rounds: int) -> dict[str, object]:
    """Return the medians of both ways, started in turn; the first of each is not counted."""
    ours, bare = [], []
    for number in range(rounds + 1):
        ours.append(_timed(lambda number=number: _ours(folder, number)))
        bare.append(_timed(_bare))
    ours_ms, bare_ms = (round(statistics.median(each[1:]) * 1000, 1) for each in (ours, bare))
    return {
        "tier": "process",
        "ours_ms": ours_ms,
        "bare_ms": bare_ms,
        "overhead_ms": round(ours_ms - bare_ms, 1),
        "ours_p90_ms": round(statistics.quantiles(ours[1:], n=10)[8] * 1000, 1),
        "bare_p90_ms": round(statistics.quantiles(bare[1:], n=10)[8] * 1000, 1),
        "rounds": rounds,
        "at_once": MOST_AT_ONCE,
        "at_once_s": round(_many(folder), 2),
    }


def _timed(start: Callable[[], Callable[[], None]]) -> float:
    """Return the seconds until the word was read; what was started is ended out of the count."""
    began = time.perf_counter()
    end = start()
    took = time.perf_counter() - began
    end()
    return took


def _ours(folder: Path, number: int) -> Callable[[], None]:
    """Do what the runtime does between the acknowledged offer and the running command."""
    environment, root = _sandbox(folder, f"lease-{number}", COMMAND)
    out = environment.out
    assert os.read(out, 64) == b"up\n"

    def end() -> None:
        environment.sandbox.destroy()
        workspace.remove(root)

    return end


class _Started:
    """A sandbox with the descriptor of what it prints."""

    def __init__(self, sandbox: process.Sandbox, out: int) -> None:
        self.sandbox = sandbox
        self.out = out


def _sandbox(folder: Path, name: str, command: list[str]) -> tuple[_Started, Path]:
    lease = contract.Folder(root=folder / "leases" / name)
    lease.make()
    place = lease.root / "work"
    place.mkdir()
    policy = policy_of(profile=PROFILE, grant=GRANT)
    contract.write_payload(folder=lease, lease={"id": name}, payload={})
    contract.write_profile(folder=lease, policy=policy.says())
    sandbox = process.create(
        Spec(
            lease_id=f"{name}-{os.getpid()}",
            agent_id=f"bench-{os.getpid()}",
            folder=lease.root,
            place=place,
            policy=policy,
            means=Means(cache=folder / "cache"),
        )
    )
    env = {"HOME": str(sandbox.inside(lease.home)), "LANG": "C.UTF-8"}
    out, _ = sandbox.run(command=command, env=env, cwd=place)
    return _Started(sandbox, out), lease.root


def _bare() -> Callable[[], None]:
    """Start the same command in the plainest sandbox that hides as much by namespaces."""
    child = subprocess.Popen(
        [
            *("bwrap", "--unshare-all", "--die-with-parent", "--new-session"),
            *("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"),
            *COMMAND,
        ],
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == b"up\n"

    def end() -> None:
        child.wait()
        child.stdout.close()

    return end


def _many(folder: Path) -> float:
    """Return the seconds until as many sandboxes as shall run at once have all said their word."""
    command = ["sh", "-c", "echo up; sleep 600"]
    began = time.perf_counter()
    started = [_sandbox(folder, f"many-{n}", command) for n in range(MOST_AT_ONCE)]
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


def _report(row: dict[str, object]) -> dict[str, object]:
    git = shutil.which("git") or "git"
    commit = subprocess.run(
        [git, "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "bench": "isolation",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.release()}",
        "rows": [row],
    }


if __name__ == "__main__":
    sys.exit(main())
