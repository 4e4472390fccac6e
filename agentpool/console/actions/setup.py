"""What an operator may set: pools, security profiles, limits."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentpool.console.actions.base import NOTE, Action, Done, Field, Kind, Values, number
from agentpool.registry import queries as registry_queries
from agentpool.registry import serializers, services
from agentpool.registry.api import checked
from agentpool.registry.errors import InvalidField
from agentpool.registry.models import Agent, Pool, ResourceLimit, SecurityProfile
from agentpool.registry.states import (
    FileAccess,
    LimitLevel,
    NetworkAccess,
    SecurityLevel,
    Strategy,
)
from balancing import queries
from balancing import serializers as balancing_serializers
from balancing.services import limits

DAY_S = 86_400


def _names(members: Any) -> Sequence[tuple[str, str]]:
    names = (member.name.lower() for member in members)
    return [(name, name.replace("_", " ")) for name in names]


def _lines(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _typed(values: Values, fields: Sequence[Field]) -> dict[str, Any]:
    """Return what was typed, as REST would be given it; an empty number is None."""
    found: dict[str, Any] = {}
    for field in fields:
        text = values.get(field.name, "").strip()
        if field.name == "note" or (field.name not in values and field.kind != "lines"):
            continue
        if field.kind == "number":
            value = number(values, field.name, field.label)
            whole = value is not None and value == int(value)
            found[field.name] = int(value) if whole and value is not None else value
        else:
            found[field.name] = _lines(text) if field.kind == "lines" else text
    return found


# -- pools -----------------------------------------------------------------------------------------

POOL = Kind(
    name="pool",
    plural="pools",
    load=lambda ids: list(Pool.objects.filter(agent_type__in=ids)),
    seen=lambda row: str(row.generation),
    state=lambda row: f"version {row.generation}",
    key=lambda row: str(row.agent_type),
)


def _pool_fields(rows: Sequence[Pool]) -> Sequence[Field]:
    row = rows[0] if rows else Pool()
    security = SecurityLevel(row.security_level).name.lower()
    return (
        Field("description", "Description", value=row.description),
        Field("min_size", "Least agents", "number", row.min_size),
        Field("max_size", "Most agents", "number", row.max_size),
        Field("max_concurrent", "Slots of an agent", "number", row.max_concurrent),
        Field("memory_mb", "Memory of an agent", "number", row.memory_mb, unit="MB"),
        Field("cpu_cores", "CPU of an agent", "number", row.cpu_cores, unit="cores"),
        Field("token_budget", "Tokens of an agent", "number", row.token_budget),
        Field("disk_space_mb", "Disk of an agent", "number", row.disk_space_mb, unit="MB"),
        Field("security_level", "Security", "select", security, _names(SecurityLevel)),
        Field("capabilities", "Capabilities", "lines", " ".join(row.capabilities)),
        Field("tools", "Tools", "lines", " ".join(row.tools)),
        Field("driver", "Started by", "select", row.driver, [(d, d) for d in serializers.DRIVERS]),
        Field("driver_resources", "Of its cluster", "lines", " ".join(row.driver_resources)),
        Field("exec", "Command of an agent", value=row.exec, hint="what the runtime starts"),
        Field(
            "strategy",
            "Strategy",
            "select",
            row.strategy,
            [(s.value, s.value.replace("_", " ")) for s in Strategy],
        ),
        Field("reserve_after_s", "Keep capacity after", "number", row.reserve_after_s, unit="s"),
        Field("suspicion_probation", "Probation from suspicion", "number", row.suspicion_probation),
        Field(
            "suspicion_quarantine", "Quarantine from suspicion", "number", row.suspicion_quarantine
        ),
        Field("quarantine_s", "Quarantine lasts", "number", row.quarantine_s, unit="s"),
        Field("max_bypass", "Passed at most", "number", row.max_bypass, unit="times"),
        Field("share_half_life_s", "Share's half-life", "number", row.share_half_life_s, unit="s"),
        Field(
            "affinity_half_life_s",
            "Memory's half-life",
            "number",
            row.affinity_half_life_s,
            unit="s",
        ),
        NOTE,
    )


def _pool_tells(rows: Sequence[Pool]) -> list[str]:
    there = Agent.objects.filter(pool=rows[0]).exclude(status__in=["lost", "retired"]).count()
    return [
        f"New agents start with this template; the {there} that are there keep what they are.",
        "The policy holds for the next request.",
    ]


def _edit_pool(row: Pool, values: Values, actor: str) -> Done:
    typed = _typed(values, _pool_fields([row]))
    fields = checked(serializers.PoolFields(row, data=typed, partial=True))
    services.update_pool(
        row.agent_type,
        fields=_changed(row, fields),
        if_generation=row.generation,
        actor=actor,
        note=values.get("note", ""),
    )
    return Done("is changed")


def _changed(row: Any, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that differ from the row, so that the event names what was changed."""
    changed = {name: value for name, value in fields.items() if getattr(row, name) != value}
    return changed or dict(list(fields.items())[:1])


