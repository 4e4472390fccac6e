"""`manage.py simulate` and `make_trace`: what they print, write, and refuse; recorded work."""

import csv
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db.models import F

from agentpool.registry.models import Lease, Request
from agentpool.registry.states import Outcome
from balancing.services import leases
from scaling import queries, report

ROOT = Path(__file__).resolve().parents[2]
FIELDS = {
    "trace",
    "policy",
    "agent_hours",
    "clairvoyant_hours",
    "ratio",
    "over_slo_pct",
    "wait_mean_s",
    "wait_p50_s",
    "wait_p95_s",
    "wait_p99_s",
    "utilization",
    "launches_per_day",
    "actions_per_day",
}


@pytest.fixture
def trace(tmp_path):
    """A made trace of two days."""
    path = tmp_path / "made.csv"
    call_command("make_trace", path, "--days", "2", "--busy", "2", "--seed", "3", verbosity=0)
    return path


def simulate(*arguments):
    call_command("simulate", *map(str, arguments))


def test_a_comparison_is_printed_and_written(trace, tmp_path, capsys):
    files = {name: tmp_path / name for name in ("rows.json", "sizes.csv", "sizes.png")}
    policies = ["--policy", "predictive:standby=auto", "--policy", "warm:k=2,min_size=2"]
    written = ["--json", files["rows.json"], "--timeline", files["sizes.csv"]]
    simulate(trace, *policies, *written, "--plot", files["sizes.png"], "--warmup-days", "1")
    rows = json.loads(files["rows.json"].read_text())

    assert [row["policy"] for row in rows] == ["predictive:standby=auto", "warm:k=2,min_size=2"]
    assert set(rows[0]) >= FIELDS
    assert (rows[0]["standby_hit_pct"] > 0, rows[1]["standby_hit_pct"]) == (True, None)
    told = capsys.readouterr().out
    assert "warm:k=2,min_size=2" in told
    assert "standby hits" in told
    for name in ("sizes.csv", "sizes-2.csv"):
        with (tmp_path / name).open() as file:
            assert csv.DictReader(file).fieldnames == list(report.TIMELINE)
    assert files["sizes.png"].read_bytes().startswith(b"\x89PNG")


def test_one_kind_is_replayed_by_itself(trace, tmp_path):
    rows = tmp_path / "rows.json"
    simulate(trace, "--kind", "qa", "--policy", "warm", "--json", rows, "--warmup-days", "0")

    assert json.loads(rows.read_text())[0]["trace"] == "made:qa"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either a trace or --recorded"),
        (["none.csv"], "No such file"),
        (["TRACE", "--policy", "fuzzy"], "'fuzzy' is none of"),
        (["TRACE", "--policy", "warm:k=x"], "k: 'x'"),
        (["TRACE", "--kind", "cook"], "no jobs of kind 'cook'"),
        (["TRACE", "--warmup-days", "9"], "smaller --warmup-days"),
        (["--recorded", "week"], "write 7d"),
    ],
)
def test_what_cannot_be_replayed_is_refused_with_its_reason(trace, arguments, said):
    with pytest.raises(CommandError, match=said):
        simulate(*(trace if word == "TRACE" else word for word in arguments))


def test_the_same_seed_prints_the_same_trace(capsys):
    printed = []
    for _ in range(2):
        call_command("make_trace", "--days", "0.5", "--seed", "9", "--storms-per-week", "20")
        printed.append(capsys.readouterr().out)

    assert printed[0] == printed[1]
    assert printed[0].startswith("arrival_s,duration_s,kind,tokens")


@pytest.mark.django_db(transaction=True)
def test_recorded_work_is_a_trace_of_arrivals_and_lease_times(submit, make_agent, tmp_path):
    make_agent("code")
    served, waits = submit("code"), submit("code")
    Lease.objects.update(acquired_at=F("acquired_at") - timedelta(seconds=90))
    lease = served.held
    leases.release(lease.id, token=lease.fencing_token, outcome=Outcome.SUCCESS, actor="test")
    Request.objects.filter(id=served.id).update(created_at=F("created_at") - timedelta(seconds=100))
    trace = queries.recorded(over_s=3600)

    assert [job.kind for job in trace.jobs] == ["code", "code"]
    assert trace.jobs[0].duration_s == pytest.approx(90, abs=5)
    assert trace.jobs[1].arrival_s - trace.jobs[0].arrival_s == pytest.approx(100, abs=5)
    assert waits.pool_id == "code"


def test_the_command_line_has_the_servers_commands(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "agentpool.cli", "make-trace", "--days", "0.2"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.startswith("arrival_s,duration_s,kind,tokens")


@pytest.mark.django_db(transaction=True)
def test_nothing_recorded_is_said(pools):
    with pytest.raises(CommandError, match="recorded has no jobs"):
        simulate("--recorded", "7d")


@pytest.mark.parametrize("said", [["make_trace"], ["simulate", "trace.csv", "--json"]])
def test_a_folder_that_is_not_there_is_told_before_any_work(said, tmp_path):
    with pytest.raises(CommandError, match="there is no folder"):
        call_command(*said, str(tmp_path / "none" / "file"))
