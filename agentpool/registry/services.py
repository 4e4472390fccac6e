"""Changes pools, profiles and tokens, writes logs and samples, keeps the ticks."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import IntegrityError, connection, transaction
from django.db.models import F, Q
from django.db.models.functions import Now
from django.utils.crypto import get_random_string

from agentpool.registry import credentials, events, queries
from agentpool.registry.credentials import Issued
from agentpool.registry.errors import (
    ConcurrentUpdate,
    Duplicate,
    StaleVersion,
    UnsupportedTransition,
)
from agentpool.registry.models import (
    Agent,
    Credential,
    Event,
    EventNumber,
    IdempotencyKey,
    Lease,
    LogChunk,
    LogTotal,
    Pool,
    Request,
    SecurityProfile,
    Share,
    Tick,
)
from agentpool.registry.profiles import DEFAULT_PROFILES, SAFE_PROFILE, Profile
from agentpool.registry.states import LIVE, AgentStatus, RequestStatus, Scope

_IDEMPOTENCY_KEPT = timedelta(hours=24)
# Of tokens that are worth nothing any more: long enough to ask what became of one.
_TOKENS_KEPT = timedelta(days=7)


# -- pools, profiles, tokens ---------------------------------------------------------------------


@transaction.atomic
def create_pool(agent_type: str, *, fields: Mapping[str, Any], actor: str, note: str = "") -> Pool:
    """
    Make a pool with a security profile: the known one of its type, else one that trusts little.

    Raises: Duplicate.
    """
    try:
        with transaction.atomic():
            pool = Pool.objects.create(agent_type=agent_type, **fields)
    except IntegrityError as error:
        raise Duplicate(f"There is a pool {agent_type} already.") from error
    profile = DEFAULT_PROFILES.get(agent_type, SAFE_PROFILE)
    SecurityProfile.objects.create(pool=pool, **_profile_columns(profile))
    events.append("pool.created", agent_type=agent_type, actor=actor, note=note)
    return queries.pool(agent_type)


@transaction.atomic
def update_pool(
    agent_type: str,
    *,
    fields: Mapping[str, Any],
    if_generation: int | None,
    actor: str,
    note: str = "",
) -> Pool:
    """
    Change a pool's policy or launch template; agents that run already keep what they are.

    Raises: NotFound, StaleVersion; ConcurrentUpdate, another change made it contradict itself.
    """
    pool = queries.pool(agent_type)
    rows = Pool.objects.filter(agent_type=agent_type)
    if if_generation is not None:
        rows = rows.filter(generation=if_generation)
    try:
        with transaction.atomic():
            changed = rows.update(**fields, generation=F("generation") + 1, updated_at=Now())
    except IntegrityError as error:
        # Each was judged by what it saw: a least size here, a smaller most there.
        said = "Somebody else has changed the pool in between; with that, this does not do."
        raise ConcurrentUpdate(said) from error
    if not changed:
        raise StaleVersion(f"The pool is at version {pool.generation}, not {if_generation}.")
    half_life_s = fields.get("share_half_life_s", pool.share_half_life_s)
    if half_life_s != pool.share_half_life_s:
        _rescale_shares(pool, half_life_s)
    events.append(
        "pool.updated", agent_type=agent_type, actor=actor, fields=sorted(fields), note=note
    )
    return queries.pool(agent_type)


def _rescale_shares(pool: Pool, half_life_s: float) -> None:
    """This will keep what each project has used, although uses are stored in half-lives."""
    at_s = queries.now().timestamp()
    shift = at_s / half_life_s - at_s / pool.share_half_life_s
    Share.objects.filter(pool=pool).update(log_usage=F("log_usage") + shift)


@transaction.atomic
def update_profile(
    agent_type: str,
    *,
    fields: Mapping[str, Any],
    actor: str,
    note: str = "",
    if_version: int | None = None,
) -> SecurityProfile:
    """
    Change a security profile; its version rises.

    Raises: NotFound; StaleVersion.
    """
    queries.pool(agent_type)
    rows = SecurityProfile.objects.filter(pool_id=agent_type)
    if if_version is not None:
        rows = rows.filter(version=if_version)
    if not rows.update(**fields, version=F("version") + 1, updated_at=Now()):
        raise StaleVersion(f"The profile of {agent_type} is not at version {if_version} any more.")
    events.append(
        "profile.updated", agent_type=agent_type, actor=actor, fields=sorted(fields), note=note
    )
    return SecurityProfile.objects.get(pool_id=agent_type)


@transaction.atomic
def enrolment_token(
    pool: Pool, *, uses: int | None, expires_in_s: float | None, name: str, actor: str
) -> Issued:
    """Make a token that lets `uses` agents (None: any number) enrol in a pool."""
    issued = credentials.issue(
        scope=Scope.ENROLMENT,
        name=name,
        pool=pool,
        uses=uses,
        expires_at=_in(expires_in_s),
        created_by=actor,
    )
    return _told(issued, "token.created", actor, uses=uses)


@transaction.atomic
def token(*, scope: Scope, name: str, expires_in_s: float | None, actor: str) -> Issued:
    """Make a token for a person or an orchestrator."""
    issued = credentials.issue(
        scope=scope, name=name, expires_at=_in(expires_in_s), created_by=actor
    )
    return _told(issued, "token.created", actor)


@transaction.atomic
def rotate_credential(agent: Agent, *, actor: str, note: str = "") -> Issued:
    """
    Give an agent a new credential; the old one is worthless at once, the incarnation stays.

    Raises: UnsupportedTransition, it is retired and would have to register again.
    """
    if agent.status == AgentStatus.RETIRED:
        raise UnsupportedTransition(f"{agent.agent_id} is retired; it must register again.")
    Credential.objects.filter(agent=agent, revoked_at=None).update(revoked_at=Now())
    issued = credentials.issue(
        scope=Scope.AGENT, agent=agent, incarnation=agent.incarnation, created_by=actor
    )
    events.append("agent.credential_rotated", agent=agent, actor=actor, note=note)
    return issued


@transaction.atomic
def revoke_token(credential_id: UUID, *, actor: str, note: str = "") -> None:
    """
    Make a token worthless at once.

    Raises: NotFound, there is none, or it is revoked already.
    """
    credentials.revoke(credential_id)
    row = Credential.objects.get(id=credential_id)
    _told(Issued(row, ""), "token.revoked", actor, note=note)


def _told(issued: Issued, kind: str, actor: str, **more: Any) -> Issued:
    row = issued.credential
    about: dict[str, Any] = {"scope": str(row.scope), "name": row.name, "hint": row.hint}
    about |= {"token": str(row.id), **more}
    events.append(kind, agent_type=row.pool_id or "", actor=actor, **about)
    return issued


def _in(seconds: float | None) -> Any:
    return queries.now() + timedelta(seconds=seconds) if seconds else None


def _profile_columns(profile: Profile) -> dict[str, Any]:
    return {
        "allowed_tools": list(profile.allowed_tools),
        "network_access": profile.network_access.value,
        "file_access": profile.file_access.value,
        "memory_mb": profile.memory_mb,
        "cpu_cores": profile.cpu_cores,
    }


# -- the first start -----------------------------------------------------------------------------


@transaction.atomic
def furnish() -> dict[str, Any] | None:
    """
    Make what a new installation needs: the four pools, an admin user, an operator token.

    Returns their secrets, which are shown this once; None: it was furnished before.
    Locks: one advisory lock, so that two first starts furnish once.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(hashtextextended('furnish', 0))")
    users = get_user_model().objects
    if Tick.objects.filter(name="furnished").exists():
        return None
    for agent_type, profile in DEFAULT_PROFILES.items():
        create_pool(agent_type, fields={"description": profile.description}, actor="first start")
    password = os.environ.get("AGENTPOOL_ADMIN_PASSWORD") or get_random_string(16)
    if not users.filter(is_superuser=True).exists():
        users.create_superuser("admin", password=password)
    issued = token(scope=Scope.OPERATOR, name="first start", expires_in_s=None, actor="first start")
    Tick.objects.create(name="furnished")
    return {"username": "admin", "password": password, "operator_token": issued.secret}


