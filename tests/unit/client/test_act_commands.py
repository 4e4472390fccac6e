"""The commands that act on many: what they ask, what they send, what becomes of one that fails."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from agentpool.cli.main import main


@pytest.fixture(autouse=True)
def address(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTPOOL_URL", server.url)
    monkeypatch.setenv("AGENTPOOL_TOKEN", "secret")
    monkeypatch.setenv("AGENTPOOL_CONFIG", str(tmp_path / "config.toml"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def person(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Somebody at a terminal who types a line: person("y")."""

    def types(line: str) -> None:
        monkeypatch.setattr("sys.stdin", Terminal(f"{line}\n"))

    return types


def bee(name: str, **more: Any) -> dict[str, Any]:
    about = {"id": f"row-{name}", "agent_id": name, "agent_type": "code", "status": "draining"}
    return {**about, "health": "good", "active_leases": 2, **more}


@pytest.mark.parametrize(
    ("words", "path", "sent"),
    [
        (["drain"], "status", {"status": "draining", "reason": "why"}),
        (["drain", "--deadline", "30m"], "status", {"status": "draining", "deadline_s": 1800}),
        (["pause", "--until", "2030-01-01T00:00:00Z"], "health", {"health": "maintenance"}),
        (["quarantine"], "health", {"health": "quarantined", "note": "why"}),
        (["good"], "health", {"health": "good", "note": "why"}),
    ],
)
def test_an_act_on_many_agents_is_sent_for_each(
    server: Any, words: list[str], path: str, sent: dict[str, Any]
) -> None:
    for name in ("b1", "b2"):
        server.answer(f"POST /{name}/{path}", bee(name))

    assert main(["agents", *words, "b1", "b2", "--note", "why"]) == 0

    assert [asked.path for asked in server.asked] == [f"/b1/{path}", f"/b2/{path}"]
    assert all(sent.items() <= asked.body.items() for asked in server.asked)
    if "--until" in words:
        assert server.asked[0].body["until"] == words[-1]


def test_one_that_fails_is_told_and_the_others_are_done(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = {"code": "unsupported_transition", "detail": "b1 is lost"}
    server.answer("POST /b1/status", lost, status=409)
    server.answer("POST /b2/status", bee("b2"))

    with pytest.raises(SystemExit, match="1"):
        main(["agents", "drain", "b1", "b2"])
    said = capsys.readouterr()
    with pytest.raises(SystemExit, match="1"):
        main(["agents", "drain", "b1", "b2", "--json"])

    assert "b1" in said.err
    assert "b2 is draining, health good." in said.out
    report = json.loads(capsys.readouterr().out)
    assert [(each["named"], each["ok"]) for each in report] == [("b1", False), ("b2", True)]
    assert report[0]["code"] == "unsupported_transition"


def test_a_person_is_told_in_numbers_and_may_say_no(
    server: Any, person: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("b1", "b2"):
        server.answer(f"GET /agent-id/{name}", bee(name))
        server.answer(f"POST /{name}/release", {"released": [{}, {}]})

    person("n")
    assert main(["agents", "release", "b1", "b2"]) == 1
    said = capsys.readouterr().err
    assert not server.calls_of("POST /b1/release")
    person("y")
    assert main(["agents", "release", "b1", "b2", "--note", "hung"]) == 0

    assert "2 agents lose their leases (cancelled): b1, b2." in said
    assert "They hold 4 leases, which end at once." in said
    assert server.calls_of("POST /b2/release")[0].body == {"outcome": "cancelled", "error": "hung"}
    assert "b1: 2 leases ended." in capsys.readouterr().out


def test_yes_is_not_asked(server: Any, person: Any) -> None:
    server.answer("POST /b1/status", bee("b1"))
    person("n")

    assert main(["agents", "drain", "b1", "--yes"]) == 0


def test_a_rotated_credential_is_printed(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server.answer("POST /b1/rotate-credential", {"agent_id": "b1", "credential": "ap_x"})

    assert main(["agents", "rotate", "b1", "--note", "it leaked"]) == 0

    assert capsys.readouterr().out == "b1 ap_x\n"
    assert server.asked[0].body == {"note": "it leaked"}


def test_requests_leases_and_tokens_are_ended(server: Any, lease_json: Any) -> None:
    server.answer("DELETE /requests/r1", None, status=204)
    server.answer("GET /leases/l1", lease_json())
    server.answer("POST /leases/l1/release", lease_json(status="cancelled"))
    server.answer("DELETE /tokens/t1", None, status=204)

    assert main(["requests", "cancel", "r1", "--note", "too late"]) == 0
    assert main(["leases", "cancel", "l1", "--note", "hangs"]) == 0
    assert main(["tokens", "revoke", "t1"]) == 0

    assert server.calls_of("DELETE /requests/r1")[0].params == {"reason": "too late"}
    (asked,) = server.calls_of("POST /leases/l1/release")
    assert asked.body == {"fencing_token": 7, "outcome": "cancelled", "error": "hangs"}


def test_health_is_listed_and_checked(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"agent_id": "b1", "status": "unreachable", "health": "good", "heartbeat_age_s": 40.0}
    server.answer("GET /metrics/health", {"results": [{**row, "reasons": ["silent"]}]})
    server.answer("POST /health/check", {"unreachable": 1, "lost": 0, "lifted": 0})

    assert main(["health", "ls"]) == main(["health", "check"]) == 0

    assert "silent" in capsys.readouterr().out


def test_profiles_and_pools_are_made_and_changed(server: Any) -> None:
    profile = {
        "agent_type": "code",
        "network_access": "limited",
        "file_access": "full",
        "resource_limits": {"memory_mb": 1024, "cpu_cores": 1.0},
        "allowed_tools": ["read"],
        "version": 2,
    }
    server.answer("GET /security/profiles", {"results": [profile], "next": None})
    server.answer("GET /security/profiles/code", profile)
    server.answer("PATCH /security/profiles/code", profile)
    server.answer("PATCH /security/profiles/qa", profile)
    server.answer("POST /pools", {"agent_type": "docs"}, status=201)
    server.answer("PATCH /pools/docs", {"agent_type": "docs"})

    assert main(["profiles", "ls"]) == main(["profiles", "show", "code"]) == 0
    assert main(["profiles", "edit", "code", "--network", "limited", "--tool", "read"]) == 0
    edit = ["profiles", "edit", "qa", "--host", "a.example", "--writable", "docs/**"]
    assert main([*edit, "--quarantine-after", "3"]) == 0
    assert main(["profiles", "edit", "code"]) == 2
    assert main(["pools", "create", "docs", "--memory-mb", "2048", "--capability", "md"]) == 0
    assert main(["pools", "edit", "docs", "--slots", "2"]) == 0

    said = {f"{asked.method} {asked.path}": asked.body for asked in server.asked}
    assert said["PATCH /security/profiles/code"] == {
        "network_access": "limited",
        "allowed_tools": ["read"],
    }
    assert said["PATCH /security/profiles/qa"] == {
        "allowed_hosts": ["a.example"],
        "writable": ["docs/**"],
        "quarantine_after": 3,
    }
    assert said["POST /pools"] == {"agent_type": "docs", "memory_mb": 2048, "capabilities": ["md"]}
    assert said["PATCH /pools/docs"] == {"max_concurrent": 2}


@pytest.mark.parametrize("words", ["soon", "-5m", "3 weeks", ""])
def test_a_deadline_is_a_time_span(server: Any, words: str) -> None:
    assert main(["agents", "drain", "b1", "--deadline", words]) == 2
    assert server.asked == []
