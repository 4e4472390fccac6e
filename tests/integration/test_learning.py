"""Learning from outcomes, on the real database: what is learnt, kept, shown, and done with it."""

import json
import math
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple
from datetime import timedelta
from importlib import import_module

import numpy as np
import pytest
from django.db import DataError, connection
from django.db.models import F
from django.db.models.functions import Now

from agentpool.agent import usage
from agentpool.registry.models import (
    Agent,
    AgentLearning,
    Calibration,
    Event,
    LearningState,
    Lease,
    LeaseOutcome,
    OutcomeDay,
    Outlook,
    Pool,
    PoolLearning,
)
from agentpool.registry.states import AgentHealth, Outcome
from balancing import course as learning_course
from balancing import insight, jobs, keeping, memory, remember, reports, scoring
from balancing.outlook import Average, Cell
from balancing.scoring import Candidate, Work
from balancing.services import agents, learning, leases
from tests.integration.learning_job import NUMBERED_WITHIN_S, learn, number

pytestmark = pytest.mark.django_db(transaction=True)
STRATEGIES = ("learnt", "predictive", "workload_aware")


@pytest.fixture
def work(submit):
    """Do one lease from grant to end: work(ok=True, took_s=60, story_type="fix")."""

    def do(*, ok=True, took_s=60.0, outcome=None, **fields):
        lease = submit(**fields).held
        Lease.objects.filter(id=lease.id).update(acquired_at=Now() - timedelta(seconds=took_s))
        said = outcome or (Outcome.SUCCESS if ok else Outcome.FAILURE)
        leases.release(lease.id, token=lease.fencing_token, outcome=said, actor="test")
        return lease

    return do


def everything():
    models = {row.pool_id: told(row.model) for row in PoolLearning.objects.all()}
    skills = {str(row.agent_id): told(row.skill) for row in AgentLearning.objects.all()}
    names = [f.name for f in Outlook._meta.fields if f.name not in ("id", "learnt_at")]
    rows = [[getattr(row, name) for name in names] for row in Outlook.objects.all()]
    return models, skills, sorted(rows, key=str)


def told(kept):
    """Return what is kept as kinds of work and numbers, which can be compared approximately."""
    kinds, numbers = bytes(kept).split(b"\n", 1)
    return json.loads(kinds), np.frombuffer(numbers, "<f8").tolist()


# -- learning ------------------------------------------------------------------------------------


def test_what_has_ended_is_learnt_once_and_cancelled_work_says_nothing(make_agent, work):
    agent = make_agent()
    for n in range(6):
        work(ok=n != 0, took_s=60, story_type="fix")
    work(outcome=Outcome.CANCELLED, story_type="fix")

    assert (learn(), learn()) == (6, 0)

    usual = Outlook.objects.get(agent_id=None, story_type="fix")
    own = Outlook.objects.get(agent_id=agent.id, story_type="fix")
    assert (usual.leases, own.leases) == (6, 6)
    assert 45 < math.exp(usual.log_s) < 120
    assert own.learnt_at == LeaseOutcome.objects.exclude(outcome="cancelled").first().ended_at
    assert Outlook.objects.filter(agent_id=agent.id, story_type=None).count() == 1
    assert [each["leases"] for each in insight.agents("code")] == [6]


def test_a_death_before_the_commit_loses_nothing_and_doubles_nothing(make_agent, work, monkeypatch):
    make_agent()
    work()

    with monkeypatch.context() as patched:
        # All is written by then, but for the commit.
        dying = remember._LEARNT.replace("SELECT ", "SELECT 1 / (1 - ") + "::int)"
        patched.setattr(remember, "_LEARNT", dying)
        with pytest.raises(DataError):
            learn()

    assert not PoolLearning.objects.exists()
    assert learn() == 1
    assert PoolLearning.objects.get().leases == 1


def test_whoever_was_slower_writes_nothing(make_agent, work, monkeypatch):
    make_agent()
    work()
    others = [learning.learn_batch]

    def teach(course, told):
        if others:
            assert others.pop()().told  # another process, as it were, after what we have read
        learning_course.teach(course, told)

    monkeypatch.setattr(learning, "teach", teach)

    assert learn() == 0
    assert PoolLearning.objects.get().leases == 1
    assert learn() == 0


