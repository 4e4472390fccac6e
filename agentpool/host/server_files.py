"""The files of a Postgres server: its data folder, settings, pid file and log."""

import os
import re
import shutil
from pathlib import Path
from typing import BinaryIO

from agentpool.host.account import Account, run_quietly
from agentpool.host.binaries import Binaries
from agentpool.host.installation import HostError, plain_os_errors

_SETTINGS_FILE = "agentpool.conf"
_LOG_CAP_BYTES = 10 * 2**20
_LOG_SHOWN_BYTES = 4000
_DEV_SHM = Path("/dev/shm")  # noqa: S108
_DEV_SHM_NEEDED_BYTES = 64 * 2**20

# An idle installation should cost little; a busy one is tuned below the include line of its
# postgresql.conf. Durability is Postgres's own default, said aloud because leases rest on it.
_SETTINGS = {
    "autovacuum_naptime": "20s",  # queue rows die young
    "checkpoint_timeout": "15min",
    "effective_cache_size": "512MB",
    "fsync": "on",
    "full_page_writes": "on",
    "huge_pages": "off",
    "jit": "off",  # its compile time exceeds these short queries
    "listen_addresses": "127.0.0.1",
    "log_checkpoints": "off",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "maintenance_work_mem": "32MB",
    "max_connections": "100",
    "max_logical_replication_workers": "0",
    "max_wal_size": "512MB",
    "password_encryption": "scram-sha-256",
    "random_page_cost": "1.1",
    "shared_buffers": "32MB",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "unix_socket_permissions": "0700",
    "work_mem": "4MB",
}

_EXPLANATIONS = (
    (
        r"No space left on device|Check free disk space|Disk quota exceeded",
        "The disk of {folder} is full. Free some space and start again.",
    ),
    (
        r"could not bind .* Address already in use|could not create any TCP/IP sockets",
        "The port of the database is taken. Set AGENTPOOL_DB_PORT to a free one.",
    ),
    (
        r"database files are incompatible with server",
        "The data in {folder} was made by another version of Postgres. Install that version.",
    ),
    (
        r"could not (?:create|map|resize|open) shared memory|Cannot allocate memory",
        "There is not enough (shared) memory for the database. Give this machine or container"
        " more, /dev/shm included.",
    ),
    (
        r"Permission denied|Read-only file system|Operation not permitted",
        "The database may not use {folder}. Give the folder back to its user, or set"
        " AGENTPOOL_HOME to a folder that may be written.",
    ),
)


def initialise(
    data: Path, *, binaries: Binaries, account: Account, user: str, password: str
) -> None:
    """
    Make a new data folder with one superuser who needs a password (scram).

    Raises: HostError, with what to do, when the folder can't be made.
    """
    password_file = data.with_name("password.new")
    with plain_os_errors(data.parent):
        _write_owned(password_file, text=password, account=account)
    try:
        argv = [binaries.program("initdb"), "-D", str(data), "-U", user, "--encoding=UTF8"]
        argv += [f"--pwfile={password_file}", "--auth=scram-sha-256", *_locale(binaries.major)]
        made = run_quietly(argv, account=account, cwd=data.parent)
    finally:
        password_file.unlink(missing_ok=True)
    if made.returncode != 0:
        shutil.rmtree(data, ignore_errors=True)
        raise HostError(explain(made.stdout, folder=data.parent, log=None))
    with (data / "postgresql.conf").open("a") as conf:
        conf.write(f"\ninclude '{_SETTINGS_FILE}'  # rewritten at each start\n")
        conf.write("# Your own settings go below this line and win.\n")


def create_database(data: Path, *, binaries: Binaries, account: Account, name: str) -> None:
    """
    Make a database in a data folder that no server uses yet.

    Raises: HostError, with what to do, when it can't be made.
    """
    write_settings(data, account=account, major=binaries.major)
    argv = [binaries.program("postgres"), "--single", "-D", str(data), "postgres"]
    made = run_quietly(argv, account=account, stdin=f"CREATE DATABASE {name};\n", cwd=data.parent)
    # The single-user server ends with 0 also when a statement failed.
    if made.returncode != 0 or re.search(r"ERROR|FATAL|PANIC", made.stdout):
        raise HostError(explain(made.stdout, folder=data.parent, log=None))


