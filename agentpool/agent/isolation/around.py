"""What stands around bubblewrap: the way into the control group, and the programs."""

import os
import random
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from agentpool.agent.isolation import cgroup
from agentpool.agent.isolation.policy import Policy


def wrapped(group: cgroup.Group | None, policy: Policy) -> list[str]:
    """Return the commands around bubblewrap: into the group, else onto as many processors."""
    if group is not None:
        into = "".join(f'echo 0 >"{file}"; ' for file in group.entrances())
        return ["/bin/sh", "-c", f'set -e; {into}exec "$@"', "sh"]
    allowed = sorted(os.sched_getaffinity(0))
    cores = max(1, min(len(allowed), -int(-policy.cpu_cores // 1)))
    # Any of them: leases beside each other shall not all share the first ones.
    chosen = random.sample(allowed, cores)
    return ["taskset", "--cpu-list", ",".join(map(str, chosen))]


def python() -> tuple[Path, str]:
    """
    Return the interpreter for inside.py, at its real path, and where it stands inside.

    One of /usr/bin is not there: the tools stand in its place. It is shown elsewhere then, and
    finds its library where it was built to; any other finds it beside itself.
    """
    found = Path(getattr(sys, "_base_executable", sys.executable) or sys.executable).resolve()
    return found, "/lease/python" if found.parent == Path("/usr/bin") else str(found)


def search_path() -> str:
    """Return where the programs are looked for that a sandbox may have."""
    own = str(Path(sys.executable).parent)
    return os.pathsep.join([own, os.environ.get("PATH", os.defpath), "/usr/local/bin", "/usr/bin"])


@cache
def bubblewrap_fails() -> str:
    """Return why bubblewrap can't make the namespaces here; empty: it can."""
    if shutil.which("bwrap") is None:
        return "bubblewrap is not installed: apt-get install bubblewrap"
    kind = [] if os.geteuid() == 0 else ["--unshare-user"]
    words = ["bwrap", *kind, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    done = subprocess.run(
        [*words, "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "true"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    if done.returncode == 0:
        return ""
    mend = "sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    return f"bubblewrap can't make namespaces here ({done.stderr.strip()[:200]}); try: {mend}"
