"""Statements that are sent together: each is a transaction, and what is said of it is so."""

import psycopg
import pytest
from django.db import connection, transaction
from django.db.transaction import TransactionManagementError

from balancing import prepared
from balancing.prepared import Statement

pytestmark = pytest.mark.django_db(transaction=True)

SAID = Statement("said", "SELECT $1, NULL, n FROM generate_series(1, $2::int) n")
PUT = Statement("put", "INSERT INTO noted VALUES ($1), ($2) RETURNING word")
COUNT = Statement("count", "SELECT count(*) FROM noted")


@pytest.fixture
def noted():
    with connection.cursor() as cursor:
        cursor.execute("CREATE TABLE noted (word text UNIQUE DEFERRABLE INITIALLY DEFERRED)")
    yield
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE noted")


def test_rows_come_as_text_in_the_order_of_the_statements(db):
    text = "ä, 'b' \\ {c}"

    first, none, last = prepared.round_trip(
        (SAID, [text, "2"]), (SAID, ["", "0"]), (SAID, ["x", "1"])
    )

    assert first == [[text, None, "1"], [text, None, "2"]]
    assert none == []
    assert last == [["x", None, "1"]]


def test_a_statement_that_fails_takes_no_other_one_with_it(noted):
    before, failed, after = prepared.round_trip((PUT, ["a", "b"]), (SAID, ["", "x"]), (COUNT, []))

    assert before == [["a"], ["b"]]
    assert isinstance(failed, psycopg.errors.InvalidTextRepresentation)
    assert after == [["2"]]


def test_what_fails_at_its_commit_has_failed(noted):
    """Its rows had been answered already."""
    failed, after = prepared.round_trip((PUT, ["a", "a"]), (COUNT, []))

    assert isinstance(failed, psycopg.errors.UniqueViolation)
    assert after == [["0"]]


def test_a_statement_that_cannot_be_prepared_is_tried_anew_each_time(db):
    unknown = Statement("unknown", "SELECT * FROM not_there")
    for _ in range(2):
        failed, said = prepared.round_trip((unknown, []), (SAID, ["x", "1"]))
        assert isinstance(failed, psycopg.errors.UndefinedTable)
        assert said == [["x", None, "1"]]


def test_what_the_driver_has_dropped_is_prepared_anew_in_its_order(noted):
    prepared.round_trip((PUT, ["a", "b"]), (COUNT, []))
    connection.connection.execute("DEALLOCATE ALL")

    put, count = prepared.round_trip((PUT, ["c", "d"]), (COUNT, []))

    assert (put, count) == ([["c"], ["d"]], [["4"]])


@pytest.mark.parametrize("known", [SAID, COUNT])
def test_what_is_prepared_beside_what_was_dropped_stays_so(noted, known):
    prepared.round_trip((known, ["x", "1"] if known == SAID else []))
    connection.connection.execute("DEALLOCATE ALL")

    for _ in range(2):
        said, count = prepared.round_trip((SAID, ["x", "1"]), (COUNT, []))
        assert (said, count) == ([["x", None, "1"]], [["0"]])


def test_inside_of_a_transaction_nothing_is_sent(noted):
    with transaction.atomic(), pytest.raises(TransactionManagementError):
        prepared.round_trip((PUT, ["a", "b"]))

    assert prepared.round_trip((COUNT, [])) == [[["0"]]]


def test_more_than_the_buffers_hold_goes_both_ways(db):
    text = "x" * 5_000_000

    answers = prepared.round_trip(*[(SAID, [text, "1"])] * 3)

    assert answers == [[[text, None, "1"]]] * 3


def test_of_a_connection_that_is_lost_what_was_answered_counts(noted):
    ending = Statement("ending", "SELECT pg_terminate_backend(pg_backend_pid())::text")

    put, *lost = prepared.round_trip((PUT, ["a", "b"]), (ending, []), (COUNT, []))

    assert put == [["a"], ["b"]]
    assert [isinstance(error, psycopg.OperationalError) for error in lost] == [True, True]
    assert prepared.round_trip((COUNT, [])) == [[["2"]]]
