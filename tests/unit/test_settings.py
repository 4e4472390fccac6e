"""Settings that would break a promise, or say nothing, are refused before a server starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core import checks

from agentpool.checks import (
    jobs_are_seen_in_time,
    numbers_are_within_bounds,
    who_reads_metrics_is_said,
)


def ids(found):
    return [each.id for each in found if isinstance(each, checks.Error)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEP_EVENTS_DAYS", -1.0),
        ("KEEP_FINISHED_DAYS", 0.0),
        ("KEEP_SAMPLES_DAYS", float("nan")),
        ("KEEP_LOGS_DAYS", 1e9),
        ("RUN_LEASE_S", float("inf")),
        ("OFFER_S", -5.0),
        ("MAX_ATTEMPTS", 0),
        ("BACKOFF_S", -1.0),
    ],
)
def test_a_number_out_of_bounds_is_refused_by_name(settings, name, value):
    assert ids(numbers_are_within_bounds()) == []

    setattr(settings, name, value)

    (error,) = numbers_are_within_bounds()
    assert (error.id, f"AGENTPOOL_{name} " in error.msg) == ("agentpool.E005", True)


def test_a_silence_shorter_than_the_canarys_interval_is_refused(settings):
    settings.STALE_S = settings.CANARY_EVERY_S

    assert ids(jobs_are_seen_in_time()) == ["agentpool.E006"]


def test_a_misspelt_word_does_not_open_the_metrics(settings):
    settings.METRICS_AUTH = "Token"

    assert ids(who_reads_metrics_is_said()) == ["agentpool.E007"]


@pytest.mark.parametrize(
    ("name", "text"), [("AGENTPOOL_OFFER_S", "soon"), ("AGENTPOOL_JOB_WORKERS", "1.5")]
)
def test_what_is_no_number_is_named(tmp_path, name, text):
    own = {"AGENTPOOL_HOME": str(tmp_path), name: text}
    done = subprocess.run(
        [sys.executable, "-c", "import agentpool.settings"],
        env=os.environ | own,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert f"ImproperlyConfigured: {name} must be a " in done.stderr
