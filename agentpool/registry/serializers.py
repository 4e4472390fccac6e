"""What callers may say about agents, pools and tokens, and how these are shown."""

import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from enum import IntEnum
from importlib.metadata import entry_points
from typing import Any
from uuid import UUID

from django.core.validators import RegexValidator
from rest_framework import serializers

from agentpool.registry import queries
from agentpool.registry.models import (
    AGENT_ID,
    TYPE_NAME,
    Agent,
    Credential,
    Event,
    LogChunk,
    Pool,
    SecurityProfile,
)
from agentpool.registry.states import (
    PLACEABLE_HEALTH,
    PLACEABLE_STATUS,
    AgentHealth,
    AgentStatus,
    FileAccess,
    IsolationLevel,
    NetworkAccess,
    Scope,
    SecurityLevel,
    Strategy,
)

# The path's own words: an agent of such a name could not be addressed.
RESERVED_IDS = frozenset(
    {
        "agent-id",
        "assign",
        "events",
        "health",
        "learning",
        "leases",
        "metrics",
        "optimize",
        "pools",
        "requests",
        "resources",
        "scaling",
        "security",
        "tokens",
    }
)
MAX_INT = 2**31 - 1
MAX_BIGINT = 2**53 - 1  # the largest integer that JSON readers in JavaScript keep exact


# -- fields --------------------------------------------------------------------------------------


class Number(serializers.FloatField):
    """A finite number."""

    def to_internal_value(self, data: Any) -> float:
        """Return the number; booleans, NaN and infinities are refused."""
        if isinstance(data, bool):
            raise serializers.ValidationError("A valid number is required.")
        value = super().to_internal_value(data)
        if not math.isfinite(value):
            raise serializers.ValidationError("Must be finite.")
        return value


# How far ahead a drain's deadline may be, seconds.
LONGEST_DRAIN_S = 30 * 86_400


class Seconds(Number):
    """A duration, seconds."""


class Cores(serializers.DecimalField):
    """CPU cores with three decimals, shown as a number."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_value", 4096)
        super().__init__(
            max_digits=9,
            decimal_places=3,
            coerce_to_string=False,
            min_value=Decimal(0),
            **options,
        )

    def to_representation(self, value: Any) -> Any:
        """Return a plain number."""
        return float(value)


class Whole(serializers.IntegerField):
    """A whole number within what a column and a JSON reader can hold."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("min_value", 0)
        options.setdefault("max_value", MAX_INT)
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> int:
        """Return the number; booleans are refused."""
        if isinstance(data, bool):
            raise serializers.ValidationError("A valid integer is required.")
        return int(super().to_internal_value(data))


class Text(serializers.CharField):
    """A short string."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_length", 200)
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> str:
        """Return the text; only JSON strings are taken, numbers would lose their form."""
        if not isinstance(data, str):
            raise serializers.ValidationError("Not a valid string.")
        return str(super().to_internal_value(data))


class Words(serializers.ListField):
    """A list of short words without repeats."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("max_length", 100)
        super().__init__(child=Text(max_length=200), **options)

    def to_internal_value(self, data: Any) -> list[str]:
        """Return the words in their order, each once."""
        return list(dict.fromkeys(super().to_internal_value(data)))


class Flag(serializers.BooleanField):
    """true or false, nothing that merely looks like it."""

    def to_internal_value(self, data: Any) -> bool:
        """Return the flag."""
        if not isinstance(data, bool):
            raise serializers.ValidationError("Must be true or false.")
        return data