def write_settings(data: Path, *, account: Account, major: int) -> None:
    """Write the settings that fit this machine now; the operator's own ones win over them."""
    settings = dict(_SETTINGS, dynamic_shared_memory_type=_shared_memory(account))
    if major >= 18:
        settings["io_method"] = "sync"  # saves three processes; reads here are small
    lines = [f"{name} = '{value}'\n" for name, value in sorted(settings.items())]
    with plain_os_errors(data):
        _write_owned(data / _SETTINGS_FILE, text="".join(lines), account=account)


def major_of(data: Path) -> int | None:
    """Return the Postgres version that made the data, None when there is no data."""
    try:
        return int((data / "PG_VERSION").read_text().split(".")[0])
    except (OSError, ValueError):
        return None


def pid_of(data: Path) -> int | None:
    """Return the process id in the pid file (line 1), None when there is none."""
    return _pid_file_number(data, line=0)


def port_of(data: Path) -> int | None:
    """Return the TCP port in the pid file (line 4), None when there is none."""
    return _pid_file_number(data, line=3)


def open_log(log: Path) -> BinaryIO:
    """
    Open the server's log for appending, cut when it has grown over 10 MB.

    Raises: HostError, it can't be written.
    """
    with plain_os_errors(log.parent):
        if log_size(log) > _LOG_CAP_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")


def log_size(log: Path) -> int:
    """Return the size of the log in bytes, 0 when there is none."""
    return log.stat().st_size if log.exists() else 0


def log_since(log: Path, *, offset: int) -> str:
    """Return the last 4 kB of what was logged after an offset in bytes."""
    size = log_size(log)
    start = offset if offset <= size else 0  # the log was cut meanwhile
    with log.open("rb") as file:
        file.seek(max(start, size - _LOG_SHOWN_BYTES))
        return file.read().decode(errors="replace")


def is_worth_another_try(said: str) -> bool:
    """Return whether the server ended for a reason that a second look at the world removes."""
    return bool(re.search(r"Address already in use|could not bind|lock file .* exists", said))


def explain(said: str, *, folder: Path, log: Path | None) -> str:
    """Return what to do about the words a Postgres program ended with."""
    for pattern, advice in _EXPLANATIONS:
        if re.search(pattern, said):
            return advice.format(folder=folder)
    where = f" The log is {log}." if log else ""
    return f"The database did not start.{where} It said:\n{said.strip()}"


def _pid_file_number(data: Path, *, line: int) -> int | None:
    try:
        return int((data / "postmaster.pid").read_text().splitlines()[line])
    except (OSError, ValueError, IndexError):
        return None


def _write_owned(file: Path, *, text: str, account: Account) -> None:
    # The folder is the server's: root must not follow a link that its user could have put there.
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(file, flags, 0o600), "w") as out:
        out.write(text)
        if os.fstat(out.fileno()).st_uid != account.uid:
            os.chown(out.fileno(), account.uid, account.gid)


def _locale(major: int) -> list[str]:
    # Sorting must not change with the machine's locale: indexes would silently break. Upper
    # and lower case beyond ASCII come with the built-in provider only.
    if major >= 17:
        return ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return ["--locale=C"]


def _shared_memory(account: Account) -> str:
    # Containers come with a /dev/shm that is small, read-only or absent.
    if not (account.reaches(_DEV_SHM) and os.access(_DEV_SHM, os.W_OK)):
        return "mmap"
    space = os.statvfs(_DEV_SHM)
    is_large = space.f_bavail * space.f_frsize >= _DEV_SHM_NEEDED_BYTES
    return "posix" if is_large else "mmap"
