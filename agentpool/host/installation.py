"""Where one installation keeps its things on this machine, and which database it uses."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from errno import EACCES, EDQUOT, ENOSPC, EPERM, EROFS
from pathlib import Path

DEFAULT_INSTANCE = "main"
# Root's services keep their state here (FHS 3.0, section 5.8); others can pass through it.
ROOT_DATA_HOME = Path("/var/lib/agentpool")
_INSTANCE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")


class HostError(Exception):
    """Something on this machine is in the way; the message says what to do about it."""


@dataclass(frozen=True)
class Installation:
    """
    One copy of the product on this machine.

    key: short hash of the checkout (or site-packages) the code runs from.
    instance: name inside the key; each instance has its own database, ports and logs.
    root: folder shared by the instances of the key.
    db_port: TCP port the embedded database must use, None: any free one.
    """

    key: str
    instance: str
    root: Path
    db_port: int | None = None

    @property
    def home(self) -> Path:
        """Return the folder that holds everything of this instance."""
        return self.root / self.instance

    @property
    def log_folder(self) -> Path:
        """Return the folder of the instance's log files."""
        return self.home / "log"

    @property
    def agents_folder(self) -> Path:
        """Return the folder of the agents that scaling starts on this machine."""
        return self.home / "agents"

    @property
    def run_folder(self) -> Path:
        """Return the folder of locks and of what is known about running processes."""
        return self.home / "run"

    @property
    def database_file(self) -> Path:
        """Return the file (mode 0600) that keeps the address of the embedded database."""
        return self.home / "database.json"


def current(*, environ: Mapping[str, str] | None = None) -> Installation:
    """
    Return the installation that the environment names.

    Args:
        environ: None means the environment of this process. Read are AGENTPOOL_HOME,
            AGENTPOOL_INSTANCE and AGENTPOOL_DB_PORT.
    Raises: HostError, an instance name or port that cannot be used.

    """
    env = os.environ if environ is None else environ
    instance = env.get("AGENTPOOL_INSTANCE") or DEFAULT_INSTANCE
    if not _INSTANCE_NAME.fullmatch(instance):
        raise HostError(
            f"AGENTPOOL_INSTANCE={instance!r} cannot be a folder name: use up to 40 letters,"
            " digits, dots, dashes or underscores, the first a letter or digit."
        )
    key = _key(code_folder())
    home = env.get("AGENTPOOL_HOME")
    root = Path(home).expanduser().absolute() if home else _default_root(key)
    return Installation(key=key, instance=instance, root=root, db_port=_db_port(env))


def code_folder() -> Path:
    """Return the folder the package is imported from: a checkout or site-packages."""
    return Path(__file__).resolve().parents[2]


def database_url(*, environ: Mapping[str, str] | None = None) -> str | None:
    """
    Return the address of the database, None when there is none yet.

    DATABASE_URL wins; else it is what the embedded server of this installation was last
    started with, whether or not it runs now.
    """
    env = os.environ if environ is None else environ
    return env.get("DATABASE_URL") or stored_database_url(current(environ=env))


def stored_database_url(installation: Installation) -> str | None:
    """Return the last address of the embedded database, None when it was never started."""
    try:
        stored = json.loads(installation.database_file.read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise HostError(f"{installation.database_file} cannot be read: {error}.") from error
    return str(stored["url"])


def store_database_url(installation: Installation, *, url: str) -> None:
    """Write the address of the embedded database, readable by the owner only."""
    write_private(installation.database_file, text=json.dumps({"url": url}) + "\n")


def make_home(installation: Installation) -> None:
    """
    Make the folders of an instance.

    Root's can be passed through (0711, not read): the database below runs as another user.
    Raises: HostError, a folder may not be made or not be written.
    """
    make_folder(installation.home, mode=0o711 if os.geteuid() == 0 else 0o700)
    for folder in (installation.log_folder, installation.run_folder):
        make_folder(folder)
    with plain_os_errors(installation.home):
        if not os.access(installation.home, os.W_OK | os.X_OK):
            raise PermissionError(EACCES, "not writable")


def make_folder(folder: Path, *, mode: int = 0o700) -> None:
    """
    Make a folder and the missing ones above it, all with one mode.

    Folders that exist keep the mode they have: they may be somebody else's.
    Raises: HostError, the folder may not be made.
    """
    with plain_os_errors(folder):
        for missing in reversed([one for one in (folder, *folder.parents) if not one.exists()]):
            missing.mkdir(exist_ok=True)
            missing.chmod(mode)


def write_private(file: Path, *, text: str) -> None:
    """Replace a file at once, mode 0600; a reader sees the old or the new text, never half."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.new")
    with plain_os_errors(file.parent):
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        partial.replace(file)


@contextmanager
def plain_os_errors(folder: Path) -> Iterator[None]:
    """Turn the errors of a folder that can't be written into a sentence for a person."""
    try:
        yield
    except OSError as error:
        if error.errno in (ENOSPC, EDQUOT):
            raise HostError(
                f"The disk of {folder} is full. Free some space and start again."
            ) from error
        if error.errno in (EACCES, EPERM, EROFS):
            raise HostError(
                f"The folder {folder} may not be written by this user. Give it to the user, or"
                " set AGENTPOOL_HOME to a folder that may be written."
            ) from error
        raise HostError(f"{folder}: {error.strerror or error}.") from error


def _key(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]


def _default_root(key: str) -> Path:
    if os.geteuid() == 0:
        return ROOT_DATA_HOME / key
    import platformdirs  # 10 ms that settings.py does not pay when AGENTPOOL_HOME is set

    return Path(platformdirs.user_data_dir("agentpool")) / key


def _db_port(env: Mapping[str, str]) -> int | None:
    text = env.get("AGENTPOOL_DB_PORT")
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= 65535:
        raise HostError(f"AGENTPOOL_DB_PORT={text!r} is not a TCP port: use 1 to 65535.")
    return int(text)