def _new_pool_fields(rows: Sequence[Pool]) -> Sequence[Field]:
    hint = "lower-case letters, digits, - and _"
    return (
        Field("agent_type", "Type of its agents", hint=hint, is_required=True),
        Field("description", "Description"),
        Field("max_size", "Most agents", "number", 20),
        NOTE,
    )


def _new_pool(row: None, values: Values, actor: str) -> Done:
    typed = _typed(values, _new_pool_fields([]))
    fields = checked(serializers.NewPool(data=typed))
    agent_type = fields.pop("agent_type")
    services.create_pool(agent_type, fields=fields, actor=actor, note=values.get("note", ""))
    return Done(f"The pool {agent_type} is there; its profile trusts little")


# -- security profiles -----------------------------------------------------------------------------

PROFILE = Kind(
    name="profile",
    plural="profiles",
    load=lambda ids: list(SecurityProfile.objects.filter(pool_id__in=ids)),
    told=lambda row: f"Profile of {row.pk}",
    seen=lambda row: str(row.version),
    state=lambda row: f"version {row.version}",
)


def _profile_fields(rows: Sequence[SecurityProfile]) -> Sequence[Field]:
    row = rows[0]
    network = NetworkAccess(row.network_access).name.lower()
    files = FileAccess(row.file_access).name.lower()
    return (
        Field("network_access", "Network", "select", network, _names(NetworkAccess)),
        Field("file_access", "Files", "select", files, _names(FileAccess)),
        Field("memory_mb", "Most memory of a grant", "number", row.memory_mb, unit="MB"),
        Field("cpu_cores", "Most CPU of a grant", "number", row.cpu_cores, unit="cores"),
        Field("allowed_tools", "Tools", "lines", " ".join(row.allowed_tools)),
        Field("allowed_hosts", "Hosts it reaches", "lines", " ".join(row.allowed_hosts)),
        Field("writable", "May write, too", "lines", " ".join(row.writable)),
        Field(
            "quarantine_after",
            "Quarantine after",
            "number",
            row.quarantine_after,
            hint="empty: never",
            unit="security events in 24 h",
        ),
        NOTE,
    )


def _edit_profile(row: SecurityProfile, values: Values, actor: str) -> Done:
    typed = _typed(values, _profile_fields([row]))
    fields = checked(serializers.ProfileFields(data=typed))
    note = values.get("note", "")
    after = services.update_profile(
        row.pk, fields=_changed(row, fields), actor=actor, note=note, if_version=row.version
    )
    return Done(f"is changed, now version {after.version}")


# -- limits ----------------------------------------------------------------------------------------

LIMIT = Kind(
    name="limit",
    plural="limits",
    load=lambda ids: list(ResourceLimit.objects.filter(id__in=ids)),
    told=lambda row: f"The limit of {row.name or 'the installation'}",
    seen=lambda row: str(row.generation),
    state=lambda row: f"version {row.generation}",
)
_AMOUNTS = (
    ("memory_mb", "Memory", "MB"),
    ("cpu_cores", "CPU", "cores"),
    ("token_budget", "Tokens", ""),
    ("disk_space_mb", "Disk", "MB"),
    ("network_bandwidth_mbps", "Network", "Mbps"),
    ("max_memory_mb", "Memory of one lease, at most", "MB"),
    ("max_cpu_cores", "CPU of one lease, at most", "cores"),
    ("max_token_budget", "Tokens of one lease, at most", ""),
    ("max_disk_space_mb", "Disk of one lease, at most", "MB"),
    ("min_memory_mb", "Memory of one lease, at least", "MB"),
    ("min_cpu_cores", "CPU of one lease, at least", "cores"),
)


