"""Which folders and database an installation uses, from the environment alone."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from agentpool.host import installation
from agentpool.host.installation import HostError, Installation


def test_an_instance_has_a_home_of_its_own_below_the_named_folder(tmp_path: Path) -> None:
    env = {"AGENTPOOL_HOME": str(tmp_path), "AGENTPOOL_INSTANCE": "demo"}

    home = installation.current(environ=env).home

    assert home == tmp_path / "demo"


def test_an_unnamed_instance_is_main_below_a_folder_of_this_checkout() -> None:
    found = installation.current(environ={})

    assert (found.instance, found.root.name) == ("main", found.key)


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "x" * 41, "a b"])
def test_an_instance_name_that_is_no_plain_folder_name_is_refused(name: str) -> None:
    with pytest.raises(HostError, match="AGENTPOOL_INSTANCE"):
        installation.current(environ={"AGENTPOOL_INSTANCE": name})


@pytest.mark.parametrize("port", ["0", "65536", "http", "-1"])
def test_a_database_port_that_is_none_is_refused(port: str) -> None:
    with pytest.raises(HostError, match="AGENTPOOL_DB_PORT"):
        installation.current(environ={"AGENTPOOL_DB_PORT": port})


def test_database_url_wins_over_the_stored_one(tmp_path: Path) -> None:
    env = {"AGENTPOOL_HOME": str(tmp_path)}
    installation.make_home(installation.current(environ=env))
    installation.store_database_url(installation.current(environ=env), url="postgresql://stored")

    own = installation.database_url(environ=env | {"DATABASE_URL": "postgresql://own"})

    assert own == "postgresql://own"
    assert installation.database_url(environ=env) == "postgresql://stored"


def test_there_is_no_database_url_before_the_first_start(tmp_path: Path) -> None:
    assert installation.database_url(environ={"AGENTPOOL_HOME": str(tmp_path)}) is None


def test_a_broken_database_file_is_named(tmp_path: Path) -> None:
    home = Installation(key="k", instance="main", root=tmp_path)
    installation.make_home(home)
    home.database_file.write_text("{")

    with pytest.raises(HostError, match=r"database\.json"):
        installation.stored_database_url(home)


def test_the_stored_database_url_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    home = Installation(key="k", instance="main", root=tmp_path)
    installation.make_home(home)

    installation.store_database_url(home, url="postgresql://secret")

    assert stat.S_IMODE(home.database_file.stat().st_mode) == 0o600


def test_making_a_folder_leaves_the_mode_of_an_existing_one_alone(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)

    installation.make_folder(tmp_path / "a" / "b", mode=0o700)

    modes = [stat.S_IMODE(one.stat().st_mode) for one in (tmp_path, tmp_path / "a" / "b")]
    assert modes == [0o750, 0o700]


def test_a_signing_key_that_was_left_half_made_is_made_anew(tmp_path: Path) -> None:
    """Whoever made it was killed, or the disk was full, between making the file and writing."""
    (tmp_path / "main").mkdir()
    (tmp_path / "main" / "secret_key").touch(0o600)
    environ = {
        **os.environ,
        "AGENTPOOL_HOME": str(tmp_path),
        "AGENTPOOL_INSTANCE": "main",
        "AGENTPOOL_SECRET_KEY": "",
        "DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none",
    }

    keys = [
        subprocess.run(
            [sys.executable, "-c", "from agentpool import settings; print(settings.SECRET_KEY)"],
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for _ in range(2)
    ]

    assert len(keys[0]) > 40
    assert keys[0] == keys[1] == (tmp_path / "main" / "secret_key").read_text()
