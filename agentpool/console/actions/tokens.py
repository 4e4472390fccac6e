"""What an operator may do with tokens: make them, shown once, and revoke them."""

from collections.abc import Sequence
from typing import Any

from django.conf import settings

from agentpool.console.actions.base import Action, Done, Field, Kind, Values, number
from agentpool.registry import queries as registry_queries
from agentpool.registry import serializers, services
from agentpool.registry.api import checked
from agentpool.registry.credentials import Issued
from agentpool.registry.models import Credential, Pool
from agentpool.registry.states import Scope

_HOURS = (("1", "1 hour"), ("24", "1 day"), ("168", "7 days"), ("720", "30 days"), ("", "never"))
TOKEN = Kind(
    name="token",
    plural="tokens",
    load=lambda ids: list(Credential.objects.filter(id__in=ids).exclude(scope=Scope.AGENT)),
    told=lambda row: f"{row.hint}… {row.name}".strip(),
    seen=lambda row: str(row.revoked_at is None),
    state=lambda row: "revoked" if row.revoked_at else str(row.scope),
)
_SCOPES = (
    (Scope.VIEWER, "may look"),
    (Scope.ORCHESTRATOR, "asks for agents"),
    (Scope.OPERATOR, "everything"),
)


def _expiry() -> Field:
    return Field("hours", "Good for", "select", "24", _HOURS)


def _expires_in_s(values: Values) -> float | None:
    hours = number(values, "hours", "Good for")
    return hours * 3600 if hours else None


def _token_fields(rows: Sequence[Any]) -> Sequence[Field]:
    scopes = [(scope.value, f"{scope.value}: {what}") for scope, what in _SCOPES]
    return (
        Field("name", "Name", hint="who or what will use it", is_required=True),
        Field("scope", "May", "select", Scope.VIEWER.value, scopes),
        _expiry(),
    )


def _new_token(row: None, values: Values, actor: str) -> Done:
    given = {
        "scope": values.get("scope", ""),
        "name": values.get("name", ""),
        "expires_in_s": _expires_in_s(values),
    }
    fields = checked(serializers.NewToken(data=given))
    scope = Scope(fields.pop("scope"))
    issued = services.token(scope=scope, actor=actor, **fields)
    login = f"agentpool login --url {settings.PUBLIC_URL} --token {issued.secret}"
    return Done(f"A token of the scope {scope}", secret=issued.secret, commands=(login,))


def _enrol_fields(rows: Sequence[Any]) -> Sequence[Field]:
    pools = [(name, name) for name in Pool.objects.values_list("agent_type", flat=True)]
    usual = "code" if ("code", "code") in pools else pools[0][0] if pools else ""
    return (
        Field("agent_type", "Pool", "select", usual, pools),
        Field("uses", "Agents that may join with it", "number", 1, hint="empty: any number"),
        _expiry(),
        Field("name", "Name", hint="which machine or team it is for"),
    )


def _enrol(row: None, values: Values, actor: str) -> Done:
    pool = registry_queries.pool(values.get("agent_type", ""))
    given = {
        "uses": number(values, "uses", "Agents"),
        "expires_in_s": _expires_in_s(values),
        "name": values.get("name", ""),
    }
    fields = checked(serializers.NewEnrolmentToken(data=given))
    issued: Issued = services.enrolment_token(pool, actor=actor, **fields)
    run = (
        f"AGENTPOOL_URL={settings.PUBLIC_URL} AGENTPOOL_ENROLMENT_TOKEN={issued.secret} "
        f"agentpool agent run --pool {pool.agent_type}"
    )
    return Done(f"A token for {pool.agent_type}", secret=issued.secret, commands=(run,))


def _revoke(row: Credential, values: Values, actor: str) -> Done:
    services.revoke_token(row.id, actor=actor, note=values.get("note", ""))
    return Done("is revoked")


def _revoke_tells(rows: Sequence[Credential]) -> list[str]:
    enrolment = [row for row in rows if row.scope == Scope.ENROLMENT]
    told = ["Whoever calls with it is refused from now on; it cannot be brought back."]
    if enrolment:
        told.append("Agents that have joined with it stay: they have credentials of their own.")
    return told


ACTIONS = (
    Action(
        "new-token",
        "New token",
        None,
        lambda rows: ["It is shown once. Only its hash is kept."],
        _new_token,
        _token_fields,
    ),
    Action(
        "enrol",
        "Register agents",
        None,
        lambda rows: ["The token is shown once; agents appear here by themselves as they join."],
        _enrol,
        _enrol_fields,
    ),
    Action(
        "revoke-token",
        "Revoke",
        TOKEN,
        _revoke_tells,
        _revoke,
        allows=lambda row: row.revoked_at is None,
        is_grave=True,
        is_for_many=True,
    ),
)
