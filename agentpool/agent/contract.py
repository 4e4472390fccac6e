"""
The contract between the runtime and the work: environment variables, files, exit codes.

Nothing of the runtime's own environment reaches the work but what is listed here; above all not
its credential.
"""

import json
import os
import re
import shlex
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentpool.agent.isolation.tools import REFUSED

# Exit codes of the work, as in sysexits.h.
RETRY_ELSEWHERE = 75
NO_PERMISSION = 77
CONFIG_FAULT = 78

_PASSED_ON = ("LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR")
_SECRET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")


class SecretMissing(Exception):
    """The work names a secret that this agent does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """The private folder of one lease on this machine."""

    root: Path

    @property
    def home(self) -> Path:
        """An empty home."""
        return self.root / "home"

    @property
    def tmp(self) -> Path:
        """What TMPDIR names."""
        return self.root / "tmp"

    @property
    def to_read(self) -> Path:
        """What the runtime tells the work; the work can't change it."""
        return self.root / "in"

    @property
    def output(self) -> Path:
        """What the work tells the runtime, and whatever else it makes; its own to write."""
        return self.root / "out"

    @property
    def secrets(self) -> Path:
        """One file per secret."""
        return self.to_read / "secrets"

    @property
    def payload(self) -> Path:
        """The payload and the lease, for the work to read."""
        return self.to_read / "payload.json"

    @property
    def profile(self) -> Path:
        """The security policy that holds, for work that can obey it."""
        return self.to_read / "profile.json"

    @property
    def result(self) -> Path:
        """Where the work writes its result."""
        return self.output / "result.json"

    @property
    def progress(self) -> Path:
        """Where the work writes its progress."""
        return self.output / "progress.json"

    @property
    def refused(self) -> Path:
        """Where the notes in the place of forbidden tools say that they were called."""
        return self.output / REFUSED

    def make(self) -> None:
        """Make the folder and its parts, open to their owner only."""
        self.root.mkdir(parents=True, mode=0o700)
        for part in (self.home, self.tmp, self.to_read, self.output, self.secrets):
            part.mkdir(mode=0o700)


def write_payload(*, folder: Folder, lease: Mapping[str, Any], payload: Mapping[str, Any]) -> None:
    """Write what `AGENTPOOL_PAYLOAD` names: the payload's own keys, and the lease as `lease`."""
    _write(folder.payload, {**payload, "lease": dict(lease)})


def write_profile(*, folder: Folder, policy: Mapping[str, Any]) -> None:
    """Write what `AGENTPOOL_SECURITY_PROFILE` names: the policy that holds for this work."""
    _write(folder.profile, policy)


def _write(file: Path, content: Mapping[str, Any]) -> None:
    # In one step: it is written again when the grant changes, while the work may read it; and for
    # the same user as before, who may be the sandbox's.
    draft = file.with_suffix(".new")
    draft.write_text(json.dumps(content), encoding="utf-8")
    if file.exists():
        known = file.stat()
        os.chown(draft, known.st_uid, known.st_gid)
    draft.replace(file)


