"""A stop leaves nothing behind, also when what it would ask is gone."""

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.running import launch_agents, running

pytestmark = [pytest.mark.kill, pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.mark.parametrize("gone", ["database", "web"])
def test_a_stop_ends_the_agents_although_something_was_killed(root: Path, gone: str) -> None:
    with running(root, migrated=True) as site:
        launch_agents(site, per_pool=1)

        os.kill(site.pid_of(gone), signal.SIGKILL)
        code, seconds = site.stop()

        assert (code, seconds < 10) == (0, True), site.said()
        assert [one.cmdline() for one in site.processes()] == []
