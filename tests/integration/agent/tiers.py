"""Whether a tier can be had here, and a machine without a program."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from agentpool.agent.isolation import Means, tier


def needs(level: str) -> None:
    """Skip the test where a tier can't be had; under CI=true a missing program is a failure."""
    why = tier(level).missing(Means(cache=Path(os.devnull)))
    if not why:
        return
    # Containers are root's, whatever is installed.
    if os.environ.get("CI") == "true" and not (level == "container" and os.geteuid() != 0):
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
