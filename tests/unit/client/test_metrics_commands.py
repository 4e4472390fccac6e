"""The commands about metrics: what they ask, and what they print."""

import json
from pathlib import Path
from typing import Any

import pytest

from agentpool.cli.main import main

POINT = {
    "agent_type": "code",
    "timestamp": "2026-05-01T12:00:00Z",
    "total_agents": 3.0,
    "utilization": 0.25,
    "queue_depth": 2.0,
    "request_rate_per_minute": 6.0,
    "completion_rate_per_minute": 8.0,
    "average_wait_time_s": 3.0,
    "wait_p95_s": None,
    "average_service_time_s": 90.0,
    "success_rate": 0.5,
    "resource_efficiency": None,
}


@pytest.fixture(autouse=True)
def address(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AGENTPOOL_URL", server.url)
    monkeypatch.setenv("AGENTPOOL_TOKEN", "secret")
    monkeypatch.setenv("AGENTPOOL_CONFIG", str(tmp_path / "config.toml"))


def test_the_pools_are_shown_as_they_are(server: Any, capsys: Any) -> None:
    server.answer("GET /metrics/summary", {"pools": [POINT], "total": POINT})

    assert main(["metrics", "now"]) == 0

    said = capsys.readouterr().out
    assert all(word in said for word in ("code", "25%", "1m30s", "50%"))


def test_a_series_is_asked_for_by_its_range_and_step(server: Any, capsys: Any) -> None:
    server.answer("GET /metrics/summary", {"step_s": 21_600, "series": [POINT]})

    assert main(["metrics", "series", "code", "--back", "30d", "--step", "6h", "--json"]) == 0

    (asked,) = server.asked
    assert (asked.params["agent_type"], asked.params["step_s"]) == ("code", "21600.0")
    assert "since" in asked.params
    assert json.loads(capsys.readouterr().out)["step_s"] == 21_600


@pytest.mark.parametrize("text", ["5", "h", "5w", ""])
def test_a_length_of_time_that_is_none_is_refused(text: str) -> None:
    assert main(["metrics", "series", "--back", text]) == 2


def test_the_files_for_prometheus_and_grafana_are_printed(capsys: Any) -> None:
    assert main(["metrics", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "agentpool"

    assert main(["metrics", "alerts"]) == 0
    assert "alert: AgentpoolPartIsSilent" in capsys.readouterr().out
