"""
The words for what an agent, a request or a lease is, and the moves that are legal.

Plain Python: services, SQL constraints, docs and tests are all held against these tables.
"""

from collections.abc import Mapping
from enum import IntEnum, StrEnum


class AgentStatus(StrEnum):
    """What the machine is doing; moved by services only."""

    STARTING = "starting"
    STANDBY = "standby"
    IDLE = "idle"
    BUSY = "busy"
    DRAINING = "draining"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    RETIRED = "retired"


class AgentHealth(StrEnum):
    """What a person or a check thinks of the agent, apart from its status."""

    GOOD = "good"
    UNKNOWN = "unknown"
    PROBATION = "probation"
    QUARANTINED = "quarantined"
    MAINTENANCE = "maintenance"


class AgentWish(StrEnum):
    """What somebody asked of an agent last, whatever its status is now."""

    WORK = "work"
    DRAIN = "drain"
    STANDBY = "standby"


class RequestStatus(StrEnum):
    """Where somebody's wish for an agent stands."""

    WAITING = "waiting"
    GRANTED = "granted"
    FINISHED = "finished"
    FAILED = "failed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REFUSED = "refused"


class LeaseStatus(StrEnum):
    """Where the right to use one slot of one agent stands."""

    OFFERED = "offered"
    ACTIVE = "active"
    PARKED = "parked"
    RELEASED = "released"
    EXPIRED = "expired"
    LOST = "lost"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """How the work under a lease ended, as far as anybody can tell."""

    SUCCESS = "success"
    FAILURE = "failure"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    LOST = "lost"


class LaunchStatus(StrEnum):
    """How far the start of an agent by a scaling driver has come."""

    INTENDED = "intended"
    STARTED = "started"
    FAILED = "failed"
    STOPPING = "stopping"
    STOPPED = "stopped"


class SecurityLevel(IntEnum):
    """How much an agent may be trusted with; a higher one satisfies a lower one."""

    LOW = 1
    STANDARD = 2
    HIGH = 3
    CRITICAL = 4


class IsolationLevel(IntEnum):
    """How far the work is kept apart from its host; a stronger one satisfies a weaker one."""

    PROCESS = 1
    CONTAINER = 2
    VIRTUAL_MACHINE = 3


class NetworkAccess(IntEnum):
    """What the work may reach; `test_only` is the loopback of its own environment."""

    NONE = 0
    TEST_ONLY = 1
    LIMITED = 2
    FULL = 3


class FileAccess(IntEnum):
    """What the work may write."""

    READ_ONLY = 0
    READ_WRITE_TESTS = 1
    READ_WRITE_SOURCE = 2
    FULL = 3


class Strategy(StrEnum):
    """How an agent is chosen among those that fit; `balancing.scoring` has the formulas."""

    ROUND_ROBIN = "round_robin"
    LEAST_LOADED = "least_loaded"
    WORKLOAD_AWARE = "workload_aware"
    PREDICTIVE = "predictive"
    LEARNT = "learnt"
    BEST_OF_K = "best_of_k"
    BIN_PACK = "bin_pack"


class LimitLevel(StrEnum):
    """Whom a resource limit binds."""

    INSTALLATION = "installation"
    POOL = "pool"
    PROJECT = "project"


class Scope(StrEnum):
    """What the holder of a credential may call."""

    VIEWER = "viewer"
    ORCHESTRATOR = "orchestrator"
    OPERATOR = "operator"
    AGENT = "agent"
    ENROLMENT = "enrolment"


# Work is placed only on agents in these, with a free slot.
PLACEABLE_STATUS = frozenset({AgentStatus.IDLE, AgentStatus.BUSY})
PLACEABLE_HEALTH = frozenset({AgentHealth.GOOD, AgentHealth.UNKNOWN, AgentHealth.PROBATION})

# These leases hold their agent's slot; a parked lease lives on without one.
HOLDING = frozenset({LeaseStatus.OFFERED, LeaseStatus.ACTIVE})
LIVE = HOLDING | {LeaseStatus.PARKED}