def test_nobody_learns_while_all_is_learnt_anew_and_nobody_waits_for_it(make_agent, work):
    make_agent()
    work()
    number()

    with ThreadPoolExecutor(1) as other, closing(learning.relearn()) as anew:
        assert next(anew) == 1
        assert other.submit(_learn_apart).result(timeout=NUMBERED_WITHIN_S) is None
        assert not list(anew)

    assert learn() == 0
    assert PoolLearning.objects.get().leases == 1


def _learn_apart():
    """Learn on a connection of one's own."""
    try:
        return learning.learn_batch()
    finally:
        connection.close()


def test_what_is_kept_is_the_whole_model(make_agent, work):
    make_agent(), make_agent()
    for n in range(12):
        work(ok=n % 3 > 0, took_s=10 + n, story_type=("fix", "feature")[n % 2])
        learn()
    row = PoolLearning.objects.get()

    assert keeping.model_bytes(keeping.model_of(row.model)) == row.model
    for known in AgentLearning.objects.all():
        assert keeping.skill_bytes(keeping.skill_of(known.skill)) == known.skill


def test_learning_anew_comes_to_the_same_and_does_not_learn_what_comes_later_twice(
    make_agent, work
):
    make_agent(), make_agent()
    for n in range(10):
        work(ok=n % 3 > 0, took_s=5 + n, story_type="fix")
    learn()
    before, days = everything(), Calibration.objects.values_list("leases", "errors")
    kept = list(days)

    assert sum(learning.relearn()) == 10

    assert approximately(everything()) == approximately(before)
    assert [each[0] for each in days] == [each[0] for each in kept]
    work(story_type="fix")  # its event is not numbered yet, so it is not learnt anew
    assert sum(learning.relearn()) == 10
    assert learn() == 1
    assert PoolLearning.objects.get().leases == 11


def test_what_older_versions_kept_is_read_after_the_migrations(make_agent, work):
    make_agent()
    for n in range(4):
        work(ok=n > 0, took_s=10 + n, story_type=("fix", "feature")[n % 2])
        learn()
    blocks = import_module("agentpool.registry.migrations.0014_learning_blocks")
    packed = import_module("agentpool.registry.migrations.0016_learning_bytes")

    model, skill = PoolLearning.objects.get().model, AgentLearning.objects.get().skill

    as_json = older_model(keeping.model_of(model))
    as_json["shared"] = [blocks._shared(*each) for each in as_json["shared"]]
    assert told(packed._model(as_json)) == told(model)
    as_json = older_skill(keeping.skill_of(skill))
    as_json["own"] = [blocks._own(*each) for each in as_json["own"]]
    assert told(packed._skill(as_json)) == told(skill)


def older_model(model):
    return {
        **{name: getattr(model, name) for name in ("kinds", "leases_of", "noise", "leases")},
        "clock": model.clock,
        "at": model.at,
        "usual": [astuple(each) for each in model.usual],
        "agents": [model.agents.squares, model.agents.count],
        "cells": [model.cells.squares, model.cells.count],
        "shared": [[e.means.tolist(), e.covariance.tolist()] for e in model.shared],
    }


def older_skill(skill):
    return {
        **{name: getattr(skill, name) for name in ("kinds", "leases", "match", "counted")},
        "clock": skill.clock,
        "at": skill.at,
        "usual": [astuple(each) for each in skill.usual],
        "own": [[e.base.tolist(), e.slopes.tolist(), e.covariance.tolist()] for e in skill.own],
    }


def test_one_by_one_in_a_batch_and_anew_come_to_the_same(make_agent, work, monkeypatch):
    several = [make_agent() for _ in range(3)]
    for n in range(24):
        agent = several[n % 3]
        work(
            ok=n % 4 > 0,
            took_s=5 + 7 * n,
            story_type=("fix", "feature", "docs")[n % 5 % 3],
            preferred_agent=agent.agent_id,
        )
    with monkeypatch.context() as patched:
        patched.setattr(learning, "BATCH", 1)
        assert learn() == 24
    # The rows for the claim are those of an agent's last batch, so they may differ.
    one_by_one = approximately(everything()[:2])
    memory.forget()
    LearningState.objects.update(last_seq=0)

    assert learn() == 24
    assert approximately(everything()[:2]) == one_by_one
    assert sum(learning.relearn()) == 24
    assert approximately(everything()[:2]) == one_by_one