class Object(serializers.JSONField):
    """A JSON object that Postgres can store: no NUL, no lone surrogate, bounded depth."""

    max_depth = 20

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Return the object."""
        if not isinstance(data, dict):
            raise serializers.ValidationError("Must be an object.")
        _check_storable(data, self.max_depth)
        return data


class Labels(Object):
    """A flat object of short names to strings, numbers or booleans."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        """Return the labels."""
        labels = super().to_internal_value(data)
        if len(labels) > 100:
            raise serializers.ValidationError("At most 100 labels.")
        for name, value in labels.items():
            if not re.fullmatch(r"[A-Za-z0-9._/-]{1,100}", name):
                raise serializers.ValidationError(f"{name!r} cannot be the name of a label.")
            if not isinstance(value, str | int | float | bool) or len(str(value)) > 200:
                raise serializers.ValidationError(f"{name}: a short string, number or boolean.")
        return labels


class Level(serializers.Field):  # type: ignore[type-arg]
    """One of an ordered enum's names, stored as its number."""

    def __init__(self, enum: type[IntEnum], **options: Any) -> None:
        self.enum = enum
        super().__init__(**options)

    def to_internal_value(self, data: Any) -> int:
        """Return the level's number."""
        names = {member.name.lower(): member.value for member in self.enum}
        if not isinstance(data, str) or data not in names:
            raise serializers.ValidationError(f"One of: {', '.join(names)}.")
        return int(names[data])

    def to_representation(self, value: int) -> str:
        """Return the level's name."""
        return self.enum(value).name.lower()


class Levels(serializers.ListField):
    """A list of an ordered enum's names, at least one."""

    def __init__(self, enum: type[IntEnum], **options: Any) -> None:
        options.setdefault("max_length", len(enum))
        super().__init__(child=Level(enum), allow_empty=False, **options)


def _check_storable(value: Any, depth: int) -> None:
    if depth < 0:
        raise serializers.ValidationError("Nested too deeply.")
    match value:
        case str():
            if "\x00" in value or any("\ud800" <= c <= "\udfff" for c in value):
                raise serializers.ValidationError("NUL and lone surrogates cannot be stored.")
        case dict():
            for name, inner in value.items():
                _check_storable(name, depth)
                _check_storable(inner, depth - 1)
        case list():
            for inner in value:
                _check_storable(inner, depth - 1)


class Strict(serializers.Serializer[Any]):
    """An object whose unknown fields are errors: a misspelt limit must not be ignored."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the fields; unknown ones are refused by name."""
        if isinstance(data, Mapping):
            known = {name for name, f in self.fields.items() if not f.read_only}
            if unknown := sorted(str(name) for name in set(data) - known):
                raise serializers.ValidationError({name: ["Unknown field."] for name in unknown})
        return super().to_internal_value(data)


class Query(serializers.Serializer[Any]):
    """The parameters of a list; unknown ones are ignored, as links may carry their own."""

    limit = serializers.IntegerField(min_value=1, max_value=500, required=False)
    cursor = serializers.CharField(max_length=500, required=False)


# -- agents --------------------------------------------------------------------------------------


class AgentFields(Strict):
    """What an agent is and can; every field may be changed later."""

    name = Text(required=False, allow_blank=True)
    capabilities = Words(required=False)
    tools = Words(required=False)
    labels = Labels(required=False)
    max_concurrent = Whole(min_value=1, max_value=1000, required=False)
    memory_mb = Whole(min_value=1, required=False)
    cpu_cores = Cores(required=False)
    token_budget = Whole(max_value=MAX_BIGINT, required=False)
    disk_space_mb = Whole(required=False)
    security_level = Level(SecurityLevel, required=False)
    isolation_levels = Levels(IsolationLevel, required=False)
    provider = Text(required=False, allow_blank=True)
    endpoint = Text(required=False, allow_blank=True, max_length=2000)
    version = Text(required=False, allow_blank=True)
    host = Text(required=False, allow_blank=True)


class NewAgent(AgentFields):
    """An agent that registers; what it does not say comes from the pool's launch template."""

    agent_id = Text(max_length=128, validators=[AGENT_ID])
    agent_type = Text(max_length=63, validators=[TYPE_NAME])

    def validate_agent_id(self, value: str) -> str:
        """Refuse the path's own words."""
        if value in RESERVED_IDS:
            raise serializers.ValidationError("That word is part of the interface's paths.")
        return value


class AgentQuery(Query):
    """Filters of the list of agents."""

    agent_type = serializers.CharField(max_length=63, required=False)
    status = serializers.ChoiceField([v.value for v in AgentStatus], required=False)
    health = serializers.ChoiceField([v.value for v in AgentHealth], required=False)
    project = serializers.CharField(max_length=200, required=False)
    capability = serializers.CharField(max_length=200, required=False)
    label = serializers.RegexField(  # type: ignore[assignment]
        r"^[A-Za-z0-9._/-]{1,100}(=.{0,200})?\Z", required=False
    )
    search = serializers.CharField(max_length=200, required=False)
    ordering = serializers.ChoiceField(
        [
            f"{sign}{name}"
            for name in (
                "agent_id",
                "created_at",
                "load",
                "status",
                "health",
                "agent_type",
            )
            for sign in ("", "-")
        ],
        required=False,
    )


