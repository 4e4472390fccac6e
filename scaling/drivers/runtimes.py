"""What a runtime is on the machine where a driver starts it: command, environment, folder."""

import os
import sys
from pathlib import Path

from agentpool.agent import doctor, workspace
from scaling.drivers.base import Spec

# Names the launch in the runtime's environment: so it is found when its handle was never stored.
MARK = "AGENTPOOL_LAUNCH_ID"
PASSED_ON = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV"),
    "SSL_CERT_FILE",
    # How the runtimes of this machine isolate work; see docs/agents.md.
    *("AGENTPOOL_ISOLATION", "AGENTPOOL_ALLOW_BARE", "AGENTPOOL_IMAGE"),
    *("AGENTPOOL_VM_KERNEL", "AGENTPOOL_VM_DISK"),
)


def command(spec: Spec, folder: Path) -> list[str]:
    """Return the command that runs the runtime in its folder."""
    argv = [sys.executable, "-m", "agentpool.agent", "--pool", spec.agent_type]
    argv += ["--workdir", str(folder)]
    argv += ["--name", spec.agent_id, "--slots", str(spec.slots)]
    for name, amount in spec.offers.items():
        argv += [f"--{name.replace('_', '-')}", str(amount)]
    if secrets_dir := os.environ.get("AGENTPOOL_SECRETS_DIR"):
        argv += ["--secrets-dir", secrets_dir]
    return argv + (["--exec", spec.exec] if spec.exec else [])


def environment(spec: Spec) -> dict[str, str]:
    """Return what the runtime sees: of this process's environment no secret of the server."""
    ours = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return {**ours, **spec.env, MARK: spec.launch_id}


def folder_of(spec: Spec) -> Path:
    """Return the work folder of a runtime; the runtime makes it."""
    return Path(spec.root) / spec.agent_id


def log_file(spec: Spec) -> Path:
    """Return the file that its output goes to, in a folder that is there afterwards."""
    folder = Path(spec.root) / "log"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder / f"{spec.agent_id}.log"


def remove_left(folder: Path) -> None:
    """Remove what an ended runtime has left; its log stays for whoever asks what happened."""
    # A runtime that was killed could not remove containers and control groups.
    doctor.remove_left(folder)
    workspace.remove(folder)
