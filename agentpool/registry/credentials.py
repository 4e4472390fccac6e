"""Issues, spends and revokes bearer secrets; only their SHA-256 is ever stored."""

import hashlib
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.db.models import F, Q
from django.db.models.functions import Now

from agentpool.registry.errors import Forbidden, NotFound, Unauthenticated
from agentpool.registry.models import Agent, Credential, Pool
from agentpool.registry.states import Scope

_PREFIX = "ap_"
_HINT_LENGTH = 9
_FIELDS = Credential._meta.concrete_fields
_NAMES = [field.attname for field in _FIELDS]
_COLUMNS = ", ".join(str(field.column) for field in _FIELDS)
_FIND = f"""
SELECT {_COLUMNS} FROM credential
WHERE digest = %s AND (expires_at IS NULL OR expires_at > now())"""  # noqa: S608  (our own columns)
_FIND_MANY = """
SELECT c.digest, c.id, c.scope, c.hint, c.incarnation, a.id, a.agent_id
FROM credential c LEFT JOIN agent a ON a.id = c.agent_id
WHERE c.digest = ANY (%s) AND c.revoked_at IS NULL
  AND (c.expires_at IS NULL OR c.expires_at > now())
"""


@dataclass(frozen=True)
class Issued:
    """A stored credential with its secret, which is shown this once."""

    credential: Credential
    secret: str


@dataclass(frozen=True, slots=True)
class Known:
    """
    Who a secret stands for, in few words.

    incarnation, agent (its row's id) and agent_id: of an agent's credential only.
    """

    credential: UUID
    scope: str
    hint: str
    incarnation: int | None
    agent: UUID | None
    agent_id: str | None


def issue(
    *,
    scope: Scope,
    name: str = "",
    agent: Agent | None = None,
    incarnation: int | None = None,
    pool: Pool | None = None,
    uses: int | None = None,
    expires_at: datetime | None = None,
    created_by: str = "",
) -> Issued:
    """
    Make a credential of 256 random bits.

    uses: how many agents may enrol with it, None: no bound.
    """
    secret = _PREFIX + secrets.token_urlsafe(32)
    credential = Credential.objects.create(
        scope=scope,
        name=name,
        digest=_digest(secret),
        hint=secret[:_HINT_LENGTH],
        agent=agent,
        incarnation=incarnation,
        pool=pool,
        uses_left=uses,
        expires_at=expires_at,
        created_by=created_by,
    )
    return Issued(credential=credential, secret=secret)


def find(secret: str) -> Credential:
    """
    Return the credential of a secret, with its agent.

    Asked at every call, so that a revoked token is worthless at once; hence plain SQL, which costs
    a tenth of what composing it anew each time does.
    Raises: Unauthenticated, it is unknown, revoked, expired, or of an older incarnation.
    """
    with connection.cursor() as cursor:
        cursor.execute(_FIND, [_digest(secret)])
        row = cursor.fetchone()
    if row is None:
        raise Unauthenticated("The token is unknown or has expired.")
    credential = Credential.from_db(connection.alias, _NAMES, row)
    if credential.revoked_at is not None:
        raise Unauthenticated("The token has been revoked.")
    return credential


def find_many(secrets: Collection[str]) -> dict[str, Known]:
    """Return who these secrets stand for, in one query; those that are not good are left out."""
    digests = {_digest(secret): secret for secret in secrets}
    with connection.cursor() as cursor:
        cursor.execute(_FIND_MANY, [list(digests)])
        return {digests[bytes(row[0])]: Known(*row[1:]) for row in cursor.fetchall()}


def check(credential_id: UUID) -> None:
    """
    Hold a credential that was found earlier against what has become of it since.

    Raises: Unauthenticated, it has been revoked or has expired meanwhile.
    """
    if not good([credential_id]):
        raise Unauthenticated("The token has been revoked or has expired.")


def good(ids: Collection[UUID]) -> set[UUID]:
    """Return those of these credentials that are neither revoked nor expired, in one query."""
    unexpired = Q(expires_at=None) | Q(expires_at__gt=Now())
    rows = Credential.objects.filter(unexpired, id__in=ids, revoked_at=None)
    return set(rows.values_list("id", flat=True))


def spend(credential: Credential) -> None:
    """
    Use an enrolment token once, in the caller's transaction.

    Raises: Forbidden, it has been used up.
    """
    rows = Credential.objects.filter(
        Q(uses_left=None) | Q(uses_left__gt=0), id=credential.id, revoked_at=None
    )
    if not rows.update(uses_left=F("uses_left") - 1):
        raise Forbidden("The enrolment token has been used up; ask for a new one.")


def revoke(credential_id: UUID) -> None:
    """
    Make a credential worthless at once.

    Raises: NotFound.
    """
    if not Credential.objects.filter(id=credential_id, revoked_at=None).update(revoked_at=Now()):
        raise NotFound("There is no such token, or it is revoked already.")


def _digest(secret: str) -> bytes:
    # A plain hash is enough for 256 random bits; a slow one is for passwords people choose.
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
