"""The fields that callers fill in, as typed dictionaries."""

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


class Requirements(TypedDict, total=False):
    """What an agent must have, and what the lease shall reserve of it."""

    memory_mb: int
    min_memory_mb: int
    cpu_cores: float
    token_budget: int
    disk_space_mb: int
    network_access: bool
    special_tools: Sequence[str]
    capabilities: Sequence[str]
    labels: Mapping[str, Any]
    security_level: str
    isolation_level: str


class Payload(TypedDict, total=False):
    """What the agent shall run; without one the orchestrator talks to the agent itself."""

    command: Sequence[str]
    env: Mapping[str, str]
    workspace: Mapping[str, str]
    secrets: Sequence[str]
    files: Mapping[str, str]


class Wish(TypedDict, total=False):
    """The fields of a request beside its agent type and project."""

    cycle_id: str
    phase: str
    story_type: str
    tags: Sequence[str]
    paths: Sequence[str]
    priority: int
    requirements: Requirements
    strategy: str
    preferred_agent: str
    affinity: str
    avoid_agents: Sequence[str]
    lock_keys: Sequence[str]
    expected_duration_s: float
    ttl_s: float
    allow_future: bool
    duration_limit_s: float
    payload: Payload


class BatchedWish(Wish):
    """One request of a batch."""

    agent_type: str
    project: str


class Usage(TypedDict, total=False):
    """What the work used so far."""

    memory_mb: float
    cpu_cores: float
    cpu_seconds: float
    disk_space_mb: float
    tokens_in: int
    tokens_out: int
    cost_usd: float


class Registration(TypedDict, total=False):
    """What an agent says about itself, beside its id and type."""

    name: str
    capabilities: Sequence[str]
    tools: Sequence[str]
    labels: Mapping[str, Any]
    max_concurrent: int
    memory_mb: int
    cpu_cores: float
    token_budget: int
    disk_space_mb: int
    security_level: str
    isolation_levels: Sequence[str]
    provider: str
    endpoint: str
    version: str
    host: str


class AgentFilter(TypedDict, total=False):
    """Which agents a list shall show; `next` is the cursor of a page."""

    agent_type: str
    status: str
    health: str
    project: str
    capability: str
    label: str
    search: str
    ordering: str
    limit: int
    next: str


class LeaseFilter(TypedDict, total=False):
    """Which leases a list shall show."""

    status: str
    project: str
    cycle_id: str
    agent_id: str
    limit: int
    next: str


class RequestFilter(TypedDict, total=False):
    """Which requests a list shall show."""

    status: str
    project: str
    cycle_id: str
    agent_type: str
    limit: int
    next: str


class Progress(TypedDict, total=False):
    """How far the work is: a counter that grows, the phase it is in, a note for people."""

    counter: int
    phase: str
    note: str


class LeaseReport(TypedDict):
    """One lease in a heartbeat."""

    lease_id: str
    fencing_token: int
    progress: NotRequired[Progress]
    usage: NotRequired[Usage]
