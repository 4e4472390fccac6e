"""The database holds the same rules as the code."""

import re
from pathlib import Path

import pytest
from django.db import connection

from agentpool.registry import states
from balancing.migrations import __path__ as _migrations

pytestmark = pytest.mark.django_db
SQL = Path(_migrations[0]).parent / "sql"

ENUMS = {
    "agent_status_legal": states.AgentStatus,
    "agent_health_legal": states.AgentHealth,
    "request_status_legal": states.RequestStatus,
    "lease_status_legal": states.LeaseStatus,
    "launch_status_legal": states.LaunchStatus,
    "credential_scope_legal": states.Scope,
    "outcome_outcome_legal": states.Outcome,
}
INDEXES = {
    "agent_placeable": states.PLACEABLE_STATUS | states.PLACEABLE_HEALTH,
    "lease_one_per_slot": states.HOLDING,
}


def _literals(text):
    return set(re.findall(r"'([a-z_]+)'", text))


@pytest.mark.parametrize("name", ENUMS)
def test_a_status_constraint_allows_what_its_enum_has(name):
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", [name]
        )
        (definition,) = cursor.fetchone()

    assert {member.value for member in ENUMS[name]} == _literals(definition)


@pytest.mark.parametrize("name", INDEXES)
def test_a_partial_index_covers_what_its_set_has(name):
    with connection.cursor() as cursor:
        cursor.execute("SELECT indexdef FROM pg_indexes WHERE indexname = %s", [name])
        (definition,) = cursor.fetchone()

    assert {member.value for member in INDEXES[name]} == _literals(definition)


@pytest.mark.parametrize("file", sorted(SQL.glob("*.sql")), ids=lambda f: f.stem)
def test_a_function_in_the_database_is_the_one_in_its_file(file):
    text = file.read_text()
    if "CREATE FUNCTION" not in text:
        return
    body = text[text.index("$$") + 2 : text.rindex("$$")]
    with connection.cursor() as cursor:
        cursor.execute("SELECT prosrc FROM pg_proc WHERE proname = %s", [file.stem])
        (stored,) = cursor.fetchone()

    assert body == stored


@pytest.mark.parametrize("file", sorted(SQL.glob("*.sql")), ids=lambda f: f.stem)
def test_sql_names_only_legal_statuses(file):
    known = {
        member.value
        for enum in (states.AgentStatus, states.AgentHealth, states.RequestStatus)
        for member in enum
    } | {member.value for enum in (states.LeaseStatus, states.Outcome) for member in enum}
    compared = re.findall(
        r"(?:status|health)\s*(?:=|<>|IN|NOT IN)\s*\(?((?:'[a-z_]+'[, ]*)+)", file.read_text()
    )

    assert _literals(" ".join(compared)) <= known
