"""Who may call: tokens and agent credentials, stored hashed, shown once."""

import uuid

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now

from agentpool.registry.models._columns import choices, one_of
from agentpool.registry.models.agent import Agent
from agentpool.registry.models.pool import Pool
from agentpool.registry.states import Scope


class Credential(models.Model):
    """
    A bearer secret of one scope; only its SHA-256 is kept.

    An agent's credential belongs to one incarnation of it; an enrolment token to one pool.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    scope = models.TextField(choices=choices(Scope))
    name = models.TextField(blank=True, default="")
    digest = models.BinaryField(unique=True, max_length=32, editable=False)
    hint = models.TextField(editable=False, help_text="The first characters, to tell it by.")
    agent = models.ForeignKey(
        Agent,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        related_name="credentials",
    )
    incarnation = models.PositiveIntegerField(null=True, blank=True)
    pool = models.ForeignKey(
        Pool,
        on_delete=models.CASCADE,
        null=True,
        blank=True,
        to_field="agent_type",
        db_column="agent_type",
        related_name="enrolment_tokens",
    )
    uses_left = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Null: no bound. Only enrolment tokens are counted.",
    )
    created_at = models.DateTimeField(db_default=Now(), editable=False)
    created_by = models.TextField(blank=True, default="")
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "credential"
        ordering = ["-created_at"]
        constraints = [
            one_of("credential", "scope", Scope),
            models.CheckConstraint(
                condition=Q(scope=Scope.AGENT.value, agent__isnull=False)
                | Q(~Q(scope=Scope.AGENT.value), agent__isnull=True),
                name="credential_agent_iff_scope_agent",
            ),
            models.CheckConstraint(
                condition=Q(scope=Scope.ENROLMENT.value, pool__isnull=False)
                | Q(~Q(scope=Scope.ENROLMENT.value), pool__isnull=True),
                name="credential_pool_iff_scope_enrolment",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.hint}… {self.name}".strip()


class IdempotencyKey(models.Model):
    """The answer once given to a creating POST, so that a repeated one gets it again."""

    principal = models.TextField()
    key = models.TextField()
    digest = models.BinaryField(max_length=32)
    status = models.PositiveSmallIntegerField(null=True)
    headers = models.JSONField(default=dict)
    # Encrypted under the caller's own token, because it may hold a secret.
    sealed_body = models.BinaryField(null=True, editable=False)
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        db_table = "idempotency_key"
        constraints = [
            models.UniqueConstraint(fields=["principal", "key"], name="idempotency_key_once")
        ]
        indexes = [models.Index(fields=["created_at"], name="idempotency_key_age")]

    def __str__(self) -> str:
        return self.key