AGENT_MOVES: Mapping[AgentStatus, frozenset[AgentStatus]] = {
    AgentStatus.STARTING: frozenset(
        {AgentStatus.IDLE, AgentStatus.STANDBY, AgentStatus.LOST, AgentStatus.RETIRED}
    ),
    AgentStatus.STANDBY: frozenset(
        {AgentStatus.IDLE, AgentStatus.UNREACHABLE, AgentStatus.RETIRED}
    ),
    AgentStatus.IDLE: frozenset(
        {
            AgentStatus.BUSY,
            AgentStatus.STANDBY,
            AgentStatus.DRAINING,
            AgentStatus.UNREACHABLE,
            AgentStatus.RETIRED,
        }
    ),
    AgentStatus.BUSY: frozenset(
        {
            AgentStatus.IDLE,
            AgentStatus.DRAINING,
            AgentStatus.UNREACHABLE,
            AgentStatus.RETIRED,
        }
    ),
    AgentStatus.DRAINING: frozenset(
        {
            AgentStatus.IDLE,
            AgentStatus.BUSY,
            AgentStatus.UNREACHABLE,
            AgentStatus.RETIRED,
        }
    ),
    AgentStatus.UNREACHABLE: frozenset(
        {
            AgentStatus.IDLE,
            AgentStatus.BUSY,
            AgentStatus.STANDBY,
            AgentStatus.DRAINING,
            AgentStatus.LOST,
            AgentStatus.RETIRED,
        }
    ),
    AgentStatus.LOST: frozenset({AgentStatus.IDLE, AgentStatus.RETIRED}),
    AgentStatus.RETIRED: frozenset({AgentStatus.IDLE}),
}

REQUEST_MOVES: Mapping[RequestStatus, frozenset[RequestStatus]] = {
    RequestStatus.WAITING: frozenset(
        {
            RequestStatus.GRANTED,
            RequestStatus.TIMED_OUT,
            RequestStatus.CANCELLED,
            RequestStatus.FAILED,
        }
    ),
    RequestStatus.GRANTED: frozenset(
        {
            RequestStatus.WAITING,
            RequestStatus.FINISHED,
            RequestStatus.FAILED,
            RequestStatus.CANCELLED,
        }
    ),
    RequestStatus.FINISHED: frozenset(),
    RequestStatus.FAILED: frozenset(),
    RequestStatus.TIMED_OUT: frozenset(),
    RequestStatus.CANCELLED: frozenset(),
    RequestStatus.REFUSED: frozenset(),
}

LEASE_MOVES: Mapping[LeaseStatus, frozenset[LeaseStatus]] = {
    LeaseStatus.OFFERED: frozenset(
        {
            LeaseStatus.ACTIVE,
            LeaseStatus.RELEASED,
            LeaseStatus.EXPIRED,
            LeaseStatus.LOST,
            LeaseStatus.CANCELLED,
        }
    ),
    LeaseStatus.ACTIVE: frozenset(
        {
            LeaseStatus.PARKED,
            LeaseStatus.RELEASED,
            LeaseStatus.EXPIRED,
            LeaseStatus.LOST,
            LeaseStatus.CANCELLED,
        }
    ),
    LeaseStatus.PARKED: frozenset(
        {
            LeaseStatus.ACTIVE,
            LeaseStatus.RELEASED,
            LeaseStatus.EXPIRED,
            LeaseStatus.LOST,
            LeaseStatus.CANCELLED,
        }
    ),
    LeaseStatus.RELEASED: frozenset(),
    LeaseStatus.EXPIRED: frozenset(),
    LeaseStatus.LOST: frozenset(),
    LeaseStatus.CANCELLED: frozenset(),
}

LAUNCH_MOVES: Mapping[LaunchStatus, frozenset[LaunchStatus]] = {
    LaunchStatus.INTENDED: frozenset(
        {LaunchStatus.STARTED, LaunchStatus.FAILED, LaunchStatus.STOPPED}
    ),
    LaunchStatus.STARTED: frozenset({LaunchStatus.STOPPING, LaunchStatus.STOPPED}),
    LaunchStatus.STOPPING: frozenset({LaunchStatus.STOPPED}),
    LaunchStatus.FAILED: frozenset(),
    LaunchStatus.STOPPED: frozenset(),
}
