"""Dump and restore: what comes back, what stays when it fails, and the fencing sequence."""

import stat
from pathlib import Path

import psycopg
import pytest

from agentpool.host import backup, postgres
from agentpool.host.backup import FENCING_ADVANCE
from agentpool.host.installation import HostError, Installation


def test_a_restore_brings_rows_back(home: Installation, tmp_path: Path) -> None:
    url = _with_tokens(home, used=3)
    backup.dump(home, tmp_path / "pool.dump")
    _run(url, "DELETE FROM story; INSERT INTO story VALUES ('later')")

    backup.restore(home, tmp_path / "pool.dump")

    assert _values(url, "SELECT name FROM story") == ["first"]


def test_no_fencing_token_is_handed_out_twice_after_a_restore(
    home: Installation, tmp_path: Path
) -> None:
    url = _with_tokens(home, used=3)
    backup.dump(home, tmp_path / "pool.dump")
    _run(url, f"SELECT setval('lease_fencing_token_seq', {5 * FENCING_ADVANCE})")

    last = backup.restore(home, tmp_path / "pool.dump")

    following = _values(url, "SELECT nextval('lease_fencing_token_seq')")
    assert last == 6 * FENCING_ADVANCE
    assert following == [6 * FENCING_ADVANCE + 1]


def test_a_restore_on_a_new_machine_advances_the_dumped_token(
    home: Installation, tmp_path: Path
) -> None:
    _with_tokens(home, used=3)
    backup.dump(home, tmp_path / "pool.dump")
    other = Installation(key="test", instance="other", root=home.root)

    try:
        last = backup.restore(other, tmp_path / "pool.dump")
    finally:
        postgres.stop(other)

    assert last == 3 + FENCING_ADVANCE


def test_a_dump_without_fencing_tokens_does_not_replace_a_database_that_handed_some_out(
    home: Installation, tmp_path: Path
) -> None:
    """Migrations would make a new sequence that begins at 1, and every token would come again."""
    postgres.start(home)
    backup.dump(home, tmp_path / "before_the_first_start.dump")
    url = _with_tokens(home, used=3)

    with pytest.raises(HostError, match="no fencing tokens"):
        backup.restore(home, tmp_path / "before_the_first_start.dump")

    assert _values(url, "SELECT name FROM story") == ["first"]
    assert _values(url, "SELECT last_value FROM lease_fencing_token_seq") == [3]


def test_a_restore_is_refused_while_somebody_uses_the_database(
    home: Installation, tmp_path: Path
) -> None:
    url = _with_tokens(home, used=1)
    backup.dump(home, tmp_path / "pool.dump")

    with psycopg.connect(url), pytest.raises(HostError, match="1 connections use"):
        backup.restore(home, tmp_path / "pool.dump")


def test_a_file_that_is_no_dump_leaves_the_database_alone(
    home: Installation, tmp_path: Path
) -> None:
    url = _with_tokens(home, used=1)
    (tmp_path / "no.dump").write_text("hello")

    with pytest.raises(HostError, match="pg_restore failed"):
        backup.restore(home, tmp_path / "no.dump")

    assert _values(url, "SELECT name FROM story") == ["first"]


def test_a_dump_is_readable_by_its_owner_only(home: Installation, tmp_path: Path) -> None:
    backup.dump(home, tmp_path / "pool.dump")

    assert stat.S_IMODE((tmp_path / "pool.dump").stat().st_mode) == 0o600
    assert [one.name for one in tmp_path.iterdir()] == ["pool.dump"]


def test_a_database_of_your_own_must_be_empty(home: Installation, tmp_path: Path) -> None:
    url = _with_tokens(home, used=1)
    backup.dump(home, tmp_path / "pool.dump", database_url=url)
    _run(url, "CREATE DATABASE own")

    with pytest.raises(HostError, match="not empty"):
        backup.restore(home, tmp_path / "pool.dump", database_url=url)
    last = backup.restore(home, tmp_path / "pool.dump", database_url=_named(url, "own"))

    assert last == 1 + FENCING_ADVANCE
    assert _values(_named(url, "own"), "SELECT name FROM story") == ["first"]


def _with_tokens(home: Installation, *, used: int) -> str:
    url = postgres.start(home)
    _run(url, "CREATE TABLE story (name text); INSERT INTO story VALUES ('first')")
    _run(url, "CREATE SEQUENCE lease_fencing_token_seq")
    _run(url, f"SELECT nextval('lease_fencing_token_seq') FROM generate_series(1, {used})")
    return url


def _run(url: str, sql: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(sql)


def _values(url: str, sql: str) -> list[object]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute(sql)]


def _named(url: str, database: str) -> str:
    return f"{url.rpartition('/')[0]}/{database}"
