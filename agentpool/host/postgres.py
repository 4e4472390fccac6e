"""Run the embedded Postgres of an installation: start, stop, status, whatever was killed before."""

import hashlib
import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import psutil

from agentpool.host import lock, ports, postmaster, server_files, wire
from agentpool.host.account import Account, database_account
from agentpool.host.binaries import Binaries, find_binaries, runnable_by
from agentpool.host.installation import (
    ROOT_DATA_HOME,
    HostError,
    Installation,
    make_folder,
    make_home,
    plain_os_errors,
    store_database_url,
    stored_database_url,
)

USER = DATABASE = "agentpool"
_STARTERS_WAIT_S = 120.0  # for another starter, which may be recovering a large log
_START_S = 60.0  # of silence
_POLL_S = 0.03
_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 107 bytes, on macOS 103


@dataclass(frozen=True)
class Status:
    """
    The embedded server as a real connection finds it.

    answer: accepting, starting or silent; pid None: no live postmaster; port None: not running.
    version: major version that the data was made by, None before the first start.
    """

    answer: str
    pid: int | None
    port: int | None
    version: int | None
    data: Path
    log: Path

    @property
    def is_running(self) -> bool:
        """Return whether the server takes connections."""
        return self.answer == wire.Answer.ACCEPTING.value


@dataclass(frozen=True)
class _Server:
    """Where the server of an installation stands, and as whom it runs."""

    installation: Installation
    account: Account
    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.installation.log_folder / "postgres.log"

    @property
    def socket_folder(self) -> Path | None:
        folder = self.folder / "socket"
        is_short = len(os.fsencode(folder / ".s.PGSQL.65535")) <= _LONGEST_SOCKET_PATH
        return folder if is_short else None

    def answer(self, *, port: int) -> wire.Answer:
        return wire.ask(port=port, socket_folder=self.socket_folder, user=USER, database=DATABASE)


def start(installation: Installation, *, settings: Mapping[str, str] | None = None) -> str:
    """
    Start the embedded server unless it runs already, and return its DATABASE_URL.

    The server is nobody's child: it outlives whoever started it. Any number of starters at
    once start one. After a crash (of the server, the starter, the machine) it recovers.

    Args:
        settings: more server settings for this run; ignored when it runs already.
    Raises: HostError, something is in the way (port, disk, permissions, versions).

    """
    server = _server(installation)
    url = _running_url(server)
    if url:
        return url
    make_home(installation)
    with lock.hold(_lock_file(installation), wait_s=_STARTERS_WAIT_S):
        binaries = usable_binaries(installation)
        if not server.data.exists():
            _create_data(server, binaries)
        return _running_url(server) or _start(server, binaries, settings=settings or {})


def stop(
    installation: Installation, *, mode: postmaster.StopMode = "fast", timeout_s: float = 60.0
) -> bool:
    """
    Stop the embedded server; return False when it was not running.

    Args:
        mode: smart waits for clients to leave, fast ends them, immediate skips the checkpoint
            (nothing committed is lost, the next start replays the log).
        timeout_s: after this many seconds a stop becomes immediate, then a kill.

    """
    server = _server(installation)
    if postmaster.find(server.data) is None:
        return False
    with lock.hold(_lock_file(installation), wait_s=_STARTERS_WAIT_S):
        process = postmaster.find(server.data)
        if process:
            postmaster.end(process, mode=mode, timeout_s=timeout_s)
        postmaster.clear_the_dead(server.data, socket_folder=server.socket_folder)
    return process is not None


def status(installation: Installation) -> Status:
    """Return what is known about the embedded server, asked of the server itself."""
    server = _server(installation)
    process = postmaster.find(server.data)
    port = server_files.port_of(server.data) if process else None
    answer = server.answer(port=port) if port else wire.Answer.SILENT
    return Status(
        answer=answer.value,
        pid=process.pid if process else None,
        port=port,
        version=server_files.major_of(server.data),
        data=server.data,
        log=server.log,
    )


def answer(url: str) -> wire.Answer:
    """Return what the embedded server with this DATABASE_URL says to a new connection now."""
    return wire.ask(port=_port(url), socket_folder=None, user=USER, database=DATABASE)


def usable_binaries(installation: Installation) -> Binaries:
    """
    Return the Postgres programs that fit the installation's data and run as its user.

    Raises: HostError, none fit.
    """
    server = _server(installation)
    major = server_files.major_of(server.data)
    # Beside the instances: one copy serves them all. In the fallback place, beside the data.
    inside = server.folder.is_relative_to(installation.root)
    shelf = installation.root if inside else server.folder.parent
    return runnable_by(find_binaries(major=major), account=server.account, shelf=shelf)


def _server(installation: Installation) -> _Server:
    folder = installation.home / "postgres"
    account = database_account(data=folder / "data")
    if not account.reaches(_nearest_existing(installation.home)):
        # We are root and the home is closed to others (below its home, say). Opening somebody's
        # folders is not ours to do: the data goes where root's services keep theirs.
        home_hash = hashlib.sha256(os.fsencode(installation.home)).hexdigest()[:12]
        folder = ROOT_DATA_HOME / f"home-{home_hash}" / "postgres"
        account = database_account(data=folder / "data")
    return _Server(installation=installation, account=account, folder=folder)


def _nearest_existing(folder: Path) -> Path:
    return next(one for one in (folder, *folder.parents) if one.exists())


def _lock_file(installation: Installation) -> Path:
    return installation.run_folder / "postgres.lock"


