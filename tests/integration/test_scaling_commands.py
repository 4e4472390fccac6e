"""`agentpool scaling …` against a real server: what is shown, changed, refused."""

import json
from datetime import timedelta

import pytest

from agentpool.cli.main import main
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Announcement, Event, Pool, ScalingPolicy
from scaling import evaluation, governance

pytest_plugins = ["tests.browser.serving"]
pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def cli(web, pools, monkeypatch, tmp_path, capsys):
    """Run a command, and return its exit code and what it printed; `--json` is read."""
    Pool.objects.update(driver="memory", min_size=0, max_size=20)
    monkeypatch.setenv("AGENTPOOL_URL", web.url)
    monkeypatch.setenv("AGENTPOOL_TOKEN", pools["operator_token"])
    monkeypatch.setenv("AGENTPOOL_CONFIG", str(tmp_path / "config.toml"))

    def run(*words):
        code = main(["scaling", *words])
        said = capsys.readouterr()
        out = json.loads(said.out) if "--json" in words and code == 0 else said.out + said.err
        return code, out

    return run


def test_the_recommendation_is_a_row_for_each_type(cli, submit):
    submit("code")
    submit("code")

    code, told = cli("show")
    _, looks = cli("show", "code", "--json")

    (row,) = [line for line in told.splitlines() if line.startswith("code")]
    assert code == 0
    assert row.split()[:4] == ["code", "recommend", "predictive", "0"]
    assert "2 waiting" in row
    # Two at least: what was told of in the meantime asks for a reserve, too.
    assert int(row.split()[4]) >= 2
    assert [each["target_size"] >= 2 for each in looks] == [True]


def test_standby_is_told_with_how_often_it_has_helped(cli, make_agent, submit):
    make_agent()
    cli("policy", "code", "--rule", "queue", "--set", "standby=1", "--set", "stabilise_s=0")
    cli("policy", "code", "--mode", "auto")
    evaluation.evaluate()
    submit()
    evaluation.evaluate()

    _, told = cli("show", "code")
    _, done = cli("history", "code", "--json")

    (row,) = [line for line in told.splitlines() if line.startswith("code")]
    assert "0 of 1" in row
    assert "100% of 1" in row
    assert [(each["woken"], each["set_aside"]) for each in done] == [(1, 0), (0, 1)]


def test_a_policy_is_set_shown_and_partly_taken_back(cli):
    assert cli("policy", "code", "--rule", "warm", "--set", "k=3", "--set", "min_idle=1")[0] == 0

    _, told = cli("policy", "code")
    assert cli("policy", "code", "--unset", "min_idle", "--mode", "auto", "--json")[0] == 0

    kept = ScalingPolicy.objects.get(pool="code")
    assert (kept.rule, kept.mode, kept.settings) == ("warm", "auto", {"k": 3})
    assert [line.split() for line in told.splitlines() if "set here" in line] == [
        ["k", "3", "set", "here"],
        ["min_idle", "1", "set", "here"],
    ]


def test_a_bad_setting_is_refused_by_name_and_changes_nothing(cli):
    code, told = cli("policy", "code", "--set", "slo_q=2")

    assert code == 1
    assert "slo_q" in told
    assert not ScalingPolicy.objects.exists()
    assert cli("policy", "code", "--set", "slo_q")[0] == 2


def test_scaling_is_started_and_stopped_for_one_and_all(cli):
    _, started = cli("start", "code", "--json")
    _, stopped = cli("stop", "--json")

    assert started == [{"agent_type": "code", "mode": "auto"}]
    assert {each["mode"] for each in stopped} == {"off"}
    assert len(stopped) == Pool.objects.count()


def test_work_is_announced_in_a_while_from_now(cli):
    code, _ = cli("announce", "code", "--at", "+30m", "--count", "40", "--name", "nightly")

    row = Announcement.objects.get()
    assert code == 0
    assert (row.count, row.spread_s, row.name) == (40, 60, "nightly")
    ahead = row.at - registry_queries.now()
    assert timedelta(minutes=29) < ahead < timedelta(minutes=31)
    assert cli("announce", "code", "--at", "soon", "--count", "1")[0] == 2


def test_decisions_and_changes_of_size_are_listed_with_their_reason(cli, submit):
    submit("code")
    governance.set_policy("code", mode="auto", actor="t")
    evaluation.evaluate()

    _, decided = cli("decisions", "code")
    _, history = cli("history", "code")
    _, limited = cli("decisions", "--limit", "1", "--json")

    assert "1 waiting" in decided
    assert "yes" in decided
    assert "scaling" in history.splitlines()[1]
    assert len(limited) == 1


def test_to_look_at_what_is_announced_does_not_use_it_up(pools):
    Pool.objects.update(driver="memory", min_size=0, max_size=20)
    governance.set_policy("code", mode="auto", actor="t", note="the night")
    soon = registry_queries.now() + timedelta(seconds=40)
    governance.announce("code", at=soon, count=6, spread_s=60, name="n", actor="t")

    seen = [evaluation.recommend("code")[0].decision.target for _ in range(2)]
    unheard = Announcement.objects.filter(heard_at=None).count()
    evaluation.evaluate()

    assert min(seen) >= 6
    assert unheard == 1
    assert Announcement.objects.filter(heard_at=None).count() == 0
    assert Event.objects.get(kind="scaling.policy_changed").detail["note"] == "the night"
