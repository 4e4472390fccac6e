"""Security profiles: what the agents of one type may use, reach and write."""

from django.db import models
from django.db.models.functions import Now

from agentpool.registry.models._columns import choices, cores, one_of, words
from agentpool.registry.models._of_pool import one_a_pool
from agentpool.registry.states import FileAccess, NetworkAccess


class SecurityProfile(models.Model):
    """The ceiling of every grant to agents of one type; versioned."""

    pool = one_a_pool(related_name="profile")
    allowed_tools = words()
    network_access = models.PositiveSmallIntegerField(
        choices=choices(NetworkAccess), default=NetworkAccess.NONE.value
    )
    file_access = models.PositiveSmallIntegerField(
        choices=choices(FileAccess), default=FileAccess.READ_ONLY.value
    )
    memory_mb = models.PositiveIntegerField(default=1024)
    cpu_cores = cores(default=1)
    # Hosts that work with limited network reaches: `name`, `*.name`, `name:port`.
    allowed_hosts = words()
    # Globs below the workspace that may be written on top of `file_access`.
    writable = words()
    # Security events of one agent in 24 hours after which it is quarantined; empty: never.
    quarantine_after = models.PositiveIntegerField(null=True, blank=True)
    version = models.PositiveIntegerField(default=1)
    updated_at = models.DateTimeField(db_default=Now(), editable=False)

    class Meta:
        db_table = "security_profile"
        constraints = [
            one_of("profile", "network_access", NetworkAccess),
            one_of("profile", "file_access", FileAccess),
        ]

    def __str__(self) -> str:
        return f"{self.pk} v{self.version}"
