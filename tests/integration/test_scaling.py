"""Growing and shrinking: intents first, drivers later, and what a crash in between leaves."""

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
from django.db.models.functions import Now

from agentpool.registry.errors import Invalid
from agentpool.registry.models import Agent, Credential, Launch, Lease, Liveness, Pool, ScalingEvent
from agentpool.registry.states import Outcome
from balancing.services import agents, leases
from scaling import drivers, services
from scaling.drivers import Spec, runtimes
from scaling.drivers.local import LocalDriver

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("whole")]


@pytest.fixture
def memory(pools):
    """The pools use the memory driver; return it, empty."""
    Pool.objects.update(driver="memory")
    driver = drivers.named("memory")
    driver.running.clear()
    yield driver
    driver.running.clear()
    driver.failing = ""


def execute(action="scale_up", count=1, agent_type="code"):
    return services.execute(agent_type, action=action, count=count, reason="test", actor="test")


def register(agent):
    """What a runtime does when it has come up."""
    return agents.register(
        agent_id=agent.agent_id,
        pool=agent.pool,
        fields=agent.pool.launch_template,
        by=None,
        actor=agent.agent_id,
    ).agent


def test_scaling_up_stores_the_intent_before_any_driver_is_called(memory):
    done = execute(count=2)

    assert memory.running == {}
    assert list(Agent.objects.values_list("status", flat=True)) == ["starting", "starting"]
    assert set(Launch.objects.values_list("status", flat=True)) == {"intended"}
    assert (done.event.current_size, done.event.target_size) == (0, 2)


def test_reconcile_starts_what_is_intended_once(memory):
    execute(count=2)

    services.reconcile()
    services.reconcile()

    assert len(memory.running) == 2
    assert set(Launch.objects.values_list("status", flat=True)) == {"started"}


def test_a_runtime_whose_start_was_never_stored_is_adopted(memory):
    execute()
    launch = Launch.objects.get()
    spec = services._spec(launch)
    memory.start(spec)  # the worker died right after this

    services.reconcile()

    assert len(memory.running) == 1
    assert Launch.objects.get().status == "started"


def test_a_launched_agent_registers_and_is_idle(memory):
    execute()
    services.reconcile()

    register(Agent.objects.get())

    assert Agent.objects.get().status == "idle"
    assert services.reconcile() == {}


def test_a_failed_launch_leaves_no_ghost(memory):
    memory.failing = "no room"
    execute()

    services.reconcile()

    assert (Agent.objects.get().status, Launch.objects.get().error) == ("retired", "no room")


def test_a_runtime_that_never_registers_is_ended(memory):
    execute()
    services.reconcile()
    Launch.objects.update(started_at=Now() - timedelta(seconds=61))

    services.reconcile()

    assert memory.running == {}
    assert Agent.objects.get().status == "retired"


def test_a_driver_that_cannot_be_asked_fails_the_launch_in_time(memory, monkeypatch):
    monkeypatch.setenv("AGENTPOOL_RAY_ADDRESS", "127.0.0.1:1")
    Pool.objects.filter(agent_type="code").update(driver="ray")
    execute()

    assert services.reconcile() == {}
    Launch.objects.update(created_at=Now() - timedelta(seconds=services.REGISTER_WITHIN_S + 1))
    assert services.reconcile() == {"failed": 1}

    launch = Launch.objects.select_related("agent").get()
    assert (launch.status, launch.agent.status) == ("failed", "retired")
    assert "ray" in launch.error.lower()


def test_starting_agents_count_as_coming_supply(memory):
    execute(count=2)

    done = execute("set", 3)

    assert len(done.launched) == 1


def test_scaling_down_lets_the_idle_go_first_and_never_cuts_work_off(memory, submit):
    execute(count=2)
    services.reconcile()
    for agent in Agent.objects.select_related("pool"):
        register(agent)
    lease = submit().held

    execute("scale_down", 1)
    assert Agent.objects.get(id=lease.agent_id).status == "busy"

    execute("set", 0)
    assert Agent.objects.get(id=lease.agent_id).status == "draining"
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")
    services.reconcile()
    services.reconcile()
    assert set(Agent.objects.values_list("status", flat=True)) == {"retired"}
    assert set(Launch.objects.values_list("status", flat=True)) == {"stopped"}
    assert memory.running == {}