def _limit_fields(rows: Sequence[ResourceLimit]) -> Sequence[Field]:
    row = rows[0] if rows else ResourceLimit()
    amounts = [
        Field(name, label, "number", getattr(row, name), hint="empty: no limit", unit=unit)
        for name, label, unit in _AMOUNTS
    ]
    weight = Field("weight", "Weight of its share", "number", row.weight)
    return (*amounts, weight, NOTE)


def _new_limit_fields(rows: Sequence[ResourceLimit]) -> Sequence[Field]:
    levels = [(level.value, level.value) for level in LimitLevel]
    hint = "the pool or project; empty for the installation"
    level = Field("level", "Of", "select", LimitLevel.PROJECT.value, levels)
    return (level, Field("name", "Name", hint=hint), *_limit_fields(rows))


def _limit_tells(rows: Sequence[ResourceLimit]) -> list[str]:
    row = rows[0]
    used = queries.resources().used_under(row)
    told = ", ".join(
        f"{float(used.get(name, 0)):,g} {unit}" for name, _, unit in _AMOUNTS[:4] if used.get(name)
    )
    return [
        f"In use under it now: {told or 'nothing'}.",
        "Set lower than that, nothing more is granted under it until enough has come back; "
        "nobody loses what they hold. Set higher, whoever waits for it is served at once.",
    ]


def _edit_limit(row: ResourceLimit, values: Values, actor: str) -> Done:
    typed = _typed(values, _limit_fields([row])) | {"level": row.level, "name": row.name}
    _set_limit(typed, values, actor, if_generation=row.generation)
    return Done("is changed")


def _removal_tells(rows: Sequence[ResourceLimit]) -> list[str]:
    row = rows[0]
    told = [
        f"{_limit_tells(rows)[0]} All of that goes on.",
        "What it bounds is bounded by agents, profiles and other limits alone; whoever waits for "
        "it is served at once.",
    ]
    if row.level == LimitLevel.PROJECT and row.weight != 1:
        told.append(f"The weight of its share becomes 1 again; it is {row.weight:g}.")
    return told


def _remove_limit(row: ResourceLimit, values: Values, actor: str) -> Done:
    note = values.get("note", "")
    limits.remove_limit(row.id, actor=actor, note=note, if_generation=row.generation)
    return Done("is removed")


def _new_limit(row: None, values: Values, actor: str) -> Done:
    typed = _typed(values, _new_limit_fields([]))
    if typed.get("level") == LimitLevel.POOL:
        registry_queries.pool(typed["name"])
    if ResourceLimit.objects.filter(level=typed.get("level"), name=typed.get("name")).exists():
        raise InvalidField("There is such a limit already; edit it.", errors=[("name", "Taken.")])
    _set_limit(typed, values, actor, if_generation=None)
    return Done(f"The limit of {typed['name'] or 'the installation'} is set")


def _set_limit(
    typed: dict[str, Any], values: Values, actor: str, *, if_generation: int | None
) -> None:
    typed["weight"] = typed.get("weight") or 1
    fields = checked(balancing_serializers.NewLimit(data=typed))
    note = values.get("note", "")
    limits.set_limit(fields, actor=actor, note=note, if_generation=if_generation)


ACTIONS = (
    Action("edit-pool", "Edit", POOL, _pool_tells, _edit_pool, _pool_fields),
    Action(
        "new-pool",
        "New pool",
        None,
        lambda rows: ["It is empty until an agent joins or scaling starts one."],
        _new_pool,
        _new_pool_fields,
    ),
    Action(
        "edit-profile",
        "Edit",
        PROFILE,
        lambda rows: ["It is the ceiling of every grant from now on; what is granted stays."],
        _edit_profile,
        _profile_fields,
    ),
    Action("edit-limit", "Edit", LIMIT, _limit_tells, _edit_limit, _limit_fields),
    Action("remove-limit", "Remove", LIMIT, _removal_tells, _remove_limit, is_grave=True),
    Action(
        "new-limit",
        "New limit",
        None,
        lambda rows: ["It holds for every grant from now on; nobody loses what they hold."],
        _new_limit,
        _new_limit_fields,
    ),
)
