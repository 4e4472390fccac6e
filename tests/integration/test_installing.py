"""A database that an earlier version has made gets the functions of this one."""

import pytest
from django.db import connection

from balancing import installing

pytestmark = pytest.mark.django_db(transaction=True)


def run(*statements):
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else None


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
