"""What agents may say of their work: heartbeats, use, logs, incidents, ends."""

from typing import Any

from rest_framework import serializers

from agentpool.registry.fields import (
    MAX_BIGINT,
    Choice,
    Cores,
    Flag,
    Number,
    Object,
    Seconds,
    Strict,
    Text,
    Whole,
    Words,
)
from agentpool.registry.states import (
    Outcome,
)
from balancing.services import security

MAX_LOG_CHUNKS = 200
MOST_INCIDENTS = 50
# No lease uses so many; sums over the leases of a day must fit their columns, whoever lies.
MOST_TOKENS = 10**12
# Of one heartbeat: leases, and how long it may have been on its way, seconds.
MOST_LEASES, LONGEST_AGE_S = 1000, 60


class Usage(Strict):
    """What the work has used so far; memory and disk in MB, money in USD."""

    memory_mb = Number(min_value=0, max_value=1e9, required=False, allow_null=True)
    cpu_cores = Number(min_value=0, max_value=1e5, required=False, allow_null=True)
    cpu_seconds = Number(min_value=0, max_value=1e12, required=False, allow_null=True)
    disk_space_mb = Number(min_value=0, max_value=1e9, required=False, allow_null=True)
    tokens_in = Whole(max_value=MOST_TOKENS, required=False, allow_null=True)
    tokens_out = Whole(max_value=MOST_TOKENS, required=False, allow_null=True)
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

    outcome = Choice(
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

    stream = Choice(["stdout", "stderr"])
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

    kind = Choice(security.KINDS)
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