def test_agents_that_are_still_starting_are_let_go_at_once(memory):
    execute(count=2)
    services.reconcile()
    execute(count=1)

    execute("set", 0)
    services.reconcile()
    services.reconcile()

    assert set(Agent.objects.values_list("status", flat=True)) == {"retired"}
    assert set(Launch.objects.values_list("status", flat=True)) == {"stopped"}
    assert memory.running == {}


def test_a_runtime_of_another_machine_is_left_to_it(memory, monkeypatch):
    execute()
    services.reconcile()
    Launch.objects.update(started_at=Now() - timedelta(seconds=61))
    monkeypatch.setattr(memory, "reaches", lambda handle: False)

    assert services.reconcile() == {}
    assert services.stop_all(within_s=0) == 0
    assert Launch.objects.get().status == "started"


@pytest.mark.parametrize(("action", "count"), [("scale_up", 21), ("set", 21)])
def test_a_pool_keeps_to_its_maximum(memory, action, count):
    with pytest.raises(Invalid, match="max_size is 20"):
        execute(action, count)

    assert not ScalingEvent.objects.exists()


def test_a_pool_keeps_to_its_minimum(memory):
    execute(count=2)
    Pool.objects.filter(agent_type="code").update(min_size=2)

    with pytest.raises(Invalid, match="min_size is 2"):
        execute("scale_down", 1)


def test_scaling_is_asked_for_over_rest(memory, api):
    body = {"agent_type": "code", "action": "scale_up", "count": 1, "reason": "more"}

    done = api.post("/scaling/execute", body)

    assert (done.status_code, len(done.body["launched"])) == (202, 1)
    (event,) = api.get("/scaling/history").body["results"]
    assert (event["target_size"], event["reason"]) == (1, "more")
    unknown = api.post("/scaling/execute", {**body, "agent_type": "nope"})
    assert unknown.status_code == 404


# -- the local driver, with real processes -----


@pytest.fixture
def local(tmp_path, monkeypatch):
    """The local driver starting a sleeper instead of the runtime: same way, no control plane."""
    import sys

    import scaling.drivers.runtimes as module

    def sleeper(spec, folder):
        folder.mkdir(parents=True, exist_ok=True)
        code = "import time; time.sleep(60)  # agentpool.agent"
        return [sys.executable, "-c", code, "agentpool.agent", "--workdir", str(folder)]

    monkeypatch.setattr(module, "command", sleeper)
    monkeypatch.setenv("DATABASE_URL", os.environ["DATABASE_URL"])
    return LocalDriver()


@pytest.fixture
def spec(tmp_path):
    return Spec(
        launch_id=f"test-{os.getpid()}-{time.monotonic_ns()}",
        agent_id="a1",
        agent_type="code",
        slots=1,
        exec="",
        root=str(tmp_path),
        env={"AGENTPOOL_URL": "http://127.0.0.1:1"},
    )


def test_a_local_runtime_is_nobodys_child_and_is_found_again(local, spec):
    handle = local.start(spec)
    try:
        process = psutil.Process(handle["pid"])

        assert process.ppid() != os.getpid()
        assert os.getsid(process.pid) == process.pid
        assert local.is_alive(handle)
        assert local.find(spec.launch_id)["pid"] == handle["pid"]
        assert local.find("another") is None
    finally:
        local.kill(handle)


def test_a_local_runtime_sees_no_secret_of_the_server(local, spec):
    handle = local.start(spec)
    try:
        seen = psutil.Process(handle["pid"]).environ()
    finally:
        local.kill(handle)

    assert "DATABASE_URL" not in seen
    assert "AGENTPOOL_SECRET_KEY" not in seen
    assert seen["AGENTPOOL_URL"] == "http://127.0.0.1:1"


# Forks, as the driver's own start does, and is executed anew while it is looked at.
_EXECUTED = """
import os, sys
if pid := os.fork():
    print(pid, flush=True)
    os._exit(0)
os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(1)"])
"""


