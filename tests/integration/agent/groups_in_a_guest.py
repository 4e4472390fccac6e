"""
Control groups of version 2, tried where they are: run by root of a guest of our own.

The machine of the tests may have those of version 1, or none. Prints a line for each thing that
was tried; the test beside it reads them.
"""

import ctypes
import os
import subprocess
import sys
import time
from pathlib import Path

from agentpool.agent.isolation import cgroup

PLACE = Path("/run/groups")


def main() -> None:
    """Mount the groups, find where leases may have theirs, and hold programs to limits."""
    PLACE.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b"groups", str(PLACE).encode(), b"cgroup2", 0, None) == 0
    cgroup._ROOT = PLACE
    # As with a service that a shell stands beside: its group is not this process's alone.
    other = subprocess.Popen(["sleep", "100"])
    (PLACE / "work" / "cgroup.procs").write_text(str(other.pid))
    if os.fork() == 0:
        os.setsid()
        print("beside another", cgroup.host().works, *set(cgroup.host().parents.values()))
        sys.stdout.flush()
        os._exit(0)
    os.wait()
    other.kill()
    other.wait()
    found = cgroup.host()
    print("alone", found.works, *set(found.parents.values()), found.why)
    print("moved", Path("/proc/self/cgroup").read_text().strip())
    group = cgroup.Group(runtime="agent", lease_id="lease")
    group.make(memory_mb=40, cpu_cores=0.5, pids=8)
    hold(group)
    group.remove()
    print("left", [each.name for each in (PLACE / "work" / "agentpool").iterdir() if each.is_dir()])


def hold(group: cgroup.Group) -> None:
    """Run what breaks each limit."""
    print("forks", run(group, "for n in 1 2 3 4 5 6 7 8 9; do sleep 1 & done; wait") != 0)
    print("short of pids", group.was_short_of_pids())
    began = time.monotonic()
    run(group, "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done")
    lasted, used = time.monotonic() - began, group.cpu_seconds()
    print("cpu", 0 < used < 0.8 * lasted, used, lasted)
    group.resize(memory_mb=60, cpu_cores=1)
    print("was killed", group.was_killed_for_memory())
    program = "held = bytearray(b'x') * (100 * 2**20)"
    print("killed", run(group, f'exec "{sys.executable}" -S -c "{program}"'))
    print("was killed", group.was_killed_for_memory())


def run(group: cgroup.Group, script: str) -> int:
    """Run a script in the group."""
    into = "".join(f"echo 0 >{each}; " for each in group.entrances())
    return subprocess.run(
        ["sh", "-c", into + script], check=False, stderr=subprocess.DEVNULL
    ).returncode


if __name__ == "__main__":
    main()
