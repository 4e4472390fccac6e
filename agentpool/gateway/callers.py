"""Who opens a websocket: a bearer token, or a person with a browser's session."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from typing import Any
from uuid import UUID

from django.conf import settings

from agentpool.gateway.gatherer import PerLoop
from agentpool.gateway.greetings import speakers
from agentpool.live import origin
from agentpool.live.threads import in_thread
from agentpool.registry import credentials
from agentpool.registry.errors import Refusal, Unauthenticated
from agentpool.registry.states import Scope


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what must stay good for as long as the connection lasts."""

    scope: Scope
    name: str
    credential: UUID | None = None
    session_key: str | None = None


async def of_handshake(scope: Mapping[str, Any]) -> Caller | None:
    """
    Return who a handshake's headers stand for, None: they do not say.

    Raises: Unauthenticated, the token or the session is no good.
    """
    headers = dict(scope["headers"])
    scheme, _, secret = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme:
        if scheme.lower() != "bearer":
            raise Unauthenticated("The Authorization header must be: Bearer <token>.")
        return await of_token(secret.strip())
    session_key = _session_key(headers.get(b"cookie", b""))
    if session_key is None or not origin.is_ours(headers):
        return None
    return await in_thread(_of_session, session_key)


async def of_token(secret: str) -> Caller:
    """Return who a token stands for; raises Unauthenticated."""
    speaker = await speakers.call(secret)
    return Caller(speaker.scope, speaker.name, credential=speaker.credential)


def _session_key(header: bytes) -> str | None:
    try:
        cookie = SimpleCookie(header.decode("latin-1")).get(settings.SESSION_COOKIE_NAME)
    except CookieError:
        return None
    return cookie.value if cookie else None


def _of_session(session_key: str) -> Caller:
    principal = origin.person_of(session_key)
    return Caller(principal.scope, principal.name, session_key=session_key)


def _checked(callers: Sequence[Caller]) -> list[Refusal | None]:
    """Hold callers against what has become of them; a refusal for each that is good no more."""
    held = [caller.credential for caller in callers if caller.credential is not None]
    good = credentials.good(held) if held else set()
    return [_checked_one(caller, good) for caller in callers]


def _checked_one(caller: Caller, good: Collection[UUID]) -> Refusal | None:
    if caller.credential is not None and caller.credential not in good:
        return Unauthenticated("The token has been revoked or has expired.")
    if caller.session_key is not None:
        try:
            _of_session(caller.session_key)
        except Unauthenticated as refusal:
            return refusal
    return None


# Of all readers that are asked about at about the same time, in one query.
checks: PerLoop[Caller, None] = PerLoop(_checked, name="checks", most=500)
