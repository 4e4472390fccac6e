"""Every driver through the same kit, with real runtimes; Ray on a cluster of three nodes here."""

import os
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from scaling.drivers import DriverError, named, runtimes
from scaling.drivers.kit import DriverKit
from scaling.drivers.local import LocalDriver
from scaling.drivers.memory import MemoryDriver
from scaling.drivers.ray import RayDriver

pytest_plugins = ["tests.ray_nodes"]
pytestmark = pytest.mark.slow


def test_what_a_killed_runtime_left_goes_however_deep_it_is(tmp_path: Path) -> None:
    """Its work may have nested folders deeper than Python can follow, or closed them."""
    before = Path.cwd()
    (tmp_path / "agent").mkdir()
    os.chdir(tmp_path / "agent")
    try:
        for _ in range(1500):
            os.mkdir("leases")
            os.chdir("leases")
    finally:
        os.chdir(before)

    runtimes.remove_left(tmp_path / "agent")

    assert not (tmp_path / "agent").exists()


def test_an_unknown_driver_is_refused_with_those_there_are():
    with pytest.raises(DriverError, match=r"no driver nomad; there are: local, memory, ray"):
        named("nomad")


class TestLocal(DriverKit):
    @pytest.fixture
    def driver(self):
        return LocalDriver()

    @pytest.fixture
    def impossible(self, spec):
        return replace(spec, root="/proc/nowhere")

    def test_a_runtime_lives_on_when_the_clock_is_set(self, driver, start, spec, monkeypatch):
        handle = start(spec)
        # By this, time since the start of the machine becomes a date.
        booted_at = psutil.boot_time()
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted_at + 5)

        assert driver.is_alive(handle)


class TestMemory(DriverKit):
    @pytest.fixture
    def driver(self):
        return MemoryDriver()

    @pytest.fixture
    def another(self, driver):
        return driver  # it is its process's own

    @pytest.fixture
    def impossible(self, driver, spec):
        driver.failing = "there is no room"
        return spec


class TestRay(DriverKit):
    @pytest.fixture
    def driver(self, nodes):
        return RayDriver()

    @pytest.fixture
    def impossible(self, spec):
        return replace(spec, offers={"cpu_cores": 8})

    def test_runtimes_land_where_there_is_room(self, start, spec):
        large = replace(spec, offers={"cpu_cores": 0.8})
        first = start(large)
        second = start(replace(large, launch_id="second", agent_id="second"))

        assert first["node"] != second["node"]

    def test_a_resource_of_its_own_says_where(self, driver, nodes, start, spec):
        handle = start(replace(spec, resources={"west": 0.5}))

        assert handle["node"] == nodes[0]["west"].node_id

    def test_a_dead_actor_takes_its_runtime_along(self, driver, start, spec):
        handle = start(spec)
        runtime = psutil.Process(handle["pid"])

        runtime.parent().kill()

        self.eventually(lambda: not runtime.is_running() or runtime.status() == "zombie")
        self.eventually(lambda: not driver.is_alive(handle))

    def test_no_cluster_is_said_in_words(self, nodes, monkeypatch):
        import ray

        ray.shutdown()
        with monkeypatch.context() as patch:
            patch.setenv("AGENTPOOL_RAY_ADDRESS", "127.0.0.1:9")
            with pytest.raises(DriverError, match=r"No Ray cluster at 127\.0\.0\.1:9"):
                RayDriver().find("any")
