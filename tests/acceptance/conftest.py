"""Folders for installations of the tests' own."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that the database's user may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="agentpool-acceptance-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
