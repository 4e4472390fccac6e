"""System checks: settings that would break a promise are refused before a server starts."""

from typing import Any

from django.conf import settings
from django.core.checks import Error, Tags, register

from agentpool.host import servers
from agentpool.host.installation import HostError


@register(Tags.database)
def isolation_level_is_read_committed(**_: Any) -> list[Error]:
    """Refuse another isolation level: the claim protocol relies on a fresh snapshot a statement."""
    options = settings.DATABASES["default"].get("OPTIONS", {})
    level = options.get("isolation_level")
    if level in (None, 2):  # psycopg.IsolationLevel.READ_COMMITTED
        return []
    return [
        Error(
            "The database isolation level must be READ COMMITTED.",
            hint="Remove OPTIONS['isolation_level'] from DATABASES.",
            id="agentpool.E001",
        )
    ]


@register()
def windows_are_in_order(**_: Any) -> list[Error]:
    """Refuse windows in which a healthy agent would be declared lost."""
    if settings.HEARTBEAT_S < settings.SUSPECT_S < settings.LOST_S:
        return []
    return [
        Error(
            "AGENTPOOL_HEARTBEAT_S < AGENTPOOL_SUSPECT_S < AGENTPOOL_LOST_S must hold, got "
            f"{settings.HEARTBEAT_S:g}, {settings.SUSPECT_S:g}, {settings.LOST_S:g}.",
            hint="The defaults are 10, 30 and 90 seconds.",
            id="agentpool.E002",
        )
    ]


@register()
def retry_exceeds_timeout(**_: Any) -> list[Error]:
    """Refuse a job retry that would start a slow task a second time while the first runs."""
    cluster: dict[str, Any] = settings.Q_CLUSTER
    if int(cluster["retry"]) > int(cluster["timeout"]):
        return []
    return [Error("Q_CLUSTER['retry'] must exceed ['timeout'].", id="agentpool.E003")]


@register()
def the_server_is_there(**_: Any) -> list[Error]:
    """Refuse a web server that is not known or not installed."""
    try:
        servers.chosen()
    except HostError as error:
        return [Error(str(error), hint="docs/operations.md, Web servers.", id="agentpool.E004")]
    return []
