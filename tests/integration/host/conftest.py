"""Installations of their own for tests that start real servers and processes."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentpool.host import postgres
from agentpool.host.installation import Installation


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    """An installation in a folder that the database's user may pass through, named in the env."""
    root = Path(tempfile.mkdtemp(prefix="agentpool-test-"))
    root.chmod(0o711)
    for name in ("DATABASE_URL", "AGENTPOOL_DB_PORT", "AGENTPOOL_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AGENTPOOL_HOME", str(root))
    monkeypatch.setenv("AGENTPOOL_INSTANCE", f"test-{os.getpid()}")
    installation = Installation(key="test", instance=f"test-{os.getpid()}", root=root)
    yield installation
    postgres.stop(installation, mode="immediate")
    shutil.rmtree(root)
