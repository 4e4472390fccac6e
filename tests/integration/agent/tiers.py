"""Whether a tier can be had here, and a machine without a program."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentpool.agent.isolation import Means, tier

# What no package mends.
_NOT_FOR_MACHINES = ("on x86_64 only", "of another kind", "of many groups")


def needs(level: str) -> None:
    """
    Skip the test where a tier can't be had; under CI=true a missing program is a failure.

    Containers are root's, and not every host lets even root make them; virtual machines are known
    on one processor and with one kind of virtiofsd. A runtime that refuses to offer the level, with
    the reason, is then as it must be.
    """
    why = tier(level).missing(Means(cache=Path(os.devnull)))
    if not why:
        return
    is_refused = level == "container" and (os.geteuid() != 0 or "does not work here" in why)
    is_refused |= level == "virtual_machine" and any(each in why for each in _NOT_FOR_MACHINES)
    if os.environ.get("CI") == "true" and not is_refused:
        pytest.fail(why)
    pytest.skip(why)


def path_without(program: str, folder: Path) -> str:
    """Return a PATH on which everything is found but one program."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for found in Path(place).glob("*") if place and Path(place).is_dir() else ():
            target = folder / found.name
            if found.name != program and not target.is_symlink():
                target.symlink_to(found)
    assert shutil.which(program, path=str(folder)) is None
    return os.pathsep.join([str(Path(sys.executable).parent), str(folder)])


def little_system() -> dict[str, Path]:
    """Return next to nothing that a system may consist of: a shell, and what it needs."""
    found = {}
    for program in ("/bin/sh", "/usr/bin/id", "/bin/cat"):
        found[f"bin/{Path(program).name}"] = Path(program).resolve()
        said = subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout
        for library in re.findall(r"(/\S+\.so\S*)", said):
            found[library.lstrip("/")] = Path(library).resolve()
    return found
