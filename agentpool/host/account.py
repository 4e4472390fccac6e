"""Which OS user the database runs as, and what that user can reach."""

import os
import pwd
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from agentpool.host.installation import HostError

# Postgres refuses to run as root; these accounts own nothing that it could spoil.
_UNPRIVILEGED = ("postgres", "nobody")


class RunAs(TypedDict, total=False):
    """The arguments of subprocess that change the user; empty means the caller itself."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True)
class Account:
    """An OS user that processes are started as."""

    name: str
    uid: int
    gid: int

    @property
    def run_as(self) -> RunAs:
        """Return the subprocess arguments that make a process this user's."""
        if self.uid == os.geteuid():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}

    def reaches(self, path: Path) -> bool:
        """Return whether the user may enter the folder, or execute the file, at the path."""
        if self.uid == os.geteuid():
            return os.access(path, os.X_OK)
        # Asked of the kernel as that user: mode bits alone would miss ACLs and mounts.
        test = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(path)]
        return run_quietly(test, account=self).returncode == 0


def database_account(*, data: Path) -> Account:
    """
    Return the user the database server runs as: us, or an unprivileged one when we are root.

    Args:
        data: the data folder; when it exists, its owner stays the user of the server.
    Raises: HostError, we are root and this machine has no unprivileged account.

    """
    if os.geteuid() != 0:
        return Account(name=_name(os.geteuid()), uid=os.geteuid(), gid=os.getegid())
    if data.exists() and data.stat().st_uid != 0:
        owner = data.stat()
        return Account(name=_name(owner.st_uid), uid=owner.st_uid, gid=owner.st_gid)
    for name in _UNPRIVILEGED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name=name, uid=entry.pw_uid, gid=entry.pw_gid)
    raise HostError(
        "Postgres does not run as root and this machine has no account named postgres or nobody."
        " Add one (useradd --system postgres), run as an ordinary user, or set DATABASE_URL."
    )


def run_quietly(
    argv: list[str],
    *,
    account: Account | None = None,
    stdin: str | None = None,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """
    Run a short command as a user and return what it printed (stderr joined to stdout).

    Raises: HostError, the command can't be started or we may not become that user.
    """
    try:
        return subprocess.run(
            argv,
            input=stdin or "",
            env=env,
            cwd=cwd or "/",
            text=True,
            errors="replace",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            **(account.run_as if account else RunAs()),
        )
    except PermissionError as error:
        user = account.name if account else _name(os.geteuid())
        raise HostError(
            f"{argv[0]} cannot be run as user {user}: {error.strerror}. Run as an ordinary user,"
            " or set DATABASE_URL to a database of your own."
        ) from error
    except OSError as error:
        raise HostError(f"{argv[0]} cannot be run: {error.strerror}.") from error


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # usual in containers that are given a bare user id
        return str(uid)
