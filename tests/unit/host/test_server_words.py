"""What a Postgres server says, in its protocol and in its log, and what we make of it."""

from pathlib import Path

import pytest

from agentpool.host import server_files, wire
from agentpool.host.wire import Answer


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        (b"", Answer.SILENT),
        (b"HTTP/1.1 400 Bad Request", Answer.SILENT),
        (b"R\0\0\0\x17\0\0\0\nSCRAM-SHA-256\0\0", Answer.ACCEPTING),
        (b"E\0\0\0\x42SFATAL\0C57P03\0Mthe database system is starting up\0", Answer.STARTING),
        (b"E\0\0\0\x42SFATAL\0C53300\0Msorry, too many clients already\0", Answer.ACCEPTING),
    ],
)
def test_a_reply_means_what_libpq_takes_it_for(reply: bytes, answer: Answer) -> None:
    assert wire._meaning(reply) is answer


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("FATAL:  could not write lock file: No space left on device", "is full"),
        (
            "could not extend file: wrote only 4096 of 8192\nHINT:  Check free disk space.",
            "is full",
        ),
        ("could not bind IPv4 address: Address already in use", "AGENTPOOL_DB_PORT"),
        ("FATAL:  database files are incompatible with server", "another version"),
        ("initdb: could not change permissions: Operation not permitted", "AGENTPOOL_HOME"),
        ("FATAL:  could not map anonymous shared memory: Cannot allocate memory", "memory"),
    ],
)
def test_the_reason_of_a_failed_start_becomes_an_advice(said: str, advice: str) -> None:
    text = server_files.explain(said, folder=Path("data"), log=None)

    assert advice in text


def test_an_unknown_reason_is_shown_with_the_place_of_the_log() -> None:
    text = server_files.explain("FATAL: odd", folder=Path("data"), log=Path("postgres.log"))

    assert "postgres.log" in text
    assert "FATAL: odd" in text


def test_a_half_written_pid_file_has_no_port(tmp_path: Path) -> None:
    (tmp_path / "postmaster.pid").write_text("4711\n/data\n")

    assert (server_files.pid_of(tmp_path), server_files.port_of(tmp_path)) == (4711, None)