def test_a_runtime_is_alive_also_while_it_is_being_executed():
    for _ in range(20):
        started = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _EXECUTED],
            env={**os.environ, runtimes.MARK: "l1"},
            stdout=subprocess.PIPE,
        )
        with started:
            handle = {"pid": int(started.stdout.readline()), "launch_id": "l1"}
            # For an instant the kernel shows no environment, by which it is known.
            assert all(LocalDriver().is_alive(handle) for _ in range(200))


def test_a_local_runtime_that_is_killed_is_gone_and_cleaned(local, spec):
    handle = local.start(spec)

    local.kill(handle)
    deadline = time.monotonic() + 5
    while local.is_alive(handle) and time.monotonic() < deadline:
        time.sleep(0.02)
    local.clean(handle)

    assert not local.is_alive(handle)
    assert not os.path.exists(handle["folder"])
    local.stop(handle, urgent=True)  # gone already is fine


def test_a_runtime_elsewhere_is_out_of_reach(local):
    assert not local.reaches({"pid": 1, "host": "somewhere-else"})


def test_a_pid_given_out_again_is_not_taken_for_the_runtime(local, spec):
    handle = local.start(spec)
    try:
        assert not local.is_alive({**handle, "pid": os.getpid()})
    finally:
        os.kill(handle["pid"], signal.SIGKILL)


def test_an_enrolment_token_of_a_launch_is_good_for_one(memory):
    execute()
    services.reconcile()

    token = Credential.objects.get(scope="enrolment")
    assert (token.uses_left, token.pool_id) == (1, "code")
    assert token.expires_at is not None


def test_a_runtime_that_died_is_lost_as_soon_as_it_misses_a_heartbeat(memory, submit, settings):
    execute()
    services.reconcile()
    agent = register(Agent.objects.get())
    work = submit("code")
    memory.running.clear()  # kill -9

    services.reconcile()
    assert Agent.objects.get().status == "busy"  # it may have spoken this very moment

    _silent(agent, for_s=1.6 * settings.HEARTBEAT_S)
    services.reconcile()

    agent.refresh_from_db()
    assert (agent.status, agent.status_reason) == ("lost", "its runtime ended")
    assert Lease.objects.get(request_id=work.id).status == "lost"
    work.refresh_from_db()
    assert (work.status, Launch.objects.get().status) == ("waiting", "stopped")


def test_a_runtime_that_is_only_silent_keeps_its_work(memory, submit, settings):
    execute()
    services.reconcile()
    agent = register(Agent.objects.get())
    submit("code")
    _silent(agent, for_s=1.6 * settings.HEARTBEAT_S)

    assert services.reconcile() == {}

    assert Agent.objects.get().status == "busy"
    assert len(memory.running) == 1


def _silent(agent, *, for_s):
    Liveness.objects.filter(agent=agent).update(last_heartbeat_at=Now() - timedelta(seconds=for_s))


def test_an_agent_is_as_large_as_the_request_that_it_is_launched_for(memory, submit):
    submit("code", memory_mb=4000, token_budget=90_000)

    execute(count=2)
    services.reconcile()

    large, usual = Agent.objects.order_by("-memory_mb")
    template = Pool.objects.get(agent_type="code").launch_template
    assert (large.memory_mb, large.token_budget) == (4000, 90_000)
    assert large.cpu_cores == template["cpu_cores"]
    assert (usual.memory_mb, usual.token_budget) == (
        template["memory_mb"],
        template["token_budget"],
    )
    # The runtime is told, or it would register with what the template says.
    assert sorted(s.offers["memory_mb"] for s in memory.running.values()) == [
        template["memory_mb"],
        4000,
    ]


def test_resources_of_the_driver_go_with_the_launch(memory, api):
    answer = api.patch("/pools/code", {"driver_resources": ["gpu=1", "west=0.5"]})
    assert answer.status_code == 200, answer.body
    execute()

    services.reconcile()

    assert next(iter(memory.running.values())).resources == {"gpu": 1, "west": 0.5}
    refused = api.patch("/pools/code", {"driver_resources": ["gpu"]})
    assert (refused.status_code, "NAME=AMOUNT" in str(refused.body)) == (422, True), refused.body
