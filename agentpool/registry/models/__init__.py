"""All tables of agentpool, one file a noun."""

from agentpool.registry.models.agent import AGENT_ID, Agent, CapabilityClass
from agentpool.registry.models.credential import Credential, IdempotencyKey
from agentpool.registry.models.event import Event, EventNumber, RelayState
from agentpool.registry.models.isolation import LeaseIsolation
from agentpool.registry.models.launch import SCALING_ACTIONS, Launch, ScalingEvent
from agentpool.registry.models.learning import (
    AgentLearning,
    Calibration,
    LearningState,
    OutcomeDay,
    Outlook,
    PoolLearning,
)
from agentpool.registry.models.lease import Lease, LeaseOutcome, LockKey
from agentpool.registry.models.limit import LimitShard, ResourceLimit
from agentpool.registry.models.liveness import Liveness, Tick
from agentpool.registry.models.log import LogChunk, LogTotal
from agentpool.registry.models.optimizer import (
    OPTIMIZATION_STATUSES,
    Optimization,
    OptimizerPolicy,
)
from agentpool.registry.models.policy import MODES
from agentpool.registry.models.pool import TYPE_NAME, Pool
from agentpool.registry.models.profile import SecurityProfile
from agentpool.registry.models.rebalancing import (
    REBALANCING_OPEN,
    REBALANCING_STATUSES,
    RebalancePolicy,
    Rebalancing,
    UsageWatch,
)
from agentpool.registry.models.request import AFFINITIES, Request
from agentpool.registry.models.sample import MetricState, MetricTotal, PoolSample
from agentpool.registry.models.scaling import (
    SCALING_RULES,
    Announcement,
    ScalingDecision,
    ScalingPolicy,
    ScalingState,
)
from agentpool.registry.models.share import Share, ShareState

__all__ = [
    "AFFINITIES",
    "AGENT_ID",
    "MODES",
    "OPTIMIZATION_STATUSES",
    "REBALANCING_OPEN",
    "REBALANCING_STATUSES",
    "SCALING_ACTIONS",
    "SCALING_RULES",
    "TYPE_NAME",
    "Agent",
    "AgentLearning",
    "Announcement",
    "Calibration",
    "CapabilityClass",
    "Credential",
    "Event",
    "EventNumber",
    "IdempotencyKey",
    "Launch",
    "LearningState",
    "Lease",
    "LeaseIsolation",
    "LeaseOutcome",
    "LimitShard",
    "Liveness",
    "LockKey",
    "LogChunk",
    "LogTotal",
    "MetricState",
    "MetricTotal",
    "Optimization",
    "OptimizerPolicy",
    "OutcomeDay",
    "Outlook",
    "Pool",
    "PoolLearning",
    "PoolSample",
    "RebalancePolicy",
    "Rebalancing",
    "RelayState",
    "Request",
    "ResourceLimit",
    "ScalingDecision",
    "ScalingEvent",
    "ScalingPolicy",
    "ScalingState",
    "SecurityProfile",
    "Share",
    "ShareState",
    "Tick",
    "UsageWatch",
]
