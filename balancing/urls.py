"""Paths of balancing's doors below /api/agent-pool; those that can wait are the gateway's."""

from django.urls import path

from agentpool.registry import converters  # noqa: F401  (importing registers them)
from balancing import api, rebalance_api

# What is called for each lease comes first: paths are tried in order, the most wanted one first.
leases = [
    path("/leases/<uuid:lease_id>/release", api.LeaseRelease.as_view()),
    path("/leases", api.Leases.as_view()),
    path("/leases/<uuid:lease_id>", api.LeaseDetail.as_view()),
    path("/leases/<uuid:lease_id>/ack", api.LeaseAck.as_view()),
    path("/leases/<uuid:lease_id>/renew", api.LeaseRenew.as_view()),
    path("/leases/<uuid:lease_id>/usage", api.LeaseUsage.as_view()),
    path("/leases/<uuid:lease_id>/security", api.LeaseSecurity.as_view()),
    path("/leases/<uuid:lease_id>/park", api.LeasePark.as_view()),
    path("/leases/<uuid:lease_id>/resume", api.LeaseResume.as_view()),
    path("/leases/<uuid:lease_id>/resize", api.LeaseResize.as_view()),
]

urlpatterns = [
    path("", api.Agents.as_view()),
    path("/assign", api.Assign.as_view()),
    path("/requests/batch", api.RequestBatch.as_view()),
    path("/requests/<uuid:request_id>/explain", api.RequestExplain.as_view()),
    path("/resources", api.Resources.as_view()),
    path("/resources/limits", api.ResourceLimits.as_view()),
    path("/resources/limits/<uuid:limit_id>", api.ResourceLimitDetail.as_view()),
    path("/resources/rebalance", rebalance_api.Rebalance.as_view()),
    path("/resources/rebalance/history", rebalance_api.RebalanceHistory.as_view()),
    path("/resources/rebalance/policy", rebalance_api.RebalancePolicies.as_view()),
    path("/learning", api.Learning.as_view()),
    path("/learning/<agent_type:agent_type>", api.LearningOfPool.as_view()),
    path("/<agent_id:agent_id>/learning", api.LearningOfAgent.as_view()),
    path("/health/check", api.HealthCheck.as_view()),
    path("/<uuid:pool_id>", api.AgentDetail.as_view()),
    path("/<agent_id:agent_id>/status", api.AgentStatusDoor.as_view()),
    path("/<agent_id:agent_id>/health", api.AgentHealthDoor.as_view()),
    path("/<agent_id:agent_id>/heartbeat", api.HeartbeatDoor.as_view()),
    path("/<agent_id:agent_id>/release", api.AgentRelease.as_view()),
]
