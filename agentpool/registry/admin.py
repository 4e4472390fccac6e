"""Every table in the admin: configuration is editable, what services move is read-only."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.admin import ModelAdmin

from agentpool.registry import models, services


class Configuration(ModelAdmin):
    """Rows that operators write, through the service that REST calls, too."""

    list_per_page = 50


def _changed(form: Any) -> dict[str, Any]:
    return {name: form.cleaned_data[name] for name in form.changed_data}


def _actor(request: HttpRequest) -> str:
    return f"user:{request.user.get_username()}"


class ReadOnly(ModelAdmin):
    """Rows that only services write: shown, searched, never edited past the state machine."""

    list_per_page = 50
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Return False."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Return False."""
        return False


@admin.register(models.Pool)
class PoolAdmin(Configuration):
    """Pools with launch templates."""

    list_display = ("agent_type", "strategy", "min_size", "max_size", "max_concurrent", "driver")
    list_filter = ("strategy",)
    search_fields = ("agent_type", "description")
    readonly_fields = ("mean_service_s", "generation", "created_at", "updated_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Return the fields that stay: of a pool that exists, its name, too."""
        return (*self.readonly_fields, "agent_type") if obj else self.readonly_fields

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """This will make or change the pool with its event, version and profile."""
        fields, actor = _changed(form), _actor(request)
        if change:
            services.update_pool(obj.agent_type, fields=fields, if_generation=None, actor=actor)
            return
        fields.pop("agent_type", None)
        services.create_pool(obj.agent_type, fields={**fields, "id": obj.id}, actor=actor)


@admin.register(models.SecurityProfile)
class SecurityProfileAdmin(Configuration):
    """Security profiles."""

    list_display = ("pool", "network_access", "file_access", "memory_mb", "cpu_cores", "version")
    readonly_fields = ("version", "updated_at")


@admin.register(models.Agent)
class AgentAdmin(ReadOnly):
    """Agents."""

    list_display = ("agent_id", "pool", "status", "health", "load", "max_concurrent", "host")
    list_filter = ("status", "health", "pool")
    search_fields = ("agent_id", "name", "host")


@admin.register(models.CapabilityClass)
class CapabilityClassAdmin(ReadOnly):
    """Agents with the same static profile, counted."""

    list_display = ("id", "agent_type", "agents", "memory_mb", "cpu_cores", "security_level")
    search_fields = ("agent_type",)


@admin.register(models.ResourceLimit)
class ResourceLimitAdmin(ReadOnly):
    """Resource limits; set by REST or the command line, which serve the queues afterwards."""

    list_display = ("level", "name", "memory_mb", "cpu_cores", "token_budget", "disk_space_mb")
    list_filter = ("level",)
    search_fields = ("name",)
    list_before_template = "console/_limits_how.html"


@admin.register(models.LimitShard)
class LimitShardAdmin(ReadOnly):
    """What is free under each limit, in parts."""

    list_display = ("id", "resource_limit", "memory_mb", "cpu_cores", "token_budget")
    list_select_related = ("resource_limit",)


@admin.register(models.Share)
class ShareAdmin(ReadOnly):
    """What each project has used of a pool lately."""

    list_display = ("pool", "project", "log_usage", "updated_at")
    search_fields = ("project",)


@admin.register(models.ShareState)
class ShareStateAdmin(ReadOnly):
    """Up to which event the shares are charged."""

    list_display = ("id", "last_seq")


@admin.register(models.TrackRecord)
class TrackRecordAdmin(ReadOnly):
    """What the outcomes say of agents and pools."""

    list_display = ("agent_type", "agent_id", "story_type", "leases", "successes", "updated_at")
    list_filter = ("agent_type",)


@admin.register(models.Liveness)
class LivenessAdmin(ReadOnly):
    """Signs of life."""

    list_display = ("agent", "incarnation", "last_heartbeat_at")
    list_select_related = ("agent",)
    search_fields = ("agent__agent_id",)


@admin.register(models.Request)
class RequestAdmin(ReadOnly):
    """Requests."""

    list_display = ("number", "pool", "project", "cycle_id", "phase", "status", "attempts")
    list_filter = ("status", "pool")
    search_fields = ("project", "cycle_id", "id")


@admin.register(models.Lease)
class LeaseAdmin(ReadOnly):
    """Leases."""

    list_display = ("fencing_token", "agent", "project", "cycle_id", "phase", "status", "outcome")
    list_filter = ("status", "outcome", "pool")
    list_select_related = ("agent",)
    search_fields = ("project", "cycle_id", "id")


@admin.register(models.LockKey)
class LockKeyAdmin(ReadOnly):
    """Lock keys that live leases hold."""

    list_display = ("key", "lease")
    list_select_related = ("lease",)
    search_fields = ("key",)


@admin.register(models.LeaseOutcome)
class LeaseOutcomeAdmin(ReadOnly):
    """Outcomes."""

    list_display = ("lease", "pool", "project", "outcome", "duration_s", "waited_s", "ended_at")
    list_filter = ("outcome", "pool")
    list_select_related = ("lease",)
    search_fields = ("project", "cycle_id")


@admin.register(models.LogChunk)
class LogChunkAdmin(ReadOnly):
    """What the work printed."""

    list_display = ("id", "lease", "stream", "at", "size")
    list_select_related = ("lease",)


@admin.register(models.LogTotal)
class LogTotalAdmin(ReadOnly):
    """How much of each log is kept."""

    list_display = ("lease", "kept_bytes", "dropped_bytes")
    list_select_related = ("lease",)


@admin.register(models.Credential)
class CredentialAdmin(ReadOnly):
    """Tokens and credentials, without their secrets."""

    list_display = (
        "hint",
        "scope",
        "name",
        "agent",
        "pool",
        "uses_left",
        "expires_at",
        "revoked_at",
    )
    list_filter = ("scope",)
    list_select_related = ("agent",)


@admin.register(models.IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnly):
    """Answers kept for repeated POSTs."""

    list_display = ("key", "principal", "status", "created_at")


@admin.register(models.Event)
class EventAdmin(ReadOnly):
    """Events."""

    list_display = ("seq", "at", "kind", "agent_type", "agent_id", "project", "actor")
    list_filter = ("agent_type",)
    search_fields = ("kind", "agent_id", "project")


@admin.register(models.RelayState)
class RelayStateAdmin(ReadOnly):
    """The relay's place in the outbox."""

    list_display = ("id", "last_seq")


@admin.register(models.Tick)
class TickAdmin(ReadOnly):
    """When each part was last seen working."""

    list_display = ("name", "at", "grace_until")


@admin.register(models.PoolSample)
class PoolSampleAdmin(ReadOnly):
    """Samples."""

    list_display = ("pool", "at", "utilization", "queue_depth", "average_wait_time_s")
    list_filter = ("pool",)


@admin.register(models.ScalingEvent)
class ScalingEventAdmin(ReadOnly):
    """Changes of size."""

    list_display = ("at", "pool", "action", "current_size", "target_size", "reason", "actor")
    list_filter = ("pool", "action")


@admin.register(models.Launch)
class LaunchAdmin(ReadOnly):
    """Agents that drivers started."""

    list_display = ("agent", "driver", "status", "created_at", "started_at", "error")
    list_filter = ("status", "driver")
    list_select_related = ("agent",)
