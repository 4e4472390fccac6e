"""The commands about rebalancing: what they ask, and what they print."""

from pathlib import Path
from typing import Any

import pytest

from agentpool.cli.main import main

CHANGE = {
    "at": "2026-05-01T12:00:00Z",
    "agent_type": "code",
    "agent_id": "code-1",
    "resource": "memory_mb",
    "current_allocation": 1000.0,
    "suggested_allocation": 600.0,
    "status": "undone",
    "reason": "100 of 1000 MB are used",
    "bound": "",
    "verdict": "560 of 600 were used then",
}


@pytest.fixture(autouse=True)
def address(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTPOOL_URL", server.url)
    monkeypatch.setenv("AGENTPOOL_TOKEN", "secret")
    monkeypatch.setenv("AGENTPOOL_CONFIG", str(tmp_path / "config.toml"))


def test_a_dry_run_tells_what_would_come_free(server: Any, capsys: Any) -> None:
    freed = {"memory_mb": 400.0, "cpu_cores": 0.0}
    done = {"opportunities": [CHANGE], "total_resources_freed": freed, "reason": ""}
    server.answer("POST /resources/rebalance", done)

    assert main(["rebalance", "run", "code", "--dry-run"]) == 0

    (asked,) = server.asked
    assert (asked.params, asked.body) == ({"dry_run": "true"}, {"agent_type": "code"})
    assert "400 MB and 0 cores would come free." in capsys.readouterr().out


def test_the_history_says_what_became_of_each_change(server: Any, capsys: Any) -> None:
    server.answer("GET /resources/rebalance/history", {"results": [CHANGE], "next": None})

    assert main(["rebalance", "history", "--status", "undone"]) == 0

    assert server.asked[0].params["status"] == "undone"
    assert "undone" in capsys.readouterr().out


def test_a_policy_is_changed_and_shown(server: Any, capsys: Any) -> None:
    policy = {"agent_type": "code", "mode": "auto", "settings": {"hold_s": 30.0}}
    server.answer("POST /resources/rebalance/policy", policy)
    server.answer("GET /resources/rebalance/policy", {"results": [policy]})

    words = ["rebalance", "policy", "code", "--mode", "auto"]
    assert main([*words, "--set", "hold_s=30", "--unset", "rest_s"]) == 0
    assert main(["rebalance", "policy"]) == 0

    sent = {"agent_type": "code", "mode": "auto", "settings": {"hold_s": 30.0, "rest_s": None}}
    assert server.asked[0].body == sent
    assert "hold_s=30" in capsys.readouterr().out


@pytest.mark.parametrize("words", [["--mode", "auto"], ["code", "--set", "hold_s=soon"]])
def test_what_makes_no_sense_is_refused(words: list[str]) -> None:
    assert main(["rebalance", "policy", *words]) == 2