def _running_url(server: _Server) -> str | None:
    """Return the address when the server takes connections now."""
    process = postmaster.find(server.data)
    port = server_files.port_of(server.data) if process else None
    url = stored_database_url(server.installation)
    if process is None or port is None or url is None:
        return None
    if server.answer(port=port) is not wire.Answer.ACCEPTING:
        return None
    return _with_port(url, port=port)


def _start(server: _Server, binaries: Binaries, *, settings: Mapping[str, str]) -> str:
    url = _stored_url(server)
    for _attempt in range(3):
        log_from = server_files.log_size(server.log)
        process = postmaster.find(server.data)
        if process is None:
            postmaster.clear_the_dead(server.data, socket_folder=server.socket_folder)
            url = _with_free_port(server, url=url)
            process = _launch(server, binaries, port=_port(url), settings=settings)
        else:
            url = _with_port(url, port=server_files.port_of(server.data) or _port(url))
        if process and _accepts(server, process, port=_port(url)):
            return url
        said = server_files.log_since(server.log, offset=log_from)
        # Somebody took the port between our look and the launch, or a starter that was killed
        # had launched a server that had no pid file yet: look again.
        if not server_files.is_worth_another_try(said):
            break
    raise HostError(server_files.explain(said, folder=server.folder, log=server.log))


def _stored_url(server: _Server) -> str:
    url = stored_database_url(server.installation)
    if url is None:
        raise HostError(
            f"{server.installation.database_file}, which keeps the password of the data in"
            f" {server.data}, is gone. Put it back, or move the data away to begin anew."
        )
    return url


def _create_data(server: _Server, binaries: Binaries) -> None:
    """Make the data folder and the database in it, at once: a killed starter leaves no half."""
    make_folder(server.folder.parent, mode=0o711)
    _make_owned_folder(server.folder, account=server.account)
    password = secrets.token_urlsafe(24)
    # The password goes first: data whose password nobody knows would be lost.
    store_database_url(server.installation, url=_url(password=password, port=ports.any_free()))
    for left in server.folder.glob("data.new*"):
        shutil.rmtree(left, ignore_errors=True)
    # A name of its own: the initdb of a starter that was killed lives on, and cleans up when it
    # fails; it must not find our folder under its name.
    partial = server.folder / f"data.new.{os.getpid()}"
    server_files.initialise(
        partial, binaries=binaries, account=server.account, user=USER, password=password
    )
    server_files.create_database(partial, binaries=binaries, account=server.account, name=DATABASE)
    partial.rename(server.data)


def _make_owned_folder(folder: Path, *, account: Account) -> None:
    with plain_os_errors(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        # Never through a link, which the server's user may have put in the place of its folder.
        if folder.lstat().st_uid != account.uid:
            os.lchown(folder, account.uid, account.gid)


def _launch(
    server: _Server, binaries: Binaries, *, port: int, settings: Mapping[str, str]
) -> psutil.Process | None:
    """Start a postmaster that belongs to no process of ours; None when it ended at once."""
    server_files.write_settings(server.data, account=server.account, major=binaries.major)
    if server.socket_folder:
        _make_owned_folder(server.socket_folder, account=server.account)
    flags = [
        *("-D", str(server.data), "-p", str(port), "-h", "127.0.0.1"),
        *("-k", _as_one(server.socket_folder) if server.socket_folder else ""),
        *(word for name, value in settings.items() for word in ("-c", f"{name}={value}")),
    ]
    # The shell forks the server and ends, so the server's parent is init: it is not our
    # zombie when it dies, and in a session of its own no Ctrl-C of ours reaches it.
    shell = ["/bin/sh", "-c", '"$@" >&2 & echo $!', "sh", binaries.program("postgres"), *flags]
    with server_files.open_log(server.log) as log_file:
        answer = subprocess.run(
            shell,
            cwd=server.data,
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            start_new_session=True,
            check=True,
            **server.account.run_as,
        )
    try:
        return psutil.Process(int(answer.stdout))
    except psutil.NoSuchProcess:
        return None


def _as_one(folder: Path) -> str:
    """Return a folder as the server takes a list of them, in which a comma would begin another."""
    return '"' + str(folder).replace('"', '""') + '"'


def _accepts(server: _Server, process: psutil.Process, *, port: int) -> bool:
    """Wait until the server takes connections; False when it ended instead."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        answer = server.answer(port=port)
        if answer is wire.Answer.ACCEPTING:
            return True
        if postmaster.is_gone(process, timeout_s=0):
            return False
        if answer is wire.Answer.STARTING:  # replaying the log takes what it takes
            deadline = time.monotonic() + _START_S
        time.sleep(_POLL_S)
    raise HostError(
        f"The database (process {process.pid}) has not answered for {_START_S:.0f} s; its log is"
        f" {server.log}. Stop it with `agentpool db stop` and start again."
    )


def _with_free_port(server: _Server, *, url: str) -> str:
    """Return the address with the port to use now, which is stored when it is another."""
    fixed = server.installation.db_port
    if fixed is not None and ports.why_taken(fixed):
        raise HostError(
            f"Port {fixed} (AGENTPOOL_DB_PORT) is taken by another program. Stop that program,"
            " choose another port, or unset AGENTPOOL_DB_PORT to let one be found."
        )
    stored = _port(url)
    port = fixed or (ports.any_free() if ports.why_taken(stored) else stored)
    new = _with_port(url, port=port)
    if new != stored_database_url(server.installation):
        store_database_url(server.installation, url=new)
    return new


def _url(*, password: str, port: int) -> str:
    return f"postgresql://{USER}:{password}@127.0.0.1:{port}/{DATABASE}"


def _with_port(url: str, *, port: int) -> str:
    return _url(password=urlsplit(url).password or "", port=port)


def _port(url: str) -> int:
    return urlsplit(url).port or 5432
