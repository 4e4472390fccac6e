"""What callers may ask of the pool, and how requests, leases and offers are shown."""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from rest_framework import serializers

from agentpool.registry.models import (
    AFFINITIES,
    AGENT_ID,
    TYPE_NAME,
    Lease,
    LeaseIsolation,
    Request,
    ResourceLimit,
)
from agentpool.registry.serializers import (
    MAX_BIGINT,
    Cores,
    Flag,
    Level,
    Number,
    Object,
    Query,
    Seconds,
    Strict,
    Text,
    Whole,
    Words,
)
from agentpool.registry.states import (
    FileAccess,
    IsolationLevel,
    LeaseStatus,
    LimitLevel,
    NetworkAccess,
    Outcome,
    RequestStatus,
    SecurityLevel,
    Strategy,
)
from balancing import fit, queries
from balancing.explain import Explanation
from balancing.services import security
from balancing.services.heartbeats import Kept

MAX_LOG_CHUNKS = 200
MOST_INCIDENTS = 50
# Of one heartbeat: leases, and how long it may have been on its way, seconds.
MOST_LEASES, LONGEST_AGE_S = 1000, 60
_ENV_NAME = RegexValidator(r"^[A-Za-z_][A-Za-z0-9_]{0,99}\Z", "Not the name of a variable.")