# -- logs ----------------------------------------------------------------------------------------


@transaction.atomic
def append_log(lease: Lease, *, chunks: Sequence[tuple[str, str]]) -> int:
    """
    Append (stream, text) chunks to a lease's log and drop the oldest over the cap.

    Returns the bytes written. The tail is kept: what went wrong stands at the end.
    Locks the lease's log total, so that two writers count right.
    """
    LogTotal.objects.get_or_create(lease=lease)
    total = LogTotal.objects.select_for_update().get(lease=lease)
    rows = [
        LogChunk(lease=lease, stream=stream, text=text, size=len(text.encode()))
        for stream, text in chunks
    ]
    LogChunk.objects.bulk_create(rows)
    written = sum(row.size for row in rows)
    dropped = _drop_oldest(lease, total.kept_bytes + written - settings.LOG_CAP_BYTES)
    LogTotal.objects.filter(lease=lease).update(
        kept_bytes=F("kept_bytes") + written - dropped,
        dropped_bytes=F("dropped_bytes") + dropped,
    )
    events.append("lease.log", lease=lease, bytes=written)
    return written


def _drop_oldest(lease: Lease, excess: int) -> int:
    if excess <= 0:
        return 0
    dropped = 0
    for chunk in LogChunk.objects.filter(lease=lease).order_by("id").iterator(100):
        if dropped >= excess:
            break
        dropped += chunk.size
        chunk.delete()
    return dropped


