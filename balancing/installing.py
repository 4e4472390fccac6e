"""
Brings the claim's SQL functions in the database to those of this code.

The migration makes them for a new database. A later version of a file is noticed by a digest, kept
as the comment of a type, and then all of them are made anew in one transaction.
"""

import hashlib
import importlib
from typing import Any

from django.db import connection, transaction

_MARK = "agentpool functions "
# Any number that nothing else locks: two machines that start at once must not both make them.
_LOCK = 0x61706675
_OWN = """
    SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = current_schema() AND p.proname = ANY (%s)
"""


def install() -> bool:
    """Make the functions anew if they are not those of this code; return whether they were."""
    scripts = _scripts()
    digest = _MARK + hashlib.sha256("\0".join(scripts.values()).encode()).hexdigest()
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [_LOCK])
        cursor.execute("SELECT obj_description(to_regtype('timing_1'), 'pg_type')")
        if cursor.fetchone() == (digest,):
            return False
        _drop(cursor, scripts)
        for script in scripts.values():
            cursor.execute(script)
        cursor.execute(f"COMMENT ON TYPE timing_1 IS '{digest}'")
    return True


def _scripts() -> dict[str, str]:
    made = importlib.import_module("balancing.migrations.0001_functions")
    return {name: (made.SQL / f"{name}.sql").read_text() for name in made.FUNCTIONS}


def _drop(cursor: Any, scripts: dict[str, str]) -> None:
    """Drop what any version has made under these names; nothing else may hang on it."""
    made = importlib.import_module("balancing.migrations.0001_functions")
    for name in ("agent_class", "agent_counted", "agent_recounted"):
        cursor.execute(f"DROP TRIGGER IF EXISTS {name} ON agent")
    names = [*scripts, *made.FORMER, "agent_class_1", "agent_counted_1", "agent_recounted_1"]
    cursor.execute(_OWN, [names])
    for (signature,) in cursor.fetchall():
        cursor.execute(f"DROP FUNCTION {signature}")
    for name in made.TYPES:
        cursor.execute(f"DROP TYPE IF EXISTS {name}")
