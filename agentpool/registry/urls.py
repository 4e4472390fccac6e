"""Paths of the registry's doors below /api/agent-pool; the project's urls.py adds the rest."""

from django.urls import path

from agentpool.registry import (
    api,
    converters,  # noqa: F401  (importing registers them)
)

urlpatterns = [
    path("/agent-id/<agent_id:agent_id>", api.AgentByExternalId.as_view()),
    path("/<agent_id:agent_id>/rotate-credential", api.RotateCredential.as_view()),
    path("/pools", api.Pools.as_view()),
    path("/pools/<agent_type:agent_type>", api.PoolDetail.as_view()),
    path("/pools/<agent_type:agent_type>/enrolment-tokens", api.EnrolmentTokens.as_view()),
    path("/tokens", api.Tokens.as_view()),
    path("/tokens/whoami", api.Whoami.as_view()),
    path("/tokens/<uuid:token_id>", api.TokenDetail.as_view()),
    path("/security/profiles", api.Profiles.as_view()),
    path("/security/profiles/<agent_type:agent_type>", api.ProfileDetail.as_view()),
    path("/metrics/summary", api.MetricsSummary.as_view()),
    path("/metrics/health", api.MetricsHealth.as_view()),
]