def approximately(value):
    if isinstance(value, float):
        return float(f"{value:.9g}")
    if isinstance(value, dict):
        return {name: approximately(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [approximately(each) for each in value]
    return value


def test_old_outcomes_become_days_and_nothing_learnt_is_lost(make_agent, work):
    make_agent()
    for n in range(8):
        work(ok=n % 4 > 0, took_s=30, story_type="fix")
    learn()
    was = outlook_of("fix")
    LeaseOutcome.objects.update(ended_at=Now() - timedelta(days=100))
    Lease.objects.update(released_at=Now() - timedelta(days=100))

    assert memory.fold_outcomes(days=90) == 8

    assert not LeaseOutcome.objects.exists()
    day = OutcomeDay.objects.get()
    assert (day.leases, day.successes) == (8, 6)
    assert day.log_s / 8 == pytest.approx(math.log(30), abs=0.1)
    assert outlook_of("fix") == was
    list(learning.relearn())
    assert outlook_of("fix").leases == 8
    assert outlook_of("fix").odds == pytest.approx(was.odds, abs=0.3)


def test_a_day_of_one_failure_is_no_success_when_all_is_learnt_anew(make_agent, work):
    make_agent()
    work(ok=False, took_s=30, story_type="fix")
    LeaseOutcome.objects.update(ended_at=Now() - timedelta(days=100))
    assert memory.fold_outcomes(days=90) == 1

    list(learning.relearn())

    tally = Calibration.objects.get()
    assert (sum(tally.bin_leases), sum(tally.bin_successes)) == (1, 0)


def test_a_lease_that_ended_before_it_began_teaches_no_nonsense(make_agent, work):
    agent = make_agent()
    work(story_type="fix")
    LeaseOutcome.objects.update(duration_s=-0.01, cpu_seconds=20.0)

    learn()

    known = Outlook.objects.filter(agent_id=agent.id)
    assert all(0 <= row.efficiency <= 1 for row in known)


def test_what_a_runtime_may_say_of_its_tokens_fits_the_days_sums(make_agent, work):
    make_agent()
    most = reports.Usage().fields["tokens_in"].max_value
    work(story_type="fix")
    LeaseOutcome.objects.update(
        tokens_in=most, tokens_out=most, ended_at=Now() - timedelta(days=100)
    )
    assert memory.fold_outcomes(days=90) == 1

    OutcomeDay.objects.update(tokens=F("tokens") * 1_000_000)

    assert usage.tokens({"tokens_in": most, "tokens_out": most + 1}) == {"tokens_in": most}


def outlook_of(kind):
    row = Outlook.objects.get(agent_id=None, story_type=kind)
    row.id = 0
    return row


# -- the claim -----------------------------------------------------------------------------------


def test_every_decision_can_be_recomputed_from_what_was_known(make_agent, work, submit):
    chance = random.Random(7)
    Pool.objects.update(suspicion_probation=None)
    for n in range(6):
        make_agent(max_concurrent=2, capabilities=["rust", "sql"][: n % 3])
    for n in range(40):
        tags = [["rust"], ["rust", "web"], []][n % 3]
        work(
            ok=chance.random() < 0.6,
            took_s=chance.uniform(2, 900),
            story_type=("fix", "feature")[n % 2],
            tags=tags,
            strategy=STRATEGIES[n % 3],
        )
        if n % 4 == 0:
            learn()

    for kind in ("fix", "feature", "unseen"):
        for strategy in STRATEGIES:
            before = {agent.agent_id: agent for agent in Agent.objects.all()}
            lease = submit(story_type=kind, tags=["rust", "web"], strategy=strategy).held
            ranked = replayed(before.values(), strategy, kind, lease)

            assert lease.decision["tier"] == "strategy"
            assert lease.decision["score"] == pytest.approx(ranked[0][1].total, rel=1e-6)
            for card in lease.decision["candidates"]:
                said = next(score for one, score in ranked if one.agent_id == card["agent_id"])
                assert card["parts"] == pytest.approx(dict(said.parts), rel=1e-6, abs=1e-9)
            leases.release(
                lease.id, token=lease.fencing_token, outcome=Outcome.CANCELLED, actor="test"
            )


def replayed(several, strategy, kind, lease):
    work = Work(
        memory_mb=1024,
        cpu_cores=1,
        token_budget=50_000,
        disk_space_mb=500,
        tags=frozenset(lease.request.tags),
    )
    candidates = [
        Candidate(
            agent_id=agent.agent_id,
            load=agent.load,
            max_concurrent=agent.max_concurrent,
            memory_mb=agent.memory_mb,
            cpu_cores=agent.cpu_cores,
            token_budget=agent.token_budget,
            disk_space_mb=agent.disk_space_mb,
            capabilities=frozenset(agent.capabilities),
            generality=agent.generality,
            cell=row_as(Cell, agent_id=agent.id, kind=kind),
        )
        for agent in several
    ]
    return scoring.rank(strategy, candidates, work, row_as(Average, agent_id=None, kind=kind))


def row_as(made, *, agent_id, kind):
    rows = Outlook.objects.filter(agent_id=agent_id)
    row = rows.filter(story_type=kind).first() or rows.filter(story_type=None).first()
    if row is None:
        return None
    names = made._fields
    values = {name: getattr(row, name) for name in names if name != "at"}
    return made(**values, at=row.learnt_at.timestamp())


def test_a_pool_that_knows_nothing_is_scored_as_the_pure_rules_say(make_agent, submit):
    agent = make_agent()
    for guess in (None, 60.0):
        lease = submit(strategy="learnt", expected_duration_s=guess).held

        work = Work(1024, 1, 50_000, 500, expected_duration_s=guess)
        one = Candidate(agent.agent_id, 0, 1, 1024, 1, 50_000, 500, generality=agent.generality)
        assert lease.decision["score"] == pytest.approx(
            scoring.rank("learnt", [one], work)[0][1].total
        )
        leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.CANCELLED, actor="test")


def test_whoever_is_better_is_asked_by_learnt(make_agent, work, submit):
    good, bad = make_agent(), make_agent()
    for n in range(12):
        work(ok=True, took_s=30, story_type="fix", preferred_agent=good.agent_id)
        work(ok=n % 2 > 0, took_s=60, story_type="fix", preferred_agent=bad.agent_id)
    Pool.objects.update(suspicion_probation=None)
    learn()

    chosen = submit(story_type="fix", strategy="learnt").held

    assert chosen.agent.agent_id == good.agent_id
    parts = chosen.decision["parts"]
    assert parts["leases"] == 12
    assert parts["success_low"] < parts["success"] < parts["success_high"]
    assert parts["seconds_low"] < parts["seconds"] < parts["seconds_high"]
    assert parts["learnt_at"] == pytest.approx(
        Outlook.objects.get(agent_id=good.id, story_type="fix").learnt_at.timestamp()
    )


def test_agents_that_are_gone_do_not_hide_one_that_promises_most(make_agent, work, submit):
    good, *others = (make_agent(max_concurrent=4) for _ in range(10))
    for _ in range(6):
        work(took_s=5, story_type="fix", preferred_agent=good.agent_id)
        work(took_s=600, story_type="fix", preferred_agent=others[0].agent_id)
    learn()
    # It is not among the least loaded, so that only its promise can bring it up.
    submit(preferred_agent=good.agent_id)
    gone = [make_agent() for _ in range(64)]
    known = Outlook.objects.get(agent_id=good.id, story_type="fix")
    for agent in gone:
        known.pk, known.agent_id, known.ratio = None, agent.id, known.ratio * 0.99
        known.save()
    Agent.objects.filter(id__in=[agent.id for agent in gone]).update(
        status="retired", generation=2, updated_at=Now() - timedelta(days=2)
    )

    jobs.fold()

    chosen = submit(story_type="fix", strategy="learnt", affinity="none").held
    assert chosen.agent_id == good.id
    assert Outlook.objects.filter(agent_id__in=[agent.id for agent in gone]).count() == 0


# -- trust ---------------------------------------------------------------------------------------


def settle(work, other, count=20):
    for n in range(count):
        work(ok=True, took_s=60, story_type="fix", preferred_agent=other.agent_id, cycle_id=f"c{n}")
    learn()


def test_a_broken_agent_gets_one_canary_at_a_time_then_nothing_and_comes_back(
    make_agent, work, submit
):
    good, broken = make_agent(max_concurrent=4), make_agent(max_concurrent=4)
    settle(work, good)

    for n in range(6):
        work(
            ok=False, took_s=9, story_type="fix", preferred_agent=broken.agent_id, cycle_id=f"x{n}"
        )
    learn()
    broken.refresh_from_db()
    assert (broken.health, broken.health_by) == ("probation", "learning")
    assert "6 failures in a row; of such work" in broken.health_note
    both = [submit(preferred_agent=broken.agent_id).held for _ in range(2)]
    assert [lease.agent.agent_id for lease in both] == [broken.agent_id, good.agent_id]
    for lease in both:
        leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.CANCELLED, actor="test")

    for n in range(6):
        work(
            ok=False, took_s=9, story_type="fix", preferred_agent=broken.agent_id, cycle_id=f"y{n}"
        )
    learn()
    broken.refresh_from_db()
    assert broken.health == "quarantined"
    assert broken.health_until is not None
    told = Event.objects.filter(kind="agent.health", agent_id=broken.agent_id).order_by("id")
    assert [each.detail["health"] for each in told] == ["probation", "quarantined"]

    agents.set_health(broken, health=AgentHealth.UNKNOWN, note="", until=None, actor="health")
    work(ok=False, took_s=9, story_type="fix", preferred_agent=broken.agent_id, cycle_id="z")
    learn()
    broken.refresh_from_db()
    assert broken.health == "probation"
    for n in range(9):
        work(
            ok=True, took_s=60, story_type="fix", preferred_agent=broken.agent_id, cycle_id=f"w{n}"
        )
    learn()
    broken.refresh_from_db()
    assert broken.health == "good"


