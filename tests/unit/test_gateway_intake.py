"""Heartbeats taken at a glance are those that the form takes, and say the same; rates are held."""

import math
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rest_framework.exceptions import ValidationError

from agentpool.gateway.meter import BURST_S, Meter
from balancing import intake, reports

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2**54),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["", "x", "1", "true"]),
    st.lists(st.integers(), max_size=2),
    st.just({}),
    st.just({"a": 1}),
)
ids = st.one_of(st.uuids().map(str), st.uuids().map(lambda u: str(u).upper()), odd)
amounts = st.one_of(st.none(), st.integers(0, 10**6), st.floats(0, 1e6), odd)
usage = st.dictionaries(
    st.sampled_from(["memory_mb", "cpu_cores", "tokens_in", "cost_usd", "disk_space_mb", "more"]),
    amounts,
    max_size=4,
)
progress = st.fixed_dictionaries(
    {},
    optional={
        "counter": st.one_of(st.integers(0, 9), odd),
        "phase": st.one_of(st.sampled_from(["", "tests", " trimmed ", "x" * 201, "\x00"]), odd),
        "note": st.one_of(st.sampled_from(["", "ü", "a\tb", "\ud800"]), odd),
    },
)
leases = st.fixed_dictionaries(
    {"lease_id": ids, "fencing_token": st.one_of(st.integers(1, 9), odd)},
    optional={"usage": st.one_of(usage, odd), "progress": st.one_of(progress, odd), "more": odd},
)
beats = st.fixed_dictionaries(
    {},
    optional={
        "incarnation": st.one_of(st.integers(1, 5), odd),
        "leases": st.one_of(st.lists(leases, max_size=3), odd),
        "draining": st.one_of(st.booleans(), odd),
        "age_s": st.one_of(st.floats(0, 60), st.integers(0, 60), odd),
        "more": odd,
    },
)


def by_the_form(data):
    form = reports.HeartbeatBody(data=data)
    form.is_valid(raise_exception=True)
    body = form.validated_data
    return body.get("incarnation"), plain(body["leases"]), body["draining"], body["age_s"]


def at_a_glance(data):
    beat = intake.heartbeat(data)
    return beat.incarnation, plain(beat.leases), beat.draining, beat.age_s


def plain(entries):
    """Leases with their ids as text, and without what says nothing."""
    return [
        {
            "lease_id": str(entry["lease_id"]),
            "fencing_token": entry["fencing_token"],
            "usage": {k: v for k, v in (entry.get("usage") or {}).items() if v is not None},
            "progress": dict(entry.get("progress") or {}),
        }
        for entry in entries
    ]


def outcome(read, data):
    try:
        return read(data)
    except ValidationError:
        return "invalid"


# The first example of a process loads tables of characters, seconds on a busy machine.
@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(beats)
def test_a_glance_says_what_the_form_says(data):
    assert outcome(at_a_glance, data) == outcome(by_the_form, data)


def test_a_plain_heartbeat_needs_no_form(monkeypatch):
    monkeypatch.setattr(reports, "HeartbeatBody", None)
    lease = {"lease_id": str(uuid.uuid4()), "fencing_token": 3, "usage": {"memory_mb": 1.5}}

    beat = intake.heartbeat({"incarnation": 2, "leases": [lease], "age_s": 0.5})

    assert (beat.incarnation, beat.leases, beat.age_s) == (2, [lease], 0.5)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@given(st.integers(1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_never_more_is_allowed_than_the_rate_and_one_burst(per_s, pauses):
    clock = Clock()
    meter = Meter(per_s=per_s, clock=clock)
    allowed = 0
    for pause in pauses:
        clock.now += pause
        allowed += meter.spend() is None

    assert allowed <= math.ceil(per_s * (BURST_S + sum(pauses))) + 1


@pytest.mark.parametrize("per_s", [5, 2000])
def test_whoever_waits_as_told_is_heard_and_whoever_does_not_is_hopeless(per_s):
    clock = Clock()
    meter = Meter(per_s=per_s, clock=clock)
    while (wait_s := meter.spend()) is None:
        pass
    clock.now += wait_s + 1 / per_s
    assert meter.spend() is None

    for _ in range(int(per_s * BURST_S) + 2):
        meter.spend()
    assert meter.is_hopeless


def test_a_text_that_comes_often_is_remembered_whatever_else_comes() -> None:
    kept = intake._Remembered[str]()
    kept.put(("form", "often"), "judged")

    for number in range(2 * intake.MOST_REMEMBERED):
        kept.put(("form", str(number)), "once")
        assert kept.get(("form", "often")) == "judged"
