"""What an agent's silence means, and when the control plane has no right to judge."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agentpool.registry.health import (
    WATCHED,
    Absence,
    Windows,
    grace_until,
    heartbeat_interval_s,
    verdict,
)
from agentpool.registry.states import AGENT_MOVES, AgentStatus

WINDOWS = Windows(heartbeat_s=10, suspect_s=30, lost_s=90)
NOW = datetime(2026, 1, 1, tzinfo=UTC)
statuses = st.sampled_from(list(AgentStatus))
silences = st.floats(0, 1e6)


@given(statuses, silences)
def test_a_verdict_is_a_legal_move_or_none(status, silent_s):
    after = verdict(status=status, silent_s=silent_s, windows=WINDOWS)

    assert after == status or after in AGENT_MOVES[status]


@given(statuses, st.floats(0, 30))
def test_an_agent_within_the_suspect_window_is_left_alone(status, silent_s):
    assert status == verdict(status=status, silent_s=silent_s, windows=WINDOWS)


@given(st.sampled_from(sorted(WATCHED)), st.floats(90.001, 1e6))
def test_two_looks_at_a_long_silence_end_in_lost(status, silent_s):
    once = verdict(status=status, silent_s=silent_s, windows=WINDOWS)

    assert verdict(status=once, silent_s=silent_s, windows=WINDOWS) is AgentStatus.LOST


def test_a_control_plane_that_never_worked_has_nobody_to_spare():
    absence = Absence(last_seen_at=None, until=None)

    assert grace_until(absence=absence, now=NOW, windows=WINDOWS) is None


def test_a_control_plane_that_was_away_gives_a_full_window():
    absence = Absence(last_seen_at=NOW - timedelta(seconds=31), until=None)

    assert grace_until(absence=absence, now=NOW, windows=WINDOWS) == NOW + timedelta(seconds=90)


def test_a_grace_lasts_to_its_end():
    until = NOW + timedelta(seconds=5)
    absence = Absence(last_seen_at=NOW, until=until)

    assert grace_until(absence=absence, now=NOW, windows=WINDOWS) == until
    assert grace_until(absence=absence, now=until, windows=WINDOWS) is None


@given(st.integers(0, 200_000))
def test_heartbeats_of_any_fleet_stay_under_the_rate(agents):
    every_s = heartbeat_interval_s(base_s=10, agents=agents)

    assert every_s >= 10
    assert agents / every_s <= 50 * (1 + 1e-9)
