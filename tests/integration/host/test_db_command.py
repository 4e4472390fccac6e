"""The `agentpool db` commands as a person types them."""

import json
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from agentpool.cli.db import db
from agentpool.host import lock, postgres
from agentpool.host.installation import Installation, make_home


@pytest.mark.usefixtures("home")
def test_status_of_a_database_that_does_not_run_ends_with_3() -> None:
    result = _db("status", "--json")

    assert result.exit_code == 3
    assert json.loads(result.output)["is_running"] is False


@pytest.mark.usefixtures("home")
def test_start_status_and_stop_tell_the_same_story() -> None:
    started = _db("start", "--json")
    running = _db("status", "--json")
    stopped = _db("stop")

    assert str(json.loads(running.output)["port"]) in json.loads(started.output)["url"]
    assert (running.exit_code, stopped.output) == (0, "Stopped.\n")
    assert _db("stop").output == "It was not running.\n"


@pytest.mark.usefixtures("home")
def test_start_shows_no_password() -> None:
    shown = _db("start").output

    assert "The database answers on 127.0.0.1:" in shown
    assert "postgresql://" not in shown


def test_a_dump_comes_back_when_the_question_is_answered_with_yes(
    home: Installation, tmp_path: Path
) -> None:
    file = str(tmp_path / "pool.dump")
    with psycopg.connect(postgres.start(home)) as connection:
        connection.execute("CREATE SEQUENCE lease_fencing_token_seq")

    saved = _db("dump", file)
    refused = _db("restore", file, answer="n\n")
    restored = _db("restore", file, answer="y\n")

    assert saved.output.startswith(f"Saved {file}")
    assert refused.exit_code == 1
    assert restored.output.endswith("Restored. Fencing tokens go on after 1000001.\n")


def test_the_database_of_a_running_installation_is_neither_stopped_nor_replaced(
    home: Installation, tmp_path: Path
) -> None:
    file = tmp_path / "pool.dump"
    file.touch()
    make_home(home)

    with lock.hold(home.run_folder / "up.lock", wait_s=0, note={"url": "http://here"}):
        answers = [_db("stop"), _db("restore", str(file), "--yes")]

    assert [answer.exit_code for answer in answers] == [1, 1]
    assert all("`agentpool up` (pid" in answer.output for answer in answers)


@pytest.mark.usefixtures("home")
def test_start_leaves_a_database_of_your_own_to_its_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://own.example/pool")

    result = _db("start")

    assert result.exit_code == 1
    assert "DATABASE_URL is set" in result.output


def _db(*words: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(db, list(words), input=answer)
