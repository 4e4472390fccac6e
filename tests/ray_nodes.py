"""A real Ray cluster on this machine, for the tests that ask for `nodes`."""

import os
import warnings

import pytest


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