class Requirements(Strict):
    """What an agent must have for a request; the seed's AgentRequirements and its defaults."""

    memory_mb = Whole(min_value=1, default=1024)
    min_memory_mb = Whole(min_value=1, required=False)
    cpu_cores = Cores(default=1)
    min_cpu_cores = Cores(required=False)
    token_budget = Whole(max_value=MAX_BIGINT, default=50_000)
    disk_space_mb = Whole(default=500)
    network_access = Flag(default=True)
    special_tools = Words(default=list)
    capabilities = serializers.ListField(
        child=serializers.JSONField(), max_length=100, default=list
    )
    labels = Object(default=dict)
    security_level = Level(SecurityLevel, default="standard")
    isolation_level = Level(IsolationLevel, default="process")

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Let minima follow the wish; read what is required of labels and what is preferred."""
        for amount in ("memory_mb", "cpu_cores"):
            least = attrs.setdefault(f"min_{amount}", attrs[amount])
            if least > attrs[amount]:
                raise serializers.ValidationError(
                    {f"min_{amount}": [f"Exceeds {amount}, {attrs[amount]}."]}
                )
        try:
            required, preferred = fit.rules_of(attrs["labels"], attrs["capabilities"])
        except fit.BadRule as bad:
            raise serializers.ValidationError({bad.field: [bad.message]}) from bad
        # What every agent's columns can be asked for directly; the rest is compared rule by rule.
        names = [r.name for r in required if r.kind == "capability" and r.op == "exists"]
        equal = {r.name: r.value for r in required if r.kind == "label" and r.op == "="}
        rest = [r for r in required if r.op != ("=" if r.kind == "label" else "exists")]
        attrs |= {
            "capabilities": names,
            "labels": equal,
            "rules": [fit.rule_json(rule) for rule in rest],
            "preferences": [
                {**fit.rule_json(rule), "weight": weight} for rule, weight in preferred
            ],
        }
        for name, enum in (
            ("security_level", SecurityLevel),
            ("isolation_level", IsolationLevel),
        ):
            if isinstance(attrs[name], str):  # the default, which no field has converted
                attrs[name] = enum[attrs[name].upper()].value
        return attrs


class Workspace(Strict):
    """Where the work happens: a git repository at a ref, or a folder on the agent's machine."""

    git = Text(required=False, max_length=2000)
    ref = Text(required=False, max_length=400)
    path = Text(required=False, max_length=2000)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse anything but exactly one of the two kinds."""
        if ("git" in attrs) == ("path" in attrs):
            raise serializers.ValidationError("Name either git (and ref) or path.")
        return attrs


class Payload(Strict):
    """What the agent shall run."""

    command = serializers.ListField(
        child=Text(max_length=10_000, allow_blank=True, trim_whitespace=False),
        max_length=500,
        required=False,
        default=list,
    )
    env = serializers.DictField(
        child=Text(max_length=10_000, allow_blank=True, trim_whitespace=False),
        required=False,
    )
    workspace = Workspace(required=False)
    secrets = Words(required=False)
    files = serializers.DictField(
        child=Text(max_length=100_000, allow_blank=True, trim_whitespace=False),
        required=False,
    )
    input = Object(required=False)

    def validate_env(self, value: dict[str, str]) -> dict[str, str]:
        """Refuse names that are no variables, and those that the runtime sets itself."""
        for name in value:
            _ENV_NAME(name)
            if name.startswith("AGENTPOOL_"):
                raise serializers.ValidationError(f"{name} is set by the runtime.")
        return value


class NewRequest(Strict):
    """A wish for one agent."""

    agent_type = Text(max_length=63, validators=[TYPE_NAME])
    project = Text()
    cycle_id = Text(required=False, allow_blank=True, default="")
    phase = Text(required=False, allow_blank=True, default="")
    story_type = Text(required=False, allow_blank=True, default="")
    tags = Words(default=list)
    paths = Words(default=list, max_length=1000)
    priority = Whole(max_value=100, default=50)
    requirements = Requirements(required=False)
    strategy = serializers.ChoiceField([v.value for v in Strategy], required=False, default="")
    preferred_agent = Text(
        required=False,
        allow_blank=True,
        default="",
        max_length=128,
        validators=[AGENT_ID],
    )
    affinity = serializers.ChoiceField(AFFINITIES, default="soft")
    avoid_agents = Words(default=list)
    lock_keys = Words(default=list, max_length=20)
    expected_duration_s = Seconds(min_value=0, max_value=1e7, required=False, allow_null=True)
    ttl_s = Seconds(min_value=1, max_value=30 * 86_400, default=300)
    wait_s = Seconds(min_value=0, max_value=60, default=0)
    allow_future = Flag(default=False)
    duration_limit_s = Seconds(min_value=1, max_value=7 * 86_400, required=False)
    payload = Payload(required=False, allow_null=True, default=None)


class Batch(Strict):
    """Several requests at once."""

    requests = serializers.ListField(child=NewRequest(), min_length=1, max_length=500)
    gang = Flag(default=False)


class NewLimit(Strict):
    """A resource limit as a whole: what is not named is not limited."""

    level = serializers.ChoiceField([v.value for v in LimitLevel])
    name = Text(required=False, allow_blank=True, default="")
    memory_mb = Whole(max_value=MAX_BIGINT, required=False, allow_null=True, default=None)
    cpu_cores = Cores(max_value=999_999, required=False, allow_null=True, default=None)
    token_budget = Whole(max_value=MAX_BIGINT, required=False, allow_null=True, default=None)
    disk_space_mb = Whole(max_value=MAX_BIGINT, required=False, allow_null=True, default=None)
    network_bandwidth_mbps = Number(
        min_value=0, max_value=1e9, required=False, allow_null=True, default=None
    )
    max_memory_mb = Whole(min_value=1, required=False, allow_null=True, default=None)
    max_cpu_cores = Cores(required=False, allow_null=True, default=None)
    max_token_budget = Whole(max_value=MAX_BIGINT, required=False, allow_null=True, default=None)
    max_disk_space_mb = Whole(required=False, allow_null=True, default=None)
    min_memory_mb = Whole(min_value=1, required=False, allow_null=True, default=None)
    min_cpu_cores = Cores(required=False, allow_null=True, default=None)
    weight = Number(min_value=0.01, max_value=1000, required=False, default=1)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a name where there is none, its lack, and a least above the most."""
        if (attrs["level"] == LimitLevel.INSTALLATION) != (attrs["name"] == ""):
            raise serializers.ValidationError(
                {"name": ["The pool or project; empty for the installation."]}
            )
        for amount in ("memory_mb", "cpu_cores"):
            least, most = attrs[f"min_{amount}"], attrs[f"max_{amount}"]
            if least is not None and most is not None and least > most:
                raise serializers.ValidationError({f"min_{amount}": [f"Exceeds the most, {most}."]})
        return attrs


