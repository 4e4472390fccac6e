"""What a start finds ready: tables, schedules, jobs, and the secrets of the first start only."""

import json
from io import StringIO

import pytest
from django.contrib.auth import authenticate
from django.core.management import CommandError, call_command
from django.utils.module_loading import import_string
from django_q.models import Schedule

from agentpool.live import due
from agentpool.live.connect import connect
from agentpool.registry import collecting, credentials
from agentpool.registry.management.commands.prepare import SCHEDULES
from agentpool.registry.models import Agent, Pool, SecurityProfile
from agentpool.registry.profiles import DEFAULT_PROFILES
from scaling import evaluation

pytestmark = pytest.mark.django_db(transaction=True)


def prepare():
    out = StringIO()
    call_command("prepare", "--json", stdout=out)
    return json.loads(out.getvalue())


def test_the_first_start_furnishes_and_the_second_does_not():
    first, second = prepare(), prepare()

    assert (first["first_start"], second["first_start"]) == (True, False)
    assert second["admin"] is second["operator_token"] is None
    assert authenticate(**first["admin"]).is_superuser
    assert credentials.find(first["operator_token"]).scope == "operator"


def test_the_seeds_pools_have_their_profiles():
    prepare()

    assert set(DEFAULT_PROFILES) == set(Pool.objects.values_list("agent_type", flat=True))
    code = SecurityProfile.objects.get(pool="code")
    assert code.allowed_tools == ["read", "write", "git", "test_execution"]
    assert (code.memory_mb, code.cpu_cores) == (4096, 2)


def test_the_health_job_is_scheduled_each_thirty_seconds():
    prepare()

    schedule = Schedule.objects.get(name="health")
    assert (schedule.func, schedule.cron) == ("balancing.jobs.check_health", "* * * * * */30")


@pytest.mark.parametrize("name", sorted({f for f, _ in SCHEDULES.values()}))
def test_every_scheduled_job_runs_on_an_empty_installation(pools, name):
    import_string(name)()


@pytest.mark.parametrize("job", due.jobs(), ids=lambda job: job.job)
def test_every_job_the_pulse_may_enqueue_runs(pools, job):
    import_string(job.job)()


@pytest.mark.parametrize("job", due.jobs(), ids=lambda job: job.job)
def test_nothing_but_the_canary_is_due_when_nothing_happens(make_agent, job):
    make_agent()
    evaluation.evaluate()  # each pool's size is decided twice a minute
    collecting.collect()  # and each pool is read

    with connect() as own:
        is_due = job.is_due(own, now=0)

    assert is_due == (job.job == "agentpool.registry.jobs.canary")


def test_a_waiter_beside_a_free_agent_is_due_to_be_served(make_agent, submit):
    from agentpool.registry.models import Request

    request = submit()
    Request.objects.update(not_before=request.expires_at)
    make_agent()
    Request.objects.update(not_before=None)  # its back-off ends, and no event says so
    serve = next(job for job in due.jobs() if job.job == "balancing.jobs.serve")

    with connect() as own:
        assert serve.is_due(own, now=0)
    import_string(serve.job)()

    request.refresh_from_db()
    assert request.status == "granted"


def test_broken_promises_are_found(make_agent):
    make_agent()
    call_command("check_invariants", stdout=StringIO())
    Agent.objects.update(status="busy", load=1)

    with pytest.raises(CommandError, match="what an agent has given out"):
        call_command("check_invariants", stdout=StringIO())

    Agent.objects.update(status="idle", load=0)


def test_pruning_leaves_what_lives(make_agent, submit, settings):
    from agentpool.registry import jobs
    from agentpool.registry.models import Event, Lease

    for name in ("EVENTS", "FINISHED", "LOGS", "SAMPLES"):
        setattr(settings, f"KEEP_{name}_DAYS", 0)
    make_agent()
    submit()

    jobs.prune()

    assert Lease.objects.count() == 1
    assert not Event.objects.exists()
