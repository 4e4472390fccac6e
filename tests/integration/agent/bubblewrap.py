"""Whether bubblewrap is here, and a machine without it."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from agentpool.agent.isolation import Means, process


def needs_bubblewrap() -> None:
    """Skip the test where sandboxes can't be made; under CI=true that is a failure."""
    why = process.missing(Means(cache=Path(os.devnull)))
    if why and os.environ.get("CI") == "true":
        pytest.fail(why)
    if why:
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