def test_one_bad_story_that_fails_everywhere_condemns_nobody(make_agent, work):
    several = [make_agent() for _ in range(5)]
    settle(work, several[0])

    for _ in range(3):
        for agent in several:
            work(ok=False, story_type="fix", preferred_agent=agent.agent_id, cycle_id="bad")
            learn()

    assert set(Agent.objects.values_list("health", flat=True)) <= {"unknown", "good"}


def test_the_same_work_that_fails_again_with_its_agent_counts_once(make_agent, work):
    good, other = make_agent(), make_agent()
    settle(work, good)

    suspicions = []
    for _ in range(4):
        failing = {"cycle_id": "same", "phase": "red", "preferred_agent": other.agent_id}
        work(ok=False, story_type="fix", **failing)
        learn()
        known = AgentLearning.objects.get(agent_id=other.id)
        suspicions.append((known.suspicion, known.streak))

    assert suspicions[0][0] > 0
    assert set(suspicions) == {suspicions[0]}


def test_the_time_that_a_lease_is_parked_is_neither_learnt_from_nor_charged(
    make_agent, work, submit
):
    good, other = make_agent(), make_agent()
    settle(work, good)

    for is_resumed in (True, False):
        lease = submit(story_type="fix", preferred_agent=other.agent_id).held
        leases.park(lease.id, token=lease.fencing_token, reason="a question", actor="test")
        back = {name: F(name) - timedelta(hours=3) for name in ("acquired_at", "parked_at")}
        Lease.objects.filter(id=lease.id).update(**back)
        if is_resumed:
            lease = leases.resume(lease.id, token=lease.fencing_token, actor="test")
        leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")
        ended = Lease.objects.get(id=lease.id)
        assert (ended.parked_at, ended.parked_s) == (None, pytest.approx(10_800, abs=5))
        assert LeaseOutcome.objects.get(lease=ended).duration_s < 5
        told = Event.objects.get(lease_id=lease.id, kind="lease.released").detail
        assert told["charge_s"] + lease.charged_s < 5
    learn()

    assert AgentLearning.objects.get(agent_id=other.id).suspicion == 0


def test_a_kind_of_work_that_is_hard_for_everybody_condemns_nobody(make_agent, work):
    several = [make_agent() for _ in range(4)]
    for n in range(60):
        agent = several[n % 4]
        work(ok=n % 5 == 0, story_type="hard", preferred_agent=agent.agent_id, cycle_id=f"c{n}")
        learn()

    assert "quarantined" not in set(Agent.objects.values_list("health", flat=True))
    assert Agent.objects.exclude(health="probation").count() >= 3


def test_what_a_person_has_judged_stays(make_agent, work):
    good, broken = make_agent(), make_agent()
    settle(work, good)
    for n in range(7):
        work(ok=False, story_type="fix", preferred_agent=broken.agent_id, cycle_id=f"x{n}")
    broken.refresh_from_db()
    agents.set_health(
        broken, health=AgentHealth.MAINTENANCE, note="mine", until=None, actor="user:ann"
    )

    learn()

    broken.refresh_from_db()
    assert (broken.health, broken.health_note) == ("maintenance", "mine")
