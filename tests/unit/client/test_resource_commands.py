"""The commands that explain, limit and move: what they send, and what a person reads."""

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


def test_an_explanation_has_bars_parts_and_a_timeline(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"agent_id": "bee", "score": 0.5, "parts": {"load": 1.0, "affinity": 0.25}}
    found = {
        "status": "granted",
        "reason": "it was the best",
        "filters": [
            {"name": "status", "kept": 4, "dropped": 0},
            {"name": "free slot", "kept": 1, "dropped": 3},
        ],
        "candidates": [card],
        "chosen": card,
        "runner_up": None,
        "timeline": [{"at": "2026-01-01T00:00:00Z", "reason": "arrived"}],
    }
    server.answer("GET /requests/r1/explain", found)

    assert main(["requests", "explain", "r1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert main(["requests", "explain", "r1", "--json"]) == 0

    assert any("free slot" in line and "█████···············" in line for line in lines)
    assert any(line.split() == ["bee", "0.5", "1", "0.25"] for line in lines)
    assert any("2026-01-01 00:00:00" in line and "arrived" in line for line in lines)
    assert json.loads(capsys.readouterr().out) == found


LIMIT = {
    **dict.fromkeys(
        f"{kind}{name}"
        for kind in ("", "max_")
        for name in ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")
    ),
    "level": "project",
    "name": "shop",
    "memory_mb": 2048,
    "used": {"memory_mb": 1024},
    "min_memory_mb": None,
    "min_cpu_cores": None,
    "utilisation": 0.5,
    "weight": 1,
    "id": "l1",
    "generation": 4,
}
NOTHING = {"agents": 0, "slots": 0, "leases": 0, "memory_mb": 0, "cpu_cores": 0.0} | {
    "token_budget": 0,
    "disk_space_mb": 0,
}


def test_resources_and_limits_are_shown_and_set(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    total = {"total": NOTHING, "used": NOTHING}
    kinds = [{"agent_type": "code", **total}]
    owners = [{"project": "shop", "used": NOTHING}]
    body = {**total, "by_type": kinds, "by_project": owners, "limits": [LIMIT]}
    server.answer("GET /resources", body)
    server.answer("GET /resources/limits", {"results": [LIMIT], "next": None})
    server.answer("POST /resources/limits", LIMIT)

    assert main(["resources"]) == main(["limits", "ls"]) == 0
    assert main(["limits", "set", "project", "shop", "--memory-mb", "2048"]) == 0

    assert capsys.readouterr().out.count("1024 of 2048") == 3
    (asked,) = server.calls_of("POST /resources/limits")
    assert asked.body == {"level": "project", "name": "shop", "memory_mb": 2048}


def test_a_limit_is_removed_by_the_version_that_was_shown(
    server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answer("GET /resources/limits", {"results": [LIMIT], "next": None})
    server.answer("DELETE /resources/limits/l1", None, status=204)

    assert main(["limits", "rm", "project", "shop", "--note", "it left", "--yes"]) == 0
    assert main(["limits", "rm", "project", "bank", "--yes"]) == 1

    (asked,) = server.calls_of("DELETE /resources/limits/l1")
    assert asked.headers["if-match"] == '"g4"'
    assert asked.params == {"reason": "it left"}
    out, err = capsys.readouterr()
    assert "The limit of shop is removed." in out
    assert "no limit of project bank" in err


def test_leases_are_parked_resumed_and_resized(server: Any, lease_json: Any) -> None:
    for verb in ("park", "resume", "resize"):
        server.answer(f"POST /leases/l1/{verb}", lease_json())

    assert main(["leases", "park", "l1", "--token", "7", "--reason", "a person"]) == 0
    assert main(["leases", "resume", "l1", "--token", "7"]) == 0
    assert main(["leases", "resize", "l1", "--token", "7", "--memory-mb", "512"]) == 0

    assert [asked.body for asked in server.asked] == [
        {"fencing_token": 7, "reason": "a person"},
        {"fencing_token": 7},
        {"fencing_token": 7, "memory_mb": 512},
    ]
    assert main(["leases", "resize", "l1", "--token", "7"]) == 2


def test_a_pool_gets_another_strategy(server: Any) -> None:
    server.answer("PATCH /pools/code", {"agent_type": "code", "strategy": "bin_pack"})

    assert main(["pools", "set", "code", "--strategy", "bin_pack", "--max-bypass", "5"]) == 0

    assert server.asked[0].body == {"strategy": "bin_pack", "max_bypass": 5}
    assert main(["pools", "set", "code"]) == 2
