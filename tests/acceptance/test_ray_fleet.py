"""A fleet on two Ray nodes of this machine; one node is killed, and its agents are replaced."""

import os
import time

import pytest

from agentpool.registry.models import Agent, Launch, Pool
from scaling import evaluation, governance, services
from scaling.drivers.ray import RayDriver

pytest_plugins = ["tests.browser.serving", "tests.ray_nodes"]
pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.slow,
    pytest.mark.kill,
    pytest.mark.alone,
]

HEARTBEAT_S = 1.0


@pytest.fixture(scope="module", autouse=True)
def quick():
    """Heartbeats each second, of the server that the module starts, too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AGENTPOOL_HEARTBEAT_S", str(HEARTBEAT_S))
        yield


@pytest.fixture
def fleet(nodes, web, pools, settings, tmp_path):
    """Pools whose agents run on the cluster, reached at the address of a real server."""
    settings.PUBLIC_URL, settings.HEARTBEAT_S = web.url, HEARTBEAT_S
    os.environ["AGENTPOOL_ALLOW_BARE"] = "1"
    Pool.objects.update(driver="ray", min_size=0, cpu_cores=0.3, memory_mb=64)
    yield nodes
    for launch in Launch.objects.filter(handle__isnull=False):
        RayDriver().kill(launch.handle)
    del os.environ["AGENTPOOL_ALLOW_BARE"]


def test_agents_of_a_node_that_dies_are_replaced_on_the_other(fleet, eventually):
    found, cluster = fleet
    Pool.objects.filter(agent_type="code").update(min_size=3)
    governance.set_policy("code", rule="warm", mode="auto", settings={"k": 0}, actor="test")
    evaluation.evaluate()
    services.reconcile()
    eventually(lambda: _idle() == 3, timeout_s=30)
    where = {la.agent_id: la.handle["node"] for la in Launch.objects.all()}
    assert set(where.values()) == {found["east"].node_id, found["west"].node_id}

    # The node with one agent; the other has room for it.
    alone = min(found.values(), key=lambda node: list(where.values()).count(node.node_id))
    (victim,) = (agent for agent, node in where.items() if node == alone.node_id)
    cluster.remove_node(alone, allow_graceful=False)

    eventually(lambda: _looked() and Agent.objects.get(id=victim).status == "lost", timeout_s=40)
    eventually(lambda: _looked() and _idle() == 3, timeout_s=40)
    assert Agent.objects.get(id=victim).status_reason == "its runtime ended"
    new = Launch.objects.exclude(agent_id__in=where).filter(status="started").get()
    assert new.handle["node"] in set(where.values()) - {alone.node_id}


def _idle():
    return Agent.objects.filter(pool_id="code", status="idle").count()


def _looked():
    """What the jobs do when the pulse finds something due."""
    services.reconcile()
    evaluation.evaluate()
    services.reconcile()
    time.sleep(0.5)
    return True
