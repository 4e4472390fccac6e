"""Where the client finds address and token, and how it keeps them."""

import os
from pathlib import Path

import pytest

from agentpool.client import config


def test_the_file_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "config.toml"

    config.save(url="http://pool:1/", token='a"b\\c', path=path)

    expected = config.Config(url="http://pool:1", token='a"b\\c')
    assert expected == config.load(env={"AGENTPOOL_CONFIG": str(path)})


def test_the_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    before = os.umask(0)
    try:
        config.save(url="http://pool", token="t", path=path)
        path.chmod(0o644)
        config.save(url="http://pool", token="u", path=path)
    finally:
        os.umask(before)

    assert path.stat().st_mode & 0o777 == 0o600
    assert [path.name] == [each.name for each in tmp_path.iterdir()]


def test_the_file_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a machine that loses its power may keep an empty one, and tokens are shown once."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda number: synced.append(os.fstat(number).st_size))

    path = config.save(url="http://pool", token="t", path=tmp_path / "config.toml")

    assert synced == [path.stat().st_size]


def test_the_environment_wins(tmp_path: Path) -> None:
    path = config.save(url="http://file", token="file", path=tmp_path / "c.toml")
    env = {"AGENTPOOL_CONFIG": str(path), "AGENTPOOL_URL": "http://env", "AGENTPOOL_TOKEN": "env"}

    assert config.Config(url="http://env", token="env") == config.load(env=env)


def test_the_token_may_come_from_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "token"
    secret.write_text("from file\n")
    env = {"AGENTPOOL_CONFIG": str(tmp_path / "none"), "AGENTPOOL_TOKEN_FILE": str(secret)}

    assert config.load(env=env).token == "from file"


def test_a_stored_token_goes_to_its_own_address_only(tmp_path: Path) -> None:
    path = config.save(url="http://mine", token="secret", path=tmp_path / "c.toml")

    found = config.load(env={"AGENTPOOL_CONFIG": str(path), "AGENTPOOL_URL": "http://other"})

    assert config.Config(url="http://other", token="") == found


def test_nothing_at_all_means_this_machine(tmp_path: Path) -> None:
    found = config.load(env={"AGENTPOOL_CONFIG": str(tmp_path / "none")})

    assert config.Config(url="http://127.0.0.1:8600", token="") == found


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text("url = ")

    with pytest.raises(config.ConfigInvalid, match=r"c\.toml"):
        config.load(env={"AGENTPOOL_CONFIG": str(path)})


def test_a_missing_token_file_is_named(tmp_path: Path) -> None:
    env = {"AGENTPOOL_CONFIG": str(tmp_path / "none"), "AGENTPOOL_TOKEN_FILE": "/no/such"}

    with pytest.raises(config.ConfigInvalid, match="/no/such"):
        config.load(env=env)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "ftp://pool.example", "http://", "http://[::1", "http://h:port", "http://h:99999"],
)
def test_what_is_no_address_is_told_at_once(tmp_path: Path, url: str) -> None:
    env = {"AGENTPOOL_CONFIG": str(tmp_path / "none"), "AGENTPOOL_URL": url}

    with pytest.raises(config.ConfigInvalid, match="http://host:port"):
        config.load(env=env)


def test_another_home_has_a_file_of_its_own(tmp_path: Path) -> None:
    home = {"AGENTPOOL_HOME": str(tmp_path)}

    assert config.config_path(env=home) == tmp_path / "main" / "config.toml"
    demo = config.config_path(env={**home, "AGENTPOOL_INSTANCE": "demo"})
    assert demo == tmp_path / "demo" / "config.toml"
    named = config.config_path(env={**home, "AGENTPOOL_CONFIG": "/x/y.toml"})
    assert named == Path("/x/y.toml")
