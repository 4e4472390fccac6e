"""Path converters of the interface: external agent ids, and names of pools."""

from django.urls import register_converter
from django.urls.converters import StringConverter

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
