"""How a runtime becomes a known agent, and how it is known again after a restart."""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from agentpool.agent import journal, options, rest
from agentpool.client import calls, config, errors, models

_STATE = "agent.json"
_LONGEST_BACKOFF_S = 10.0


class CannotStart(Exception):
    """The runtime can't become an agent; the message says what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who the runtime is to the control plane; the credential is worth the agent."""

    url: str
    id: str
    agent_id: str
    agent_type: str
    incarnation: int
    credential: str
    heartbeat_interval_s: float = 10.0


def open_workdir(said: options.Options) -> tuple[Path, str, IO[str]]:
    """
    Return the work folder, the agent's external id, and the lock that keeps others out.

    A folder that was used before gives the runtime its old id back.
    Raises: CannotStart, another runtime works there or the folder can't be written.
    """
    agent_id = said.name or options.new_agent_id(said.pool)
    workdir = said.workdir or options.default_workdir(agent_id)
    try:
        workdir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (workdir / "lock").open("w", encoding="ascii")
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CannotStart(f"another agent works in {workdir}; give --workdir") from error
    except OSError as error:
        raise CannotStart(f"work folder {workdir}: {error.strerror}") from error
    known = _stored(workdir)
    if said.name is None and known is not None and known.agent_type == said.pool:
        agent_id = known.agent_id
    return workdir, agent_id, lock


def runtime_name(workdir: Path) -> str:
    """
    Return what the runtime of a work folder is called among all of this machine.

    Not by its agent alone: two control planes may each have one of that name here.
    """
    folder = workdir.resolve()
    word = re.sub(r"[^A-Za-z0-9._-]", "-", folder.name)[:64]
    return f"{word}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]}"


def enrol(
    *,
    said: options.Options,
    levels: Sequence[str],
    workdir: Path,
    agent_id: str,
    is_over: Callable[[], bool],
) -> Identity | None:
    """
    Register the agent and keep its credential; waits for a control plane that is away.

    levels: of isolation, that this machine offers.

    Returns: who it is, or None when `is_over` came true while waiting.
    Raises: CannotStart, no token that the control plane accepts.
    """
    url = config.load().url
    refusals = []
    for source, token in _tokens(said, workdir, agent_id, url):
        try:
            agent = _register(said, levels, agent_id, url, token, is_over)
        except (errors.Unauthenticated, errors.Forbidden) as error:
            refusals.append(f"{source}: {error.detail}")
            continue
        except errors.ApiError as error:
            raise CannotStart(f"{url} refuses the registration: {error}") from error
        return None if agent is None else _keep(agent, url, workdir)
    raise CannotStart(
        "no accepted token: "
        + ("; ".join(refusals) or "set AGENTPOOL_ENROLMENT_TOKEN or run `agentpool login`")
    )


def forget(workdir: Path) -> None:
    """Remove what a retired agent leaves in its work folder."""
    for name in (_STATE, "lock"):
        (workdir / name).unlink(missing_ok=True)
    for folder in (workdir / "leases", workdir):
        with contextlib.suppress(OSError):
            folder.rmdir()


def _tokens(said: options.Options, workdir: Path, agent_id: str, url: str) -> list[tuple[str, str]]:
    """The tokens to try, best first: its own credential, the enrolment token, the operator's."""
    known = _stored(workdir)
    is_own = known is not None and (known.agent_id, known.url) == (agent_id, url)
    found = [
        ("own credential", known.credential if is_own and known else ""),
        ("enrolment token", _enrolment_token(said)),
        ("configured token", config.load().token),
    ]
    return [(source, token) for source, token in found if token]


def _enrolment_token(said: options.Options) -> str:
    if token := os.environ.get("AGENTPOOL_ENROLMENT_TOKEN"):
        return token.strip()
    path = said.enrolment_token_file or os.environ.get("AGENTPOOL_ENROLMENT_TOKEN_FILE")
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise CannotStart(f"enrolment token file {path}: {error.strerror}") from error


def _register(
    said: options.Options,
    levels: Sequence[str],
    agent_id: str,
    url: str,
    token: str,
    is_over: Callable[[], bool],
) -> models.Agent | None:
    about: calls.Registration = said.registration(levels)  # type: ignore[assignment]
    # One call, so one Idempotency-Key: sent again it can't raise the incarnation twice.
    call = calls.register_agent(agent_id=agent_id, agent_type=said.pool, **about)
    backoff_s = 0.25
    while not is_over():
        try:
            return rest.send(call, url=url, token=token)
        except (errors.AgentBusy, errors.ConcurrentUpdate) as error:
            # Leases of the incarnation before are being closed; a fresh call looks again.
            journal.note("enrolment.repeated", reason=error.detail)
            call = calls.register_agent(agent_id=agent_id, agent_type=said.pool, **about)
        except (errors.Unreachable, errors.Unavailable, errors.RateLimited) as error:
            journal.note("enrolment.waiting", reason=error.detail, again_in_s=backoff_s)
        _sleep(backoff_s, is_over)
        backoff_s = min(_LONGEST_BACKOFF_S, backoff_s * 2)
    return None


def _sleep(seconds: float, is_over: Callable[[], bool]) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and not is_over():
        time.sleep(0.1)


def _keep(agent: models.Agent, url: str, workdir: Path) -> Identity:
    if not agent.credential:
        raise CannotStart(f"{url} registered the agent but gave it no credential")
    identity = Identity(
        url=url,
        id=agent.id,
        agent_id=agent.agent_id,
        agent_type=agent.agent_type,
        incarnation=agent.incarnation,
        credential=agent.credential,
        heartbeat_interval_s=agent.heartbeat_interval_s or 10.0,
    )
    config.write_private(workdir / _STATE, json.dumps(asdict(identity)))
    return identity


def _stored(workdir: Path) -> Identity | None:
    try:
        return Identity(**json.loads((workdir / _STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
