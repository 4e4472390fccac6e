"""The tables of legal moves."""

import pytest

from agentpool.registry import states

TABLES = {
    "agent": (states.AgentStatus, states.AGENT_MOVES, set()),
    "request": (
        states.RequestStatus,
        states.REQUEST_MOVES,
        {"finished", "failed", "timed_out", "cancelled", "refused"},
    ),
    "lease": (
        states.LeaseStatus,
        states.LEASE_MOVES,
        {"released", "expired", "lost", "cancelled"},
    ),
    "launch": (states.LaunchStatus, states.LAUNCH_MOVES, {"failed", "stopped"}),
}
BORN = {
    "agent": {"starting", "idle"},
    "request": {"waiting", "granted", "refused"},
    "lease": {"offered", "active"},
    "launch": {"intended"},
}


@pytest.mark.parametrize("noun", TABLES)
def test_moves_name_every_status(noun):
    enum, moves, _ = TABLES[noun]

    assert set(enum) == set(moves)


@pytest.mark.parametrize("noun", TABLES)
def test_only_final_statuses_are_dead_ends(noun):
    _, moves, final = TABLES[noun]

    assert final == {status.value for status, to in moves.items() if not to}


@pytest.mark.parametrize("noun", TABLES)
def test_every_status_is_reachable(noun):
    enum, moves, _ = TABLES[noun]
    reached = {enum(name) for name in BORN[noun]}
    for _ in enum:
        reached |= {to for status in reached for to in moves[status]}

    assert set(enum) == reached


def test_holding_leases_are_live_leases():
    assert states.HOLDING < states.LIVE