class PriorityChange(Strict):
    """The new priority of a waiting request; a higher one is served first."""

    priority = Whole(max_value=100)
    note = Text(required=False, allow_blank=True, max_length=400, default="")


class Reason(serializers.Serializer[Any]):
    """Why something is deleted."""

    reason = Text(required=False, allow_blank=True, default="", max_length=400)


class RequestQuery(Query):
    """Filters of the list of requests."""

    status = serializers.ChoiceField([v.value for v in RequestStatus], required=False)
    agent_type = serializers.CharField(max_length=63, required=False)
    project = serializers.CharField(max_length=200, required=False)
    cycle_id = serializers.CharField(max_length=200, required=False)


class LearningQuery(serializers.Serializer[Any]):
    """How far back errors of predictions are counted."""

    days = serializers.IntegerField(min_value=1, max_value=365, required=False, default=14)


class LeaseQuery(Query):
    """Filters of the list of leases."""

    status = serializers.ChoiceField([v.value for v in LeaseStatus], required=False)
    agent_type = serializers.CharField(max_length=63, required=False)
    project = serializers.CharField(max_length=200, required=False)
    cycle_id = serializers.CharField(max_length=200, required=False)
    agent_id = serializers.CharField(max_length=128, required=False)


class WaitQuery(serializers.Serializer[Any]):
    """How long an answer may take, and what the caller has seen already."""

    wait = Seconds(min_value=0, max_value=60, required=False)
    seen = serializers.ChoiceField([v.value for v in RequestStatus], required=False)


class Wait(Strict):
    """The same in a message of the gateway."""

    wait_s = Seconds(min_value=0, max_value=60, required=False, default=0)
    seen = serializers.ChoiceField([v.value for v in RequestStatus], required=False)


class LogQuery(WaitQuery):
    """Where in a log to begin."""

    after = serializers.IntegerField(min_value=0, max_value=MAX_BIGINT, required=False, default=0)


class Usage(Strict):
    """What the work has used so far; memory and disk in MB, money in USD."""

    memory_mb = Number(min_value=0, max_value=1e9, required=False, allow_null=True)
    cpu_cores = Number(min_value=0, max_value=1e5, required=False, allow_null=True)
    cpu_seconds = Number(min_value=0, max_value=1e12, required=False, allow_null=True)
    disk_space_mb = Number(min_value=0, max_value=1e9, required=False, allow_null=True)
    tokens_in = Whole(max_value=MAX_BIGINT, required=False, allow_null=True)
    tokens_out = Whole(max_value=MAX_BIGINT, required=False, allow_null=True)
    cost_usd = Number(min_value=0, max_value=100_000, required=False, allow_null=True)


class Progress(Strict):
    """How far the work is: a counter that only means something by moving."""

    counter = Whole(max_value=MAX_BIGINT, required=False)
    phase = Text(required=False, allow_blank=True)
    note = Text(required=False, allow_blank=True, max_length=400)


class Fenced(Strict):
    """A write by a lease's holder."""

    fencing_token = Whole(min_value=1, max_value=MAX_BIGINT)


class UsageReport(Fenced):
    """Use and progress of one lease."""

    usage = Usage(required=False)
    progress = Progress(required=False)


class ParkLease(Fenced):
    """Why the work waits."""

    reason = Text(required=False, allow_blank=True, default="", max_length=400)


class ResizeLease(Fenced):
    """What a lease shall reserve from now on; what is not named stays."""

    memory_mb = Whole(min_value=1, required=False)
    cpu_cores = Cores(required=False)
    token_budget = Whole(max_value=MAX_BIGINT, required=False)
    disk_space_mb = Whole(required=False)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Refuse a call that changes nothing."""
        if len(attrs) < 2:
            raise serializers.ValidationError(
                "Name what changes: memory_mb, cpu_cores, token_budget or disk_space_mb."
            )
        return attrs


class Ended(Strict):
    """How the work went."""

    outcome = serializers.ChoiceField(
        [v.value for v in Outcome if v is not Outcome.LOST],
        default=Outcome.SUCCESS.value,
    )
    error = Text(required=False, allow_blank=True, default="", max_length=4000)
    usage = Usage(required=False)
    result = Object(required=False, allow_null=True, default=None)
    retry = Flag(default=False)


class ReleaseLease(Fenced, Ended):
    """The end of one lease."""


class ReleaseAgent(Ended):
    """The end of one of an agent's leases, or of all of them."""

    lease_id = serializers.UUIDField(required=False)
    project = Text(required=False)
    fencing_token = Whole(min_value=1, max_value=MAX_BIGINT, required=False)