class StatusChange(Strict):
    """A move that a caller asks for."""

    status = serializers.ChoiceField([v.value for v in AgentStatus])
    reason = Text(required=False, allow_blank=True, default="", max_length=400)
    deadline_s = Seconds(
        min_value=1, max_value=LONGEST_DRAIN_S, required=False, allow_null=True, default=None
    )

    def validate(self, attrs: Any) -> Any:
        """Return the fields; only a drain has a deadline."""
        if attrs["deadline_s"] is not None and attrs["status"] != AgentStatus.DRAINING:
            raise serializers.ValidationError({"deadline_s": ["Only a drain has a deadline."]})
        return attrs


class HealthChange(Strict):
    """An operator's judgement."""

    health = serializers.ChoiceField(
        [
            AgentHealth.GOOD.value,
            AgentHealth.MAINTENANCE.value,
            AgentHealth.QUARANTINED.value,
        ]
    )
    note = Text(required=False, allow_blank=True, default="", max_length=400)
    until = serializers.DateTimeField(required=False, allow_null=True, default=None)


class Note(Strict):
    """Why an operator does something."""

    note = Text(required=False, allow_blank=True, default="", max_length=400)


def agents_json(agents: list[Agent]) -> list[dict[str, Any]]:
    """Return agents as JSON, with performance, in one query more for any number of them."""
    performance = queries.performance([agent.id for agent in agents])
    at = queries.now()
    return [_agent_json(agent, at, performance.get(agent.id)) for agent in agents]


def agent_json(agent: Agent) -> dict[str, Any]:
    """Return one agent as JSON."""
    return agents_json([agent])[0]


def _agent_json(agent: Agent, at: datetime, performance: Any) -> dict[str, Any]:
    live = agent.live_leases if hasattr(agent, "live_leases") else []
    heard = agent.liveness.last_heartbeat_at if hasattr(agent, "liveness") else None
    projects = list(dict.fromkeys(lease.project for lease in live))
    free = agent.load < agent.max_concurrent
    return {
        "id": str(agent.id),
        "agent_id": agent.agent_id,
        "agent_type": agent.agent_type,
        "name": agent.name,
        "status": agent.status,
        "status_reason": agent.status_reason,
        "drain_by": agent.drain_by if agent.status == AgentStatus.DRAINING else None,
        "health": agent.health,
        "health_note": agent.health_note,
        "health_until": agent.health_until,
        "schedulable": (
            agent.status in PLACEABLE_STATUS and agent.health in PLACEABLE_HEALTH and free
        ),
        "current_project": projects[0] if projects else None,
        "projects": projects,
        "capabilities": agent.capabilities,
        "tools": agent.tools,
        "labels": agent.labels,
        "max_concurrent": agent.max_concurrent,
        "active_leases": len(live),
        "load": agent.load,
        "memory_mb": agent.memory_mb,
        "cpu_cores": float(agent.cpu_cores),
        "token_budget": agent.token_budget,
        "disk_space_mb": agent.disk_space_mb,
        "used": {
            "memory_mb": agent.used_memory_mb,
            "cpu_cores": float(agent.used_cpu_cores),
            "token_budget": agent.used_token_budget,
            "disk_space_mb": agent.used_disk_space_mb,
        },
        "security_level": SecurityLevel(agent.security_level).name.lower(),
        "isolation_levels": [IsolationLevel(v).name.lower() for v in agent.isolation_levels],
        "provider": agent.provider,
        "endpoint": agent.endpoint,
        "host": agent.host,
        "version": agent.version,
        "incarnation": agent.incarnation,
        "last_heartbeat_at": heard,
        "heartbeat_age_s": round((at - heard).total_seconds(), 3) if heard else None,
        "performance": performance
        or {
            "leases": 0,
            "success_rate": None,
            "mean_s": None,
            "p95_s": None,
            "tokens": 0,
        },
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
        "generation": agent.generation,
    }


