"""The commands about the optimizer: what they ask, and what they print."""

from pathlib import Path
from typing import Any

import pytest

from agentpool.cli.main import main

PROPOSAL = {
    "id": "7b1f",
    "at": "2026-05-01T12:00:00Z",
    "agent_type": "code",
    "subject": "",
    "issue": "high_wait_times",
    "action": "scale_up",
    "metric": "mean_wait_s",
    "measured": 300.0,
    "expected": 60.0,
    "status": "open",
    "basis": "120 leases waited 300 s on average",
    "verdict": "",
    "will": "3 agents will run, 1 more than now.",
}


@pytest.fixture(autouse=True)
def address(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTPOOL_URL", server.url)
    monkeypatch.setenv("AGENTPOOL_TOKEN", "secret")
    monkeypatch.setenv("AGENTPOOL_CONFIG", str(tmp_path / "config.toml"))


def test_a_look_tells_what_applying_would_do(server: Any, capsys: Any) -> None:
    server.answer("POST /optimize", {"issues_identified": [PROPOSAL]})

    assert main(["optimize", "look", "code"]) == 0

    assert server.asked[0].body == {"agent_type": "code"}
    assert "7b1f: 3 agents will run, 1 more than now." in capsys.readouterr().out


def test_the_history_says_what_was_expected(server: Any, capsys: Any) -> None:
    server.answer("GET /optimize/history", {"results": [PROPOSAL], "next": None})

    assert main(["optimize", "history", "--status", "open"]) == 0

    assert server.asked[0].params["status"] == "open"
    assert "mean_wait_s 300 > 60" in capsys.readouterr().out


def test_a_proposal_is_applied_or_dismissed(server: Any, capsys: Any) -> None:
    server.answer("POST /optimize/7b1f/apply", {**PROPOSAL, "verdict": "3 agents will run."})
    server.answer("POST /optimize/7b1f/dismiss", PROPOSAL)

    assert main(["optimize", "apply", "7b1f", "--note", "go"]) == 0
    assert main(["optimize", "dismiss", "7b1f"]) == 0

    assert [each.body for each in server.asked] == [{"note": "go"}, {"note": ""}]
    assert "Applied: 3 agents will run." in capsys.readouterr().out


def test_a_policy_is_changed_and_shown(server: Any, capsys: Any) -> None:
    policy = {"agent_type": "code", "mode": "auto", "settings": {"wait_s": 60.0}}
    server.answer("POST /optimize/policy", policy)
    server.answer("GET /optimize/policy", {"results": [policy]})

    words = ["optimize", "policy", "code", "--mode", "auto"]
    assert main([*words, "--set", "wait_s=60", "--unset", "busy_share"]) == 0
    assert main(["optimize", "policy"]) == 0

    settings = {"wait_s": 60.0, "busy_share": None}
    assert server.asked[0].body == {"agent_type": "code", "mode": "auto", "settings": settings}
    assert "wait_s=60" in capsys.readouterr().out
