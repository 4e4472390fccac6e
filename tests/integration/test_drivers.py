"""Every driver through the same kit, with real runtimes; Ray on a cluster of three nodes here."""

import os
import warnings
from dataclasses import replace

import psutil
import pytest

from scaling.drivers import DriverError, named
from scaling.drivers.kit import DriverKit
from scaling.drivers.local import LocalDriver
from scaling.drivers.memory import MemoryDriver
from scaling.drivers.ray import RayDriver

pytestmark = pytest.mark.slow


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


@pytest.fixture(scope="module")
def nodes():
    """A Ray cluster: a head where nothing runs, and two nodes of one core, each with a name."""
    if not os.environ.get("CI"):
        pytest.importorskip("ray", reason="Ray is not installed: make test installs it")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # A node that is killed is noticed in seconds.
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_health_check_failure_threshold", "3")
        patch.setenv("RAY_health_check_initial_delay_ms", "500")
        import ray
        from ray.cluster_utils import Cluster

        cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        found = {
            name: cluster.add_node(num_cpus=1, resources={name: 1}, include_dashboard=False)
            for name in ("east", "west")
        }
        patch.setenv("AGENTPOOL_RAY_ADDRESS", cluster.address)
        yield found, cluster
        ray.shutdown()
        cluster.shutdown()


class TestRay(DriverKit):
    @pytest.fixture
    def driver(self, nodes):
        return RayDriver()

    @pytest.fixture
    def impossible(self, spec):
        return replace(spec, cpu_cores=8)

    def test_runtimes_land_where_there_is_room(self, start, spec):
        large = replace(spec, cpu_cores=0.8)
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

    def test_no_cluster_is_said_in_words(self, monkeypatch):
        import ray

        ray.shutdown()
        with monkeypatch.context() as patch:
            patch.setenv("AGENTPOOL_RAY_ADDRESS", "127.0.0.1:9")
            with pytest.raises(DriverError, match=r"No Ray cluster at 127\.0\.0\.1:9"):
                RayDriver().find("any")
