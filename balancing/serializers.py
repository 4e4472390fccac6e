"""What callers may ask of the pool."""

from typing import Any

from django.conf import settings
from django.core.validators import RegexValidator
from rest_framework import serializers

from agentpool.registry.fields import (
    MAX_BIGINT,
    Choice,
    Cores,
    Flag,
    Level,
    Number,
    Object,
    Query,
    Seconds,
    Strict,
    Text,
    Value,
    Whole,
    Words,
    check_storable,
)
from agentpool.registry.models import (
    AFFINITIES,
    AGENT_ID,
    TYPE_NAME,
    Request,
)
from agentpool.registry.states import (
    IsolationLevel,
    LeaseStatus,
    LimitLevel,
    RequestStatus,
    SecurityLevel,
    Strategy,
)
from balancing import fit

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
    capabilities = serializers.ListField(child=Value(), max_length=100, default=list)
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

    def validate_files(self, value: dict[str, str]) -> dict[str, str]:
        """Refuse names that cannot be stored; their texts are checked one by one."""
        check_storable(list(value))
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
    strategy = Choice([v.value for v in Strategy], required=False, default="")
    preferred_agent = Text(
        required=False,
        allow_blank=True,
        default="",
        max_length=128,
        validators=[AGENT_ID],
    )
    affinity = Choice(AFFINITIES, default="soft")
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

    level = Choice([v.value for v in LimitLevel])
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


class Removal(Reason):
    """How an agent is retired: whether its leases are cancelled first."""

    force = serializers.BooleanField(required=False, default=False)


class RequestQuery(Query):
    """Filters of the list of requests."""

    status = Choice([v.value for v in RequestStatus], required=False)
    agent_type = serializers.CharField(max_length=63, required=False)
    project = serializers.CharField(max_length=200, required=False)
    cycle_id = serializers.CharField(max_length=200, required=False)


class LearningQuery(serializers.Serializer[Any]):
    """How far back errors of predictions are counted."""

    days = serializers.IntegerField(min_value=1, max_value=365, required=False, default=14)


class LeaseQuery(Query):
    """Filters of the list of leases."""

    status = Choice([v.value for v in LeaseStatus], required=False)
    agent_type = serializers.CharField(max_length=63, required=False)
    project = serializers.CharField(max_length=200, required=False)
    cycle_id = serializers.CharField(max_length=200, required=False)
    agent_id = serializers.CharField(max_length=128, required=False)


class WaitQuery(serializers.Serializer[Any]):
    """How long an answer may take, and what the caller has seen already."""

    wait = Seconds(min_value=0, max_value=60, required=False)
    seen = Choice([v.value for v in RequestStatus], required=False)


class Wait(Strict):
    """The same in a message of the gateway."""

    wait_s = Seconds(min_value=0, max_value=60, required=False, default=0)
    seen = Choice([v.value for v in RequestStatus], required=False)


class LogQuery(WaitQuery):
    """Where in a log to begin."""

    after = serializers.IntegerField(min_value=0, max_value=MAX_BIGINT, required=False, default=0)


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