class LogText(Text):
    """What a process printed: any character, NUL shown as the replacement character."""

    def __init__(self, **options: Any) -> None:
        super().__init__(max_length=200_000, allow_blank=True, trim_whitespace=False, **options)

    def to_internal_value(self, data: Any) -> str:
        """Return text that Postgres can store."""
        if isinstance(data, str):
            data = data.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
        return super().to_internal_value(data)


class Chunk(Strict):
    """Some lines of one stream."""

    stream = serializers.ChoiceField(["stdout", "stderr"])
    text = LogText()


class LogChunks(Fenced):
    """What the work printed since the last time."""

    chunks = serializers.ListField(child=Chunk(), max_length=MAX_LOG_CHUNKS)


class Enforcement(Strict):
    """How the work is isolated."""

    tier = Text(max_length=40)
    enforced = Words()
    declared = Words()
    policy = Object(required=False, default=dict)


class Incident(Strict):
    """Something that a sandbox refused, or ended the work for."""

    kind = serializers.ChoiceField(security.KINDS)
    detail = Text(max_length=400, allow_blank=True, default="")


class SecurityReport(Fenced):
    """What the runtime tells of a lease's sandbox."""

    enforcement = Enforcement(required=False)
    incidents = serializers.ListField(child=Incident(), max_length=MOST_INCIDENTS, required=False)


class HeartbeatLease(Strict):
    """One lease in a heartbeat."""

    lease_id = serializers.UUIDField()
    fencing_token = Whole(min_value=1, max_value=MAX_BIGINT)
    progress = Progress(required=False)
    usage = Usage(required=False)


class Throttled(Strict):
    """A model provider that answered 429."""

    provider = Text()
    retry_after_s = Seconds(min_value=0, max_value=86_400)


class HeartbeatBody(Strict):
    """An agent's sign of life."""

    incarnation = Whole(min_value=1, required=False)
    leases = serializers.ListField(child=HeartbeatLease(), max_length=MOST_LEASES, default=list)
    draining = Flag(default=False)
    throttled = serializers.ListField(child=Throttled(), max_length=50, default=list)
    age_s = Seconds(min_value=0, max_value=LONGEST_AGE_S, default=0)


def request_row(fields: dict[str, Any], *, requested_by: str) -> Request:
    """Return (unsaved) the request that checked fields ask for."""
    asked = dict(fields)
    asked.pop("wait_s")
    needs = asked.pop("requirements", None) or _defaults()
    limit = asked.pop("duration_limit_s", None) or settings.HARD_END_S
    return Request(
        pool_id=asked.pop("agent_type"),
        requested_by=requested_by,
        duration_limit_s=limit,
        **needs,
        **asked,
    )


def _defaults() -> dict[str, Any]:
    form = Requirements(data={})
    form.is_valid(raise_exception=True)
    return dict(form.validated_data)


# -- shown ---------------------------------------------------------------------------------------


