"""Where the control plane is and with which token to call it: environment first, then a file."""

import contextlib
import ipaddress
import json
import os
import tempfile
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

DEFAULT_URL = "http://127.0.0.1:8600"


class ConfigInvalid(Exception):
    """The configuration can't be read; the message names the file and the fault."""


@dataclass(frozen=True, slots=True)
class Config:
    """
    The address of the control plane, without a slash at its end, and the token ("" for none).

    Raises: ConfigInvalid, one of them can't be used.
    """

    url: str
    token: str

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ConfigInvalid(f"{self.url!r} is no address: write it as http://host:port.")
        if not (self.token.isascii() and self.token.isprintable()):
            raise ConfigInvalid("The token has characters that no token has; was it copied whole?")


def load(*, env: Mapping[str, str] | None = None) -> Config:
    """
    Return the configuration that applies now.

    `AGENTPOOL_URL`, `AGENTPOOL_TOKEN` and `AGENTPOOL_TOKEN_FILE` win over the file. The token of
    the file is used only for the file's own address, so that it never reaches another server.

    Raises: ConfigInvalid, a file can't be read, or the address or the token can't be used.
    """
    env = os.environ if env is None else env
    stored = _stored(config_path(env=env))
    url = (env.get("AGENTPOOL_URL") or stored.get("url") or DEFAULT_URL).rstrip("/")
    token = env.get("AGENTPOOL_TOKEN") or _from_file(env.get("AGENTPOOL_TOKEN_FILE"))
    if not token and url == stored.get("url", DEFAULT_URL).rstrip("/"):
        token = stored.get("token", "")
    return Config(url=url, token=token)


def is_here(url: str) -> bool:
    """Return whether an address is this machine's own, which no proxy can reach for it."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(url: str) -> bool:
    try:
        found = urlsplit(url)
        # Looking at a port that is none raises.
        return found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        return False


def save(*, url: str, token: str, path: Path | None = None) -> Path:
    """
    Write the configuration file, readable by its owner only, and return its path.

    The file is replaced in one step: a reader sees the old or the new one, never half of it.
    """
    path = path or config_path()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    # JSON strings are TOML basic strings.
    text = f"url = {json.dumps(url.rstrip('/'))}\ntoken = {json.dumps(token)}\n"
    write_private(path, text)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only; a crash leaves the old or the new."""
    number, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink()
        raise


def config_path(*, env: Mapping[str, str] | None = None) -> Path:
    """
    Return the path of the configuration file: the user's, unless the environment says otherwise.

    `AGENTPOOL_CONFIG` names a file. With `AGENTPOOL_HOME` it stands with the rest of that
    installation, so that a second one never replaces the user's token.
    """
    env = os.environ if env is None else env
    if named := env.get("AGENTPOOL_CONFIG"):
        return Path(named).expanduser()
    if home := env.get("AGENTPOOL_HOME"):
        instance = env.get("AGENTPOOL_INSTANCE") or "main"
        return Path(home).expanduser() / instance / "config.toml"
    # Imported here: programs that are told everything by their environment never need it.
    import platformdirs

    return Path(platformdirs.user_config_dir("agentpool")) / "config.toml"


def _stored(path: Path) -> dict[str, str]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(f"{path}: {error}") from error
    return {key: value for key, value in values.items() if isinstance(value, str)}


def _from_file(name: str | None) -> str:
    if not name:
        return ""
    try:
        return Path(name).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigInvalid(f"AGENTPOOL_TOKEN_FILE {name}: {error.strerror}") from error