# -- pools and profiles --------------------------------------------------------------------------


# Those of scaling.drivers, which stands above this app, and of packages that offer one.
_OFFERED = entry_points(group="agentpool.drivers")
DRIVERS = ["local", "ray", "memory", *sorted(point.name for point in _OFFERED)]
_RESOURCE = RegexValidator(r"^[\w.:-]{1,100}=\d{1,9}(\.\d{1,4})?\Z", "NAME=AMOUNT, such as gpu=1.")


class PoolFields(Strict):
    """A pool's policy and launch template."""

    description = Text(required=False, allow_blank=True, max_length=2000)
    min_size = Whole(max_value=100_000, required=False)
    max_size = Whole(max_value=100_000, required=False)
    memory_mb = Whole(min_value=1, required=False)
    cpu_cores = Cores(required=False)
    token_budget = Whole(max_value=MAX_BIGINT, required=False)
    disk_space_mb = Whole(required=False)
    tools = Words(required=False)
    capabilities = Words(required=False)
    security_level = Level(SecurityLevel, required=False)
    isolation_levels = Levels(IsolationLevel, required=False)
    max_concurrent = Whole(min_value=1, max_value=1000, required=False)
    driver = serializers.ChoiceField(DRIVERS, required=False)
    driver_resources = Words(required=False)
    exec = Text(required=False, allow_blank=True, max_length=2000)
    secrets = Words(required=False)
    strategy = serializers.ChoiceField([v.value for v in Strategy], required=False)
    affinity_half_life_s = Seconds(min_value=1, max_value=30 * 86_400, required=False)
    share_half_life_s = Seconds(min_value=1, max_value=30 * 86_400, required=False)
    reserve_after_s = Seconds(min_value=0, max_value=30 * 86_400, required=False)
    max_bypass = Whole(min_value=1, required=False)
    queue_limit = Whole(min_value=1, required=False)
    project_queue_limit = Whole(min_value=1, required=False)
    suspicion_probation = Number(min_value=0.1, max_value=12, required=False, allow_null=True)
    suspicion_quarantine = Number(min_value=0.1, max_value=12, required=False, allow_null=True)
    quarantine_s = Seconds(min_value=1, max_value=30 * 86_400, required=False)

    def validate_driver_resources(self, words: list[str]) -> list[str]:
        """Return them; refuses what is not a name and an amount."""
        for word in words:
            _RESOURCE(word)
        return words

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a minimum above the maximum, whichever of the two is given."""
        pool = self.instance
        low = attrs.get("min_size", getattr(pool, "min_size", 0))
        high = attrs.get("max_size", getattr(pool, "max_size", 20))
        if low > high:
            raise serializers.ValidationError({"min_size": [f"Exceeds max_size, {high}."]})
        return attrs


class NewPool(PoolFields):
    """A pool of a new agent type."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME])


class NewEnrolmentToken(Strict):
    """A token for agents of a pool to enrol with."""

    uses = Whole(min_value=1, max_value=100_000, required=False, allow_null=True, default=1)
    expires_in_s = Seconds(
        min_value=1,
        max_value=365 * 86_400,
        required=False,
        allow_null=True,
        default=86_400,
    )
    name = Text(required=False, allow_blank=True, default="")


class NewToken(Strict):
    """A token for a person or an orchestrator."""

    scope = serializers.ChoiceField(
        [Scope.VIEWER.value, Scope.ORCHESTRATOR.value, Scope.OPERATOR.value]
    )
    name = Text(required=False, allow_blank=True, default="")
    expires_in_s = Seconds(
        min_value=1,
        max_value=3650 * 86_400,
        required=False,
        allow_null=True,
        default=None,
    )


# A name, the names below it, or either at one port; an IPv6 address stands in brackets.
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9._-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def _is_host(word: str) -> None:
    if not _HOST.fullmatch(word):
        raise serializers.ValidationError(f"{word!r} is no name, *.name or name:port.")


def _is_glob(word: str) -> None:
    if word.startswith("/") or ".." in word.split("/"):
        raise serializers.ValidationError(f"{word!r} is not below the workspace.")


