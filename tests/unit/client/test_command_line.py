"""The `agentpool` command against a scripted server: output, exit codes, hints."""

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from agentpool.cli.main import _COMMANDS, main, root

pytestmark = pytest.mark.timeout(30)
BATCH = """
[batch]
project = "shop"
[[phase]]
name = "only"
agent_type = "code"
command = ["echo", "{cycle}"]
[[cycle]]
id = "one"
[[cycle]]
id = "two"
"""


@pytest.fixture(autouse=True)
def address(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTPOOL_URL", server.url)
    monkeypatch.setenv("AGENTPOOL_TOKEN", "secret")
    monkeypatch.setenv("AGENTPOOL_CONFIG", str(tmp_path / "config.toml"))


@pytest.fixture
def batch_file(tmp_path: Path) -> Path:
    path = tmp_path / "cycles.toml"
    path.write_text(BATCH)
    return path


def test_a_pool_is_told_never_to_suspect(server: Any) -> None:
    server.answer("PATCH /pools/code", {"agent_type": "code"})

    code = main(["pools", "set", "code", "--suspicion-probation=4", "--suspicion-quarantine=never"])

    assert code == 0
    (asked,) = server.calls_of("PATCH /pools/code")
    assert asked.body == {"suspicion_probation": 4.0, "suspicion_quarantine": None}


def leaves(group: click.Group, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Return the words of every command that is not a group."""
    context = click.Context(group)
    found = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        path = (*words, name)
        found += leaves(command, path) if isinstance(command, click.Group) else [path]
    return found


@pytest.mark.parametrize("words", leaves(root), ids=" ".join)
def test_every_command_explains_itself(
    words: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main([*words, "--help"])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1

    assert code == 0
    # Some are commands of the server, which a process of their own explains.
    assert "usage:" in capfd.readouterr().out.lower()


def test_help_of_all_commands_is_there_without_importing_them() -> None:
    code = (
        "import sys; from agentpool.cli.main import main; main(['--help'])\n"
        "loaded = {'rich', 'httpx', 'psutil', 'agentpool.host'} & set(sys.modules)\n"
        "sys.exit(bool(loaded))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in _COMMANDS)


def test_agents_are_listed_without_the_retired(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"id": "1", "agent_id": "bee", "agent_type": "code", "status": "idle"},
        {"id": "2", "agent_id": "wasp", "agent_type": "code", "status": "retired"},
    ]
    server.answer("GET ", {"results": rows, "next": None})

    code = main(["agents", "ls"])

    out = capsys.readouterr().out
    assert code == 0
    assert "bee" in out
    assert "wasp" not in out


def test_json_is_what_the_server_said(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "1", "agent_id": "bee", "agent_type": "code", "something_new": 5}]
    server.answer("GET ", {"results": rows, "next": None})

    main(["agents", "ls", "--json"])

    assert json.loads(capsys.readouterr().out) == rows


def test_acquire_prints_the_lease(
    server: Any, lease_json: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer("POST /requests", {"id": "r1", "status": "granted", "lease": lease_json()})

    code = main(["acquire", "code", "--project", "shop", "--memory-mb", "512"])

    said = capsys.readouterr()
    assert code == 0
    assert "bee" in said.out
    assert "--token 7" in said.err
    assert server.asked[0].body["requirements"] == {"memory_mb": 512}


def test_a_refusal_is_told_with_code_detail_and_hint(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = {"code": "unsatisfiable", "detail": "the largest agent has 4096 MB"}
    server.answer("POST /requests", problem, status=422)

    code = main(["acquire", "code", "--project", "shop"])

    said = capsys.readouterr().err
    assert code == 1
    assert "unsatisfiable: the largest agent has 4096 MB" in said
    assert "Hint: ask for less" in said


def test_nobody_there_has_an_exit_code_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AGENTPOOL_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("agentpool.cli.plane._PATIENCE_S", 0)

    code = main(["agents", "ls"])

    assert code == 3
    assert "agentpool up" in capsys.readouterr().err


def test_wrong_usage_has_an_exit_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["acquire", "code"]) == 2
    assert main(["no-such-command"]) == 2
    assert "--project" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("token", "arguments"),
    [
        ("\u00e9", ["pools", "ls"]),
        ("a\nb", ["pools", "ls"]),
        ("secret", ["acquire", "code", "--project", "p", "--wait", "nan"]),
        ("secret", ["tokens", "create", "ci", "--expires-in", "inf"]),
    ],
)
def test_what_cannot_be_sent_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    token: str,
    arguments: list[str],
) -> None:
    monkeypatch.setenv("AGENTPOOL_TOKEN", token)

    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


def test_login_saves_only_what_the_server_accepts(server: Any, tmp_path: Path) -> None:
    server.answer("GET /tokens/whoami", {"code": "unauthenticated"}, status=401)
    config = tmp_path / "config.toml"

    done = subprocess.run(
        [sys.executable, "-m", "agentpool.cli", "login", server.url, "--token-stdin"],
        input="wrong\n",
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert "agentpool login" in done.stderr
    assert not config.exists()


@pytest.mark.parametrize(
    ("url", "token", "told"),
    [
        ("http://127.0.0.1:port", "right", "http://host:port"),
        ("ftp://127.0.0.1", "right", "http://host:port"),
        ("http://127.0.0.1:9", "copied–by–hand", "characters that no token has"),
    ],
)
def test_login_tells_what_is_wrong_with_an_address_or_a_token(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    url: str,
    token: str,
    told: str,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{token}\n"))

    assert main(["login", url, "--token-stdin"]) == 2
    assert told in capsys.readouterr().err


def test_login_keeps_the_token_private(server: Any, tmp_path: Path) -> None:
    server.answer("GET /tokens/whoami", {"name": "ci", "scope": "operator"})

    done = subprocess.run(
        [sys.executable, "-m", "agentpool.cli", "login", server.url, "--token-stdin"],
        input="right\n",
        capture_output=True,
        text=True,
        check=True,
    )

    config = tmp_path / "config.toml"
    assert "scope operator" in done.stdout
    assert 'token = "right"' in config.read_text()
    assert config.stat().st_mode & 0o777 == 0o600


def test_a_log_goes_to_the_stream_it_came_from(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    chunks = [
        {"seq": 1, "stream": "stdout", "text": "out\n"},
        {"seq": 2, "stream": "stderr", "text": "err\n"},
    ]
    server.answer("GET /leases/l1/log", {"chunks": chunks, "next": 2, "complete": True})

    main(["logs", "l1"])

    said = capsys.readouterr()
    assert (said.out, said.err) == ("out\n", "err\n")


def test_a_batch_is_checked(batch_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cycles", "check", str(batch_file)]) == 0

    batch_file.write_text(BATCH.replace('id = "two"', 'id = "one"\ntags = 5'))
    assert main(["cycles", "check", str(batch_file)]) == 2

    said = capsys.readouterr().err
    assert "cycle[1].id" in said
    assert "cycle[1].tags" in said


def test_a_batch_runs_and_writes_its_summary(
    server: Any, batch_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer("GET /requests", {"results": []})
    server.answer("POST /requests", {"id": "r1", "status": "waiting"}, status=202)
    server.answer("GET /requests/r1", {"id": "r1", "status": "finished", "outcome": "success"})
    server.answer("GET /leases", {"results": []})
    summary = tmp_path / "deep" / "summary.json"

    with pytest.raises(SystemExit) as leaving:
        main(["cycles", "run", str(batch_file), "--summary", str(summary)])

    assert leaving.value.code == 0
    assert json.loads(summary.read_text())["passed"] == 2
    assert "2 of 2 cycles passed" in capsys.readouterr().out


def test_a_batch_that_fails_says_where_to_look(
    server: Any, batch_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failed = {"id": "r1", "status": "finished", "outcome": "failure", "error": "red"}
    server.answer("GET /requests", {"results": []})
    server.answer("POST /requests", failed, status=202)
    server.answer("GET /requests/r1", {**failed, "lease": {"id": "l9", "fencing_token": 1}})
    server.answer("GET /leases", {"results": []})

    with pytest.raises(SystemExit) as leaving:
        main(["cycles", "run", str(batch_file), "--only", "one"])

    assert leaving.value.code == 1
    assert "agentpool logs l9" in capsys.readouterr().err
