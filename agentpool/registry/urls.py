"""Paths of the registry's doors below /api/agent-pool; the project's urls.py adds the rest."""

from django.urls import path, register_converter
from django.urls.converters import StringConverter

from agentpool.registry import api
from agentpool.registry.serializers import RESERVED_IDS


class AgentIdConverter(StringConverter):
    """An external agent id that is none of the path's own words."""

    regex = r"[A-Za-z0-9._:-]{1,128}"

    def to_python(self, value: str) -> str:
        """Return the id; a reserved word is no id."""
        if value in RESERVED_IDS:
            raise ValueError(value)
        return value


class TypeNameConverter(StringConverter):
    """The name of a pool."""

    regex = r"[a-z][a-z0-9_-]{0,62}"


register_converter(AgentIdConverter, "agent_id")
register_converter(TypeNameConverter, "agent_type")

urlpatterns = [
    path("/agent-id/<agent_id:agent_id>", api.AgentByExternalId.as_view()),
    path("/pools", api.Pools.as_view()),
    path("/pools/<agent_type:agent_type>", api.PoolDetail.as_view()),
    path(
        "/pools/<agent_type:agent_type>/enrolment-tokens", api.EnrolmentTokens.as_view()
    ),
    path("/tokens", api.Tokens.as_view()),
    path("/tokens/whoami", api.Whoami.as_view()),
    path("/tokens/<uuid:token_id>", api.TokenDetail.as_view()),
    path("/security/profiles", api.Profiles.as_view()),
    path("/security/profiles/<agent_type:agent_type>", api.ProfileDetail.as_view()),
    path("/metrics/summary", api.MetricsSummary.as_view()),
    path("/metrics/health", api.MetricsHealth.as_view()),
]