# -- ticks, pruning --------------------------------------------------------------------------------


def tick(name: str) -> None:
    """This will note that a part of the control plane works, by the database's clock."""
    Tick.objects.update_or_create(name=name, defaults={"at": Now()})


@transaction.atomic
def tick_web() -> None:
    """
    Note that agents can be heard; after an absence, give them a full lost window to speak.

    Locks the row, so that several web processes decide one after the other.
    """
    Tick.objects.select_for_update().filter(name="web").first()
    until = queries.grace_until()
    Tick.objects.update_or_create(name="web", defaults={"at": Now(), "grace_until": until})


@transaction.atomic
def _prune_events() -> int:
    """Delete events older than they are kept, with their numbers."""
    before = Now() - timedelta(days=settings.KEEP_EVENTS_DAYS)
    EventNumber.objects.filter(event__at__lt=before).delete()
    return Event.objects.filter(at__lt=before).delete()[0]


def prune() -> dict[str, int]:
    """Delete rows older than their kept time; return how many of each."""
    kept = {
        "logs": (LogChunk.objects.all(), "at", settings.KEEP_LOGS_DAYS),
        "leases": (
            Lease.objects.exclude(status__in=LIVE),
            "released_at",
            settings.KEEP_FINISHED_DAYS,
        ),
        "requests": (
            Request.objects.exclude(status__in=[RequestStatus.WAITING, RequestStatus.GRANTED]),
            "finished_at",
            settings.KEEP_FINISHED_DAYS,
        ),
    }
    counts = {
        name: rows.filter(**{f"{column}__lt": Now() - timedelta(days=days)}).delete()[0]
        for name, (rows, column, days) in kept.items()
    }
    spent = Q(uses_left=0) | Q(revoked_at__lt=Now() - _TOKENS_KEPT)
    old_tokens = Credential.objects.filter(spent | Q(expires_at__lt=Now() - _TOKENS_KEPT))
    old_keys = IdempotencyKey.objects.filter(created_at__lt=Now() - _IDEMPOTENCY_KEPT)
    return {
        "events": _prune_events(),
        **counts,
        "tokens": old_tokens.delete()[0],
        "idempotency_keys": old_keys.delete()[0],
    }
