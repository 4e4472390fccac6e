"""What `up` starts and with which environment, and how it reads the answer of `prepare`."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from agentpool.host import up
from agentpool.host.installation import HostError, Installation, code_folder
from agentpool.host.probes import Site

HOME = Installation(key="k", instance="demo", root=Path("home"))


def test_children_find_the_installation_in_their_environment() -> None:
    env = up.environment(HOME, site=Site(port=8700), database_url="postgresql://db")

    assert env["AGENTPOOL_URL"] == "http://127.0.0.1:8700"
    assert (env["AGENTPOOL_HOME"], env["AGENTPOOL_INSTANCE"]) == ("home", "demo")
    assert env["DATABASE_URL"] == "postgresql://db"
    assert env["PYTHONPATH"].split(":")[0] == str(code_folder())


def test_only_the_web_process_pools_its_connections() -> None:
    children = up.children(site=Site(), env={}, stale_after_s=15)

    pooled = [child.name for child in children if "AGENTPOOL_DB_POOL" in child.env]
    assert pooled == ["web"]
    assert [child.name for child in children] == ["web", "jobs", "pulse"]


@pytest.mark.parametrize("before", [signal.SIG_IGN, signal.SIG_DFL], ids=["nohup", "terminal"])
def test_a_terminal_that_closes_ends_it_unless_that_is_ignored(before: signal.Handlers) -> None:
    came: list[int] = []
    earlier = signal.signal(signal.SIGHUP, before)
    try:
        with up._signals(lambda number, _frame: came.append(number)):
            signal.raise_signal(signal.SIGHUP)
        after = signal.getsignal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, earlier)

    assert came == ([] if before is signal.SIG_IGN else [signal.SIGHUP])
    assert after is before


def test_the_answer_of_prepare_is_its_last_line_of_json() -> None:
    assert up._last_json('{"old": 1}\nnoise\n{"first_start": true}\n\n') == {"first_start": True}


def test_an_answer_without_json_is_shown() -> None:
    with pytest.raises(HostError, match="no such table"):
        up._last_json("no such table\n")


def test_a_duration_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTPOOL_STALE_S", "soon")

    with pytest.raises(HostError, match="AGENTPOOL_STALE_S='soon'"):
        up._stale_after_s()


@pytest.mark.parametrize("instance", ["main", "demo"])
def test_the_token_of_another_home_stays_there(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, instance: str
) -> None:
    users = tmp_path / "users"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(users))
    monkeypatch.setenv("AGENTPOOL_HOME", str(tmp_path))
    monkeypatch.setenv("AGENTPOOL_INSTANCE", instance)
    monkeypatch.delenv("AGENTPOOL_CONFIG", raising=False)
    here = Installation(key="k", instance=instance, root=tmp_path)

    path = up._save_config(here, site=Site(port=8700), token="ap_x")

    assert path == here.home / "config.toml"
    assert 'token = "ap_x"' in path.read_text()
    assert not users.exists()


def test_what_stood_in_the_config_is_never_readable_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Installation(key="k", instance="demo", root=tmp_path)
    here.home.mkdir()
    opened: list[int] = []
    copystat = shutil.copystat

    def looked_at(source: str, target: str, **more: bool) -> None:
        opened.append(os.stat(target).st_mode & 0o077)
        copystat(source, target, **more)

    monkeypatch.setattr(shutil, "copystat", looked_at)
    for token in ("ap_old", "ap_new"):
        path = up._save_config(here, site=Site(), token=token)

    kept = path.with_name("config.toml.before")
    assert "ap_old" in kept.read_text()
    assert [*opened, kept.stat().st_mode & 0o077] == [0] * (len(opened) + 1)