def request_json(request: Request, lease: Lease | None, *, at: datetime) -> dict[str, Any]:
    """Return a request; `lease` is its newest one, shown while it lives or as its end."""
    waiting = request.status == RequestStatus.WAITING
    return {
        "id": str(request.id),
        "agent_type": request.agent_type,
        "project": request.project,
        "cycle_id": request.cycle_id,
        "phase": request.phase,
        "story_type": request.story_type,
        "tags": request.tags,
        "paths": request.paths,
        "priority": request.priority,
        "strategy": request.strategy,
        "requirements": _requirements_json(request),
        "preferred_agent": request.preferred_agent,
        "affinity": request.affinity,
        "avoid_agents": request.avoid_agents,
        "lock_keys": request.lock_keys,
        "status": request.status,
        "reason": request.reason,
        "attempts": request.attempts,
        "unsatisfiable": request.unsatisfiable,
        "urgent_at": request.urgent_at,
        "not_before": request.not_before,
        "outcome": request.outcome,
        "error": request.error,
        "result": request.result,
        "lease": lease_json(lease) if lease and not waiting else None,
        "created_at": request.created_at,
        "granted_at": request.granted_at,
        "finished_at": request.finished_at,
        "expires_at": request.expires_at,
        "waited_s": round(
            ((at if waiting else _answered_at(request, at)) - request.queued_at).total_seconds(),
            3,
        ),
    }


def explanation_json(found: Explanation) -> dict[str, Any]:
    """Return why a request got its agent, or why it waits."""
    nearest = found.nearest
    return {
        "request_id": str(found.request.id),
        "status": found.request.status,
        "code": found.code,
        "reason": found.reason,
        "filters": [vars(each) for each in found.filters],
        "candidates": list(found.candidates),
        "chosen": found.chosen,
        "runner_up": found.runner_up,
        "position": found.position,
        "expected_wait_s": found.expected_wait_s,
        "nearest": nearest
        and {
            "agent": nearest.who,
            "lacks": [{"name": one.name, "message": one.sentence} for one in nearest.lacks],
        },
        "timeline": [vars(each) for each in found.timeline],
    }


def _answered_at(request: Request, at: datetime) -> datetime:
    return request.granted_at or request.finished_at or at


def _requirements_json(request: Request) -> dict[str, Any]:
    return {
        "memory_mb": request.memory_mb,
        "min_memory_mb": request.min_memory_mb,
        "cpu_cores": float(request.cpu_cores),
        "min_cpu_cores": float(request.min_cpu_cores),
        "token_budget": request.token_budget,
        "disk_space_mb": request.disk_space_mb,
        "network_access": request.network_access,
        "special_tools": request.special_tools,
        "capabilities": request.capabilities,
        "labels": request.labels,
        "rules": request.rules,
        "preferences": request.preferences,
        "security_level": SecurityLevel(request.security_level).name.lower(),
        "isolation_level": IsolationLevel(request.isolation_level).name.lower(),
    }


def limit_json(limit: ResourceLimit, used: queries.Amounts) -> dict[str, Any]:
    """
    Return a limit with what is used of it.

    free is below 0 while a limit that was lowered waits for leases to end; utilisation: the share,
    0-1, of the amount that is used most, null without amounts.
    """
    fields = [f.name for f in ResourceLimit._meta.fields if f.name not in _LIMIT_HIDDEN]
    given = {name: v for name in queries.AMOUNTS if (v := getattr(limit, name)) is not None}
    taken = {name: used.get(name, 0) for name in given}
    shares = [float(taken[name]) / float(most) for name, most in given.items() if most]
    return {
        "id": str(limit.id),
        **{name: _number(getattr(limit, name)) for name in fields},
        "used": _numbers(taken),
        "free": _numbers({name: most - taken[name] for name, most in given.items()}),
        "utilisation": round(max(shares), 4) if shares else None,
        "overdrawn": any(taken[name] > most for name, most in given.items()),
        "generation": limit.generation,
        "updated_at": limit.updated_at,
    }


_LIMIT_HIDDEN = frozenset({"id", "is_overdrawn", "reserved_for", "generation", "updated_at"})


def resources_json(found: queries.Resources) -> dict[str, Any]:
    """Return what there is, what is reserved of it, and the limits on it."""
    types = sorted({*found.totals, *(agent_type for agent_type, _ in found.used)})
    projects = sorted({project for _, project in found.used})
    return {
        "total": _all(found.totals.values(), "agents", "slots"),
        "used": _all(found.used.values(), "leases"),
        "by_type": [
            {
                "agent_type": name,
                "total": _all([found.totals.get(name, {})], "agents", "slots"),
                "used": _all((v for (t, _), v in found.used.items() if t == name), "leases"),
            }
            for name in types
        ],
        "by_project": [
            {
                "project": name,
                "used": _all((v for (_, p), v in found.used.items() if p == name), "leases"),
            }
            for name in projects
        ],
        "limits": [limit_json(limit, found.used_under(limit)) for limit in found.limits],
    }