class ProfileFields(Strict):
    """What may be changed of a security profile."""

    allowed_tools = Words(required=False)
    network_access = Level(NetworkAccess, required=False)
    file_access = Level(FileAccess, required=False)
    memory_mb = Whole(min_value=1, required=False)
    cpu_cores = Cores(required=False)
    allowed_hosts = Words(required=False)
    writable = Words(required=False)
    quarantine_after = Whole(min_value=1, required=False, allow_null=True)

    def validate_allowed_hosts(self, hosts: list[str]) -> list[str]:
        """Return the hosts in small letters; refuses what is none."""
        for host in hosts:
            _is_host(host)
        return [host.lower() for host in hosts]

    def validate_writable(self, globs: list[str]) -> list[str]:
        """Return the globs; refuses those that lead out of the workspace."""
        for glob in globs:
            _is_glob(glob)
        return globs


def pool_json(pool: Pool) -> dict[str, Any]:
    """Return a pool with its launch template."""
    template = pool.launch_template
    return {
        "id": str(pool.id),
        "agent_type": pool.agent_type,
        "description": pool.description,
        "min_size": pool.min_size,
        "max_size": pool.max_size,
        "template": {
            **template,
            "cpu_cores": float(pool.cpu_cores),
            "security_level": SecurityLevel(pool.security_level).name.lower(),
            "isolation_levels": [IsolationLevel(v).name.lower() for v in pool.isolation_levels],
            "driver": pool.driver,
            "driver_resources": pool.driver_resources,
            "exec": pool.exec,
            "secrets": pool.secrets,
        },
        "strategy": pool.strategy,
        "affinity_half_life_s": pool.affinity_half_life_s,
        "share_half_life_s": pool.share_half_life_s,
        "reserve_after_s": pool.reserve_after_s,
        "max_bypass": pool.max_bypass,
        "queue_limit": pool.queue_limit,
        "project_queue_limit": pool.project_queue_limit,
        "suspicion_probation": pool.suspicion_probation,
        "suspicion_quarantine": pool.suspicion_quarantine,
        "quarantine_s": pool.quarantine_s,
        "mean_service_s": round(pool.mean_service_s, 3),
        "generation": pool.generation,
        "created_at": pool.created_at,
        "updated_at": pool.updated_at,
    }


def profile_json(profile: SecurityProfile) -> dict[str, Any]:
    """Return a security profile."""
    return {
        "agent_type": profile.pk,
        "allowed_tools": profile.allowed_tools,
        "network_access": NetworkAccess(profile.network_access).name.lower(),
        "file_access": FileAccess(profile.file_access).name.lower(),
        "resource_limits": {
            "memory_mb": profile.memory_mb,
            "cpu_cores": float(profile.cpu_cores),
        },
        "allowed_hosts": profile.allowed_hosts,
        "writable": profile.writable,
        "quarantine_after": profile.quarantine_after,
        "version": profile.version,
        "updated_at": profile.updated_at,
    }


def credential_json(credential: Credential, *, secret: str | None = None) -> dict[str, Any]:
    """Return a token; its secret only when it was just made."""
    shown = {
        "id": str(credential.id),
        "scope": credential.scope,
        "name": credential.name,
        "hint": credential.hint,
        "agent_type": credential.pool_id,
        "uses_left": credential.uses_left,
        "created_at": credential.created_at,
        "created_by": credential.created_by,
        "expires_at": credential.expires_at,
        "revoked_at": credential.revoked_at,
    }
    return {**shown, "token": secret} if secret else shown


# -- events, logs, metrics -----------------------------------------------------------------------


def event_json(event: Event) -> dict[str, Any]:
    """Return an event as every stream carries it."""
    return {
        "seq": event.seq,
        "at": event.at.isoformat() if isinstance(event.at, datetime) else event.at,
        "kind": event.kind,
        "agent_type": event.agent_type,
        "agent_id": event.agent_id,
        "project": event.project,
        "request_id": _text(event.request_id),
        "lease_id": _text(event.lease_id),
        "actor": event.actor,
        "detail": event.detail,
    }


def chunk_json(chunk: LogChunk) -> dict[str, Any]:
    """Return some lines of a log."""
    return {"seq": chunk.id, "at": chunk.at, "stream": chunk.stream, "text": chunk.text}


def _text(value: UUID | None) -> str | None:
    return str(value) if value else None