def place_secrets(*, names: Sequence[str], source: Path | None, folder: Folder) -> dict[str, str]:
    """
    Copy the named secrets of this agent into the lease's folder, readable by the owner only.

    `name=VARIABLE` gives it in that variable, too. Returns: those variables.
    Raises: SecretMissing, naming the first that is not there.
    """
    variables = {}
    for name, _, variable in (each.partition("=") for each in dict.fromkeys(names)):
        if variable and not _VARIABLE.fullmatch(variable):
            raise SecretMissing(f"{variable!r} is no name of a variable")
        if not _SECRET.fullmatch(name):
            raise SecretMissing(f"{name!r} is no name of a secret")
        if source is None:
            raise SecretMissing(f"secret {name!r} is not here: the agent has no --secrets-dir")
        try:
            content = (source / name).read_bytes()
        except OSError as error:
            raise SecretMissing(f"secret {name!r} is not on this agent") from error
        number = os.open(folder.secrets / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(number, "wb") as file:
            file.write(content)
        if variable:
            variables[variable] = content.decode("utf-8", "replace").strip()
    return variables


def environment(
    *,
    agent_id: str,
    agent_type: str,
    url: str,
    lease: Mapping[str, Any],
    payload: Mapping[str, Any],
    folder: Folder,
) -> dict[str, str]:
    """Return the whole environment of the work; the payload's own entries can't replace ours."""
    own = {str(name): str(value) for name, value in (payload.get("env") or {}).items()}
    base = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    base |= {
        "PATH": _path(),
        "HOME": str(folder.home),
        "TMPDIR": str(folder.tmp),
        "TERM": "dumb",
        "LANG": base.get("LANG", "C.UTF-8"),
        **_git_identity(agent_id),
    }
    facts = {"AGENTPOOL_URL": url, "AGENTPOOL_AGENT_ID": agent_id, "AGENTPOOL_TYPE": agent_type}
    return {**base, **own, **facts, **_lease_facts(lease), **_files(folder, payload)}


def command_of(
    *, payload: Mapping[str, Any], exec_line: str | None, env: Mapping[str, str]
) -> list[str]:
    """
    Return the command to run: the payload's, or the agent's own line with $NAMEs filled in.

    Raises: ValueError, there is none.
    """
    if exec_line:
        return [string.Template(word).safe_substitute(env) for word in shlex.split(exec_line)]
    command = payload.get("command") or ()
    if isinstance(command, str) or not command:
        raise ValueError("the payload has no command, and the agent was started without --exec")
    return [str(word) for word in command]


def _path() -> str:
    """PATH of this machine, with this Python first, so that `python` is the agent's own."""
    # Not resolved: in a virtual environment the link is what makes it one.
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _git_identity(agent_id: str) -> dict[str, str]:
    mail = f"{agent_id}@agentpool.invalid"
    return {
        "GIT_AUTHOR_NAME": agent_id,
        "GIT_AUTHOR_EMAIL": mail,
        "GIT_COMMITTER_NAME": agent_id,
        "GIT_COMMITTER_EMAIL": mail,
        "GIT_TERMINAL_PROMPT": "0",
    }


def _lease_facts(lease: Mapping[str, Any]) -> dict[str, str]:
    grant = lease.get("grant") or {}
    facts = {
        "AGENTPOOL_LEASE_ID": lease.get("id"),
        "AGENTPOOL_FENCING_TOKEN": lease.get("fencing_token"),
        "AGENTPOOL_PROJECT": lease.get("project"),
        "AGENTPOOL_CYCLE": lease.get("cycle_id"),
        "AGENTPOOL_PHASE": lease.get("phase"),
        "AGENTPOOL_ATTEMPT": lease.get("attempt"),
        "AGENTPOOL_DEADLINE": lease.get("hard_end_at"),
        "AGENTPOOL_TOKEN_BUDGET": grant.get("token_budget"),
        "AGENTPOOL_MEMORY_MB": grant.get("memory_mb"),
    }
    return {name: "" if value is None else str(value) for name, value in facts.items()}


def _files(folder: Folder, payload: Mapping[str, Any]) -> dict[str, str]:
    named = {
        f"AGENTPOOL_SECRET_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_FILE": str(
            folder.secrets / name
        )
        for name in (str(each).partition("=")[0] for each in payload.get("secrets") or ())
    }
    return {
        "AGENTPOOL_PAYLOAD": str(folder.payload),
        "AGENTPOOL_RESULT": str(folder.result),
        "AGENTPOOL_PROGRESS": str(folder.progress),
        "AGENTPOOL_SECRETS": str(folder.secrets),
        "AGENTPOOL_OUTPUT": str(folder.output),
        "AGENTPOOL_SECURITY_PROFILE": str(folder.profile),
        "AGENTPOOL_REFUSED": str(folder.refused),
        **named,
    }