def _all(rows: Iterable[queries.Amounts], *counts: str) -> dict[str, Any]:
    nothing = dict.fromkeys((*counts, *queries.AMOUNTS[:4]), 0)
    return _numbers({**nothing, **queries.summed(rows)})


def _numbers(amounts: queries.Amounts) -> dict[str, Any]:
    return {name: _number(value) for name, value in amounts.items()}


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value


def lease_json(lease: Lease) -> dict[str, Any]:
    """Return a lease."""
    return {
        "id": str(lease.id),
        "request_id": str(lease.request_id),
        "agent": {"agent_id": lease.agent.agent_id, "endpoint": lease.agent.endpoint},
        "agent_type": lease.agent_type,
        "project": lease.project,
        "cycle_id": lease.cycle_id,
        "phase": lease.phase,
        "attempt": lease.attempt,
        "status": lease.status,
        "fencing_token": lease.fencing_token,
        "grant": {
            "memory_mb": lease.memory_mb,
            "cpu_cores": float(lease.cpu_cores),
            "token_budget": lease.token_budget,
            "disk_space_mb": lease.disk_space_mb,
            "network_bandwidth_mbps": lease.network_bandwidth_mbps,
            "network": NetworkAccess(lease.network).name.lower(),
        },
        "usage": {
            "memory_mb": lease.measured_memory_mb,
            "peak_memory_mb": lease.peak_memory_mb,
            "cpu_cores": lease.measured_cpu_cores,
            "cpu_seconds": lease.cpu_seconds,
            "disk_space_mb": lease.measured_disk_space_mb,
            "tokens_in": lease.tokens_in,
            "tokens_out": lease.tokens_out,
            "cost_usd": float(lease.cost_usd),
        },
        "progress": {
            "counter": lease.progress_counter,
            "phase": lease.progress_phase,
            "note": lease.progress_note,
            "at": lease.progress_at,
        },
        "offered_at": lease.offered_at,
        "acked_at": lease.acked_at,
        "acquired_at": lease.acquired_at,
        "expires_at": lease.expires_at,
        "hard_end_at": lease.hard_end_at,
        "released_at": lease.released_at,
        "waited_s": round(lease.waited_s, 3),
        "outcome": lease.outcome or None,
        "error": lease.error,
        "decision": lease.decision,
    }


def offer_json(lease: Lease) -> dict[str, Any]:
    """Return what an agent is asked to do: the lease, its payload, and the time to say yes."""
    return {
        **lease_json(lease),
        "payload": lease.request.payload,
        "requirements": _requirements_json(lease.request),
        "profile": _profile_json(lease),
        "pool_secrets": lease.pool.secrets,
        "ack_within_s": settings.OFFER_S,
    }


def _profile_json(lease: Lease) -> dict[str, Any]:
    """Return what the agent's type allows; resource ceilings are in the grant already."""
    profile = lease.pool.profile
    return {
        "version": profile.version,
        "allowed_tools": profile.allowed_tools,
        "network_access": NetworkAccess(profile.network_access).name.lower(),
        "file_access": FileAccess(profile.file_access).name.lower(),
        "allowed_hosts": profile.allowed_hosts,
        "writable": profile.writable,
    }


def isolation_json(row: LeaseIsolation | None) -> dict[str, Any] | None:
    """Return how a lease's work is isolated, None: nobody has reported it."""
    if row is None:
        return None
    return {
        "tier": row.tier,
        "enforced": row.enforced,
        "declared": row.declared,
        "policy": row.policy,
        "at": row.at,
    }


def kept_lease_json(lease: Kept) -> dict[str, Any]:
    """Return a lease as a heartbeat's answer names it."""
    return {
        "lease_id": str(lease.id),
        "fencing_token": lease.fencing_token,
        "status": lease.status,
        "expires_at": lease.expires_at,
        "expires_in_s": round(lease.expires_in_s, 3),
    }
