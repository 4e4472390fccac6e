"""A database that an earlier version has made gets the functions of this one."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from django.db import connection

from agentpool.registry.states import LeaseStatus, Outcome
from balancing import claim, installing, terms
from balancing.services import leases

pytestmark = pytest.mark.django_db(transaction=True)


def run(*statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else None


def install_there():
    """Install by a connection of one's own, as an update beside a running server does."""
    try:
        return installing.install()
    finally:
        connection.close()


def test_functions_are_made_anew_once_when_they_are_not_those_of_this_code(make_agent, submit):
    run(
        "COMMENT ON TYPE timing_1 IS 'agentpool functions of last week'",
        "DROP FUNCTION lease_shown_1",
        "CREATE FUNCTION lease_shown_1(l lease) RETURNS jsonb LANGUAGE sql AS 'SELECT to_jsonb(l)'",
        "DROP FUNCTION park_1",
    )

    was_behind = installing.install()
    again = installing.install()

    assert (was_behind, again) == (True, False)
    make_agent()
    assert submit().held is not None


def test_a_script_that_fails_leaves_the_functions_as_they_were(make_agent, submit, monkeypatch):
    installing.install()
    run("COMMENT ON TYPE timing_1 IS 'agentpool functions of last week'")
    whole = installing._scripts
    monkeypatch.setattr(installing, "_scripts", lambda: {**whole(), "park_1": "CREATE NONSENSE"})

    with pytest.raises(Exception, match="NONSENSE"):
        installing.install()

    make_agent()
    assert submit().held is not None
    monkeypatch.undo()
    assert installing.install()


def test_who_was_connected_when_the_functions_were_made_anew_goes_on(make_agent, submit):
    """Its calls are prepared, and must not hold on to types that are no longer there."""
    agent = make_agent()

    def round_trip():
        held = submit().held
        parked = leases.park(held.id, token=held.fencing_token, reason="", actor="test")
        token = leases.resume(parked.id, token=parked.fencing_token, actor="test").fencing_token
        ending = terms.Ending(LeaseStatus.RELEASED, Outcome.SUCCESS)
        close = terms.Close(held.id, token, ending, "test")
        claim.serve(agent.agent_type)
        done = claim.exchange([close], [], credentials=[])
        assert (done.ended[0].code, done.serveable) == ("ok", frozenset())
        return held

    round_trip()
    run("COMMENT ON TYPE timing_1 IS 'agentpool functions of last week'")
    with ThreadPoolExecutor(1) as another:
        assert another.submit(install_there).result()

    assert round_trip().agent_id == agent.id
