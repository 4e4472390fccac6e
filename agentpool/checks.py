"""System checks: settings that would break a promise are refused before a server starts."""

from math import isfinite
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


_ABOVE_ZERO = (
    *("HEARTBEAT_S", "OFFER_S", "RUN_LEASE_S", "HARD_END_S", "MAX_ATTEMPTS", "CANARY_EVERY_S"),
    *("MESSAGE_BYTES", "MESSAGES_PER_S", "SLOW_READER_S", "LOG_CAP_BYTES"),
    *("KEEP_EVENTS_DAYS", "KEEP_FINISHED_DAYS", "KEEP_OUTCOMES_DAYS", "KEEP_LOGS_DAYS"),
    *("KEEP_SAMPLES_DAYS", "KEEP_SAMPLES_FIVE_MIN_DAYS", "KEEP_SAMPLES_HOURLY_DAYS"),
    "KEEP_SAMPLES_DAILY_DAYS",
)
_FROM_ZERO = ("REAP_SLACK_S", "BACKOFF_S", "FLUSH_S")
# A century: dates reach no further back everywhere.
_MOST = {"DAYS": 36_500.0, "S": 36_500 * 86_400.0}


@register()
def numbers_are_within_bounds(**_: Any) -> list[Error]:
    """Refuse numbers with which everything would be deleted, or nothing ever end."""
    found = []
    for name in (*_ABOVE_ZERO, *_FROM_ZERO):
        value = getattr(settings, name)
        least = "0 or more" if name in _FROM_ZERO else "above 0"
        is_enough = value >= 0 if name in _FROM_ZERO else value > 0
        most = _MOST.get(name.rpartition("_")[2], float("inf"))
        if not (is_enough and isfinite(value) and value <= most):
            said = f"AGENTPOOL_{name} must be {least} and at most a century, got {value:g}."
            found.append(Error(said, hint="docs/settings.md.", id="agentpool.E005"))
    return found


@register()
def jobs_are_seen_in_time(**_: Any) -> list[Error]:
    """Refuse a silence after which working jobs would be called down."""
    if settings.CANARY_EVERY_S < settings.STALE_S:
        return []
    said = (
        "AGENTPOOL_CANARY_EVERY_S < AGENTPOOL_STALE_S must hold, got "
        f"{settings.CANARY_EVERY_S:g}, {settings.STALE_S:g}."
    )
    return [Error(said, hint="The defaults are 5 and 15 seconds.", id="agentpool.E006")]


@register()
def who_reads_metrics_is_said(**_: Any) -> list[Error]:
    """Refuse a misspelt word, which would leave /metrics open."""
    if settings.METRICS_AUTH in ("open", "token"):
        return []
    said = f"AGENTPOOL_METRICS_AUTH must be open or token, not {settings.METRICS_AUTH!r}."
    return [Error(said, hint="docs/settings.md.", id="agentpool.E007")]


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
