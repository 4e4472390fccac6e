"""Paths of balancing's doors below /api/agent-pool; those that can wait are the gateway's."""

from django.urls import path

from agentpool.registry import converters  # noqa: F401  (importing registers them)
from balancing import agents_api, leases_api, rebalance_api, requests_api, resources_api

# What is called for each lease comes first: paths are tried in order, the most wanted one first.
leases = [
    path("/leases/<uuid:lease_id>/release", leases_api.LeaseRelease.as_view()),
    path("/leases", leases_api.Leases.as_view()),
    path("/leases/<uuid:lease_id>", leases_api.LeaseDetail.as_view()),
    path("/leases/<uuid:lease_id>/ack", leases_api.LeaseAck.as_view()),
    path("/leases/<uuid:lease_id>/renew", leases_api.LeaseRenew.as_view()),
    path("/leases/<uuid:lease_id>/usage", leases_api.LeaseUsage.as_view()),
    path("/leases/<uuid:lease_id>/security", leases_api.LeaseSecurity.as_view()),
    path("/leases/<uuid:lease_id>/park", leases_api.LeasePark.as_view()),
    path("/leases/<uuid:lease_id>/resume", leases_api.LeaseResume.as_view()),
    path("/leases/<uuid:lease_id>/resize", leases_api.LeaseResize.as_view()),
]

urlpatterns = [
    path("", agents_api.Agents.as_view()),
    path("/assign", requests_api.Assign.as_view()),
    path("/requests/batch", requests_api.RequestBatch.as_view()),
    path("/requests/<uuid:request_id>/explain", requests_api.RequestExplain.as_view()),
    path("/resources", resources_api.Resources.as_view()),
    path("/resources/limits", resources_api.ResourceLimits.as_view()),
    path("/resources/limits/<uuid:limit_id>", resources_api.ResourceLimitDetail.as_view()),
    path("/resources/rebalance", rebalance_api.Rebalance.as_view()),
    path("/resources/rebalance/history", rebalance_api.RebalanceHistory.as_view()),
    path("/resources/rebalance/policy", rebalance_api.RebalancePolicies.as_view()),
    path("/learning", resources_api.Learning.as_view()),
    path("/learning/<agent_type:agent_type>", resources_api.LearningOfPool.as_view()),
    path("/<agent_id:agent_id>/learning", resources_api.LearningOfAgent.as_view()),
    path("/health/check", agents_api.HealthCheck.as_view()),
    path("/<uuid:pool_id>", agents_api.AgentDetail.as_view()),
    path("/<agent_id:agent_id>/status", agents_api.AgentStatusDoor.as_view()),
    path("/<agent_id:agent_id>/health", agents_api.AgentHealthDoor.as_view()),
    path("/<agent_id:agent_id>/heartbeat", agents_api.HeartbeatDoor.as_view()),
    path("/<agent_id:agent_id>/release", agents_api.AgentRelease.as_view()),
]
