"""What callers may say about agents, pools and tokens."""

import re
from importlib.metadata import entry_points
from typing import Any

from django.core.validators import RegexValidator
from rest_framework import serializers

from agentpool.registry.fields import (
    MAX_BIGINT,
    Choice,
    Cores,
    Labels,
    Level,
    Levels,
    Number,
    Query,
    Seconds,
    Strict,
    Text,
    Whole,
    Words,
)
from agentpool.registry.models import AGENT_ID, TYPE_NAME
from agentpool.registry.states import (
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
# How far ahead a drain's deadline may be, seconds.
LONGEST_DRAIN_S = 30 * 86_400


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
        """Refuse the path's own words, and what people and tokens are called in events."""
        if value in RESERVED_IDS:
            raise serializers.ValidationError("That word is part of the interface's paths.")
        if value.startswith(("user:", "token:")):
            raise serializers.ValidationError("Names of people and tokens begin so.")
        return value


class AgentQuery(Query):
    """Filters of the list of agents."""

    agent_type = serializers.CharField(max_length=63, required=False)
    status = Choice([v.value for v in AgentStatus], required=False)
    health = Choice([v.value for v in AgentHealth], required=False)
    project = serializers.CharField(max_length=200, required=False)
    capability = serializers.CharField(max_length=200, required=False)
    label = serializers.RegexField(  # type: ignore[assignment]
        r"^[A-Za-z0-9._/-]{1,100}(=.{0,200})?\Z", required=False
    )
    search = serializers.CharField(max_length=200, required=False)
    ordering = Choice(
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

    status = Choice([v.value for v in AgentStatus])
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

    health = Choice(
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


# -- pools, tokens and profiles ------------------------------------------------------------------


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
    driver = Choice(DRIVERS, required=False)
    driver_resources = Words(required=False)
    exec = Text(required=False, allow_blank=True, max_length=2000)
    secrets = Words(required=False)
    strategy = Choice([v.value for v in Strategy], required=False)
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

    scope = Choice([Scope.VIEWER.value, Scope.ORCHESTRATOR.value, Scope.OPERATOR.value])
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
