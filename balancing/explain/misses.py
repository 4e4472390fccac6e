"""Finds who comes nearest to a request, what that one lacks, and which ceilings forbid the ask."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from django.db import connection
from django.db.models import Q, Sum
from django.db.models.expressions import BaseExpression

from agentpool.registry.models import Agent, CapabilityClass, Pool, Request, ResourceLimit
from agentpool.registry.models.profile import SecurityProfile
from agentpool.registry.states import AgentStatus, IsolationLevel, LimitLevel, SecurityLevel
from balancing import fit, grants
from balancing.fit import Capacity, Needs
from balancing.grants import Ask, Lack, Limits

# Classes that are looked at closely: those that fail the fewest comparisons.
CLASSES_JUDGED = 50
GONE = (AgentStatus.LOST, AgentStatus.RETIRED)


@dataclass(frozen=True)
class Miss:
    """Who comes nearest: a name for people, and what is lacking (nothing: it could serve)."""

    who: str
    lacks: tuple[Lack, ...]

    @property
    def sentence(self) -> str:
        """All that is lacking, in one line."""
        return "; ".join(lack.sentence for lack in self.lacks)


@dataclass(frozen=True)
class Bound:
    """A limit or profile as it stands: its name for people, its row, and what is free under it."""

    name: str
    row: ResourceLimit | SecurityProfile
    maxima: Limits
    free: Limits = grants.UNLIMITED

    @property
    def kept_for(self) -> Any:
        """The id of the only request that may take from it now, None: all may."""
        return getattr(self.row, "reserved_for", None)


def record_of(request: Request) -> str:
    """Return a request, stored or not, as the JSON from which SQL makes a `request` row."""
    values = {field.column: getattr(request, field.attname) for field in request._meta.fields}
    known = {k: v for k, v in values.items() if not isinstance(v, BaseExpression)}
    return json.dumps(known, default=str)


def needs_of(request: Request) -> Needs:
    """Return what a request asks of an agent, as `fit` reads it."""
    return Needs(
        memory_mb=request.memory_mb,
        cpu_cores=request.cpu_cores,
        token_budget=request.token_budget,
        disk_space_mb=request.disk_space_mb,
        security_level=SecurityLevel(request.security_level),
        isolation_level=IsolationLevel(request.isolation_level),
        special_tools=frozenset(request.special_tools),
        capabilities=frozenset(request.capabilities),
        labels=request.labels,
        avoid_agents=frozenset(request.avoid_agents),
        rules=tuple(fit.rule_of(rule) for rule in request.rules),
        min_memory_mb=request.min_memory_mb,
        min_cpu_cores=request.min_cpu_cores,
    )


def capacity_of(row: Agent | CapabilityClass | Pool, *, free: bool = False) -> Capacity:
    """Return what an agent, a class or a template offers; free: what an agent has left of it."""

    def amount(name: str) -> Any:
        return getattr(row, name) - (getattr(row, f"used_{name}") if free else 0)

    return Capacity(
        memory_mb=amount("memory_mb"),
        cpu_cores=amount("cpu_cores"),
        token_budget=amount("token_budget"),
        disk_space_mb=amount("disk_space_mb"),
        security_level=SecurityLevel(row.security_level),
        isolation_levels=[IsolationLevel(level) for level in row.isolation_levels],
        tools=frozenset(row.tools),
        capabilities=frozenset(row.capabilities),
        labels=getattr(row, "labels", {}),
        agent_id=row.agent_id if isinstance(row, Agent) else str(row.pk),
    )


# -- who could ever serve it -----------------------------------------------------------------------


def nearest(request: Request) -> Miss | None:
    """
    Return who comes nearest to a request with all it has, None: there is nobody at all.

    Asked of the capability classes, and of the launch template while the pool may still grow, as
    `satisfiable_1` does; then one agent of the best class is named.
    """
    needs = needs_of(request)
    classes = [(fit.lacks(capacity_of(each), needs), each) for each in _classes(record_of(request))]
    lacks, best = min(classes, key=lambda one: _distance(one[0]), default=((), None))
    template = _growing(request.pool_id)
    if template is not None:
        missing = _template_lacks(template, needs)
        if best is None or _distance(missing) < _distance(lacks):
            who = f"a new agent from the launch template of {template.agent_type}"
            return Miss(who, missing)
    return None if best is None else _named(best, needs, lacks)


def _distance(lacks: Sequence[Lack]) -> tuple[int, float]:
    return len(lacks), sum(lack.shortage for lack in lacks)


def _classes(record: str) -> list[CapabilityClass]:
    """Return the classes with the fewest failed comparisons; cheap at thousands of classes."""
    return list(CapabilityClass.objects.raw(_NEAREST_CLASSES, [record, CLASSES_JUDGED]))


_NEAREST_CLASSES = """
    SELECT c.* FROM jsonb_populate_record(NULL::request, %s::jsonb) r
      JOIN capability_class c ON c.agent_type = r.agent_type AND c.agents > 0
    ORDER BY (c.memory_mb < greatest(r.min_memory_mb, r.memory_mb::bigint * 8 / 10))::int
      + (c.cpu_cores < greatest(r.min_cpu_cores, trunc(r.cpu_cores * 0.8, 3)))::int
      + (c.token_budget < r.token_budget)::int + (c.disk_space_mb < r.disk_space_mb)::int
      + (c.security_level < r.security_level)::int
      + (NOT r.isolation_level <= ANY (c.isolation_levels))::int
      + (NOT c.tools @> r.special_tools)::int + (NOT c.capabilities @> r.capabilities)::int
      + (NOT c.labels @> r.labels)::int
      + (NOT rules_hold_1(c.labels, c.capabilities, r.rules))::int, c.id
    LIMIT %s"""


def _named(best: CapabilityClass, needs: Needs, lacks: tuple[Lack, ...]) -> Miss:
    agents = Agent.objects.filter(capability_class=best).exclude(status__in=GONE)
    allowed = agents.exclude(agent_id__in=needs.avoid_agents).order_by("load", "id").first()
    agent = allowed or agents.first()
    if agent is None:
        return Miss("an agent that has just gone", lacks)
    others = f", one of {best.agents} alike" if best.agents > 1 else ""
    return Miss(agent.agent_id + others, fit.lacks(capacity_of(agent), needs))


def _growing(agent_type: str) -> Pool | None:
    """Return the pool if a new agent could still be launched in it."""
    there = CapabilityClass.objects.filter(agent_type=agent_type).aggregate(
        n=Sum("agents", default=0)
    )
    return (
        Pool.objects.filter(agent_type=agent_type, max_size__gt=there["n"])
        .exclude(driver="")
        .first()
    )


def _template_lacks(template: Pool, needs: Needs) -> tuple[Lack, ...]:
    # A new agent is made at least as large as the request asks.
    amounts = {"memory_mb", "cpu_cores", "token_budget", "disk_space_mb"}
    found = fit.lacks(capacity_of(template), needs)
    return tuple(lack for lack in found if lack.name not in amounts)


# -- ceilings and limits ---------------------------------------------------------------------------


def bounds_on(requests: Iterable[Request]) -> list[Bound]:
    """Return the profiles and limits on these requests, in two queries, with what is free now."""
    rows = list(requests)
    types, projects = {row.pool_id for row in rows}, {row.project for row in rows}
    profiles = SecurityProfile.objects.filter(pool_id__in=types).order_by("pool")
    limits = ResourceLimit.objects.filter(
        Q(level=LimitLevel.INSTALLATION)
        | Q(level=LimitLevel.POOL, name__in=types)
        | Q(level=LimitLevel.PROJECT, name__in=projects)
    ).annotate(**{f"free_{name}": Sum(f"limitshard__{name}") for name in _AMOUNTS})
    found = [Bound(f"profile of {row.pk}", row, _profile_maxima(row)) for row in profiles]
    return found + [_bound(row) for row in limits.order_by("id")]


def binding(request: Request, bounds: Iterable[Bound]) -> list[Bound]:
    """Return those of the bounds that are on this request."""
    return [bound for bound in bounds if _binds(bound.row, request)]


def raised(request: Request, bounds: Iterable[Bound]) -> None:
    """This will raise an unsaved request to the least amounts of its limits, as the claim does."""
    for name in ("memory_mb", "cpu_cores"):
        least = [getattr(b.row, f"min_{name}", None) for b in binding(request, bounds)]
        for column in (name, f"min_{name}"):
            given = [v for v in (*least, getattr(request, column)) if v is not None]
            setattr(request, column, max(given))


def ceilings(request: Request, bounds: Iterable[Bound]) -> list[Lack]:
    """Return what no lease may have so much of, worded with the numbers; as `within_1` judges."""
    ask = _ask(request)
    return [
        _of(bound, lack)
        for bound in binding(request, bounds)
        for lack in grants.infeasible(ask=ask, maxima=bound.maxima, free=grants.UNLIMITED)
        if lack.name not in ("memory_mb", "cpu_cores")
        or _floor(ask, lack.name) > getattr(bound.maxima, lack.name)
    ]


def shortages(request: Request, bound: Bound) -> list[Lack]:
    """Return what a limit has too little of now for the least that the request can live with."""
    found = grants.infeasible(ask=_ask(request), maxima=grants.UNLIMITED, free=bound.free)
    return [_of(bound, lack) for lack in found]


_AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb", "network_bandwidth_mbps")


def _binds(row: ResourceLimit | SecurityProfile, request: Request) -> bool:
    if isinstance(row, SecurityProfile):
        return bool(row.pk == request.pool_id)
    names = {LimitLevel.POOL: request.pool_id, LimitLevel.PROJECT: request.project}
    return row.name == names.get(LimitLevel(row.level), "")


def _bound(row: ResourceLimit) -> Bound:
    maxima = [(getattr(row, n, None), getattr(row, f"max_{n}", None)) for n in _AMOUNTS[:4]]
    least = [min((v for v in pair if v is not None), default=None) for pair in maxima]
    # Lowered below what is in use, less than nothing is left.
    left = {name: getattr(row, f"free_{name}", None) for name in _AMOUNTS}
    free = {name: None if v is None else max(type(v)(0), v) for name, v in left.items()}
    return Bound(f"limit of {_whose(row)}", row, Limits(*least), Limits(**free))


def _whose(row: ResourceLimit) -> str:
    return "the installation" if row.level == LimitLevel.INSTALLATION else str(row)


def _profile_maxima(row: SecurityProfile) -> Limits:
    return Limits(memory_mb=row.memory_mb, cpu_cores=row.cpu_cores)


def _ask(request: Request) -> Ask:
    def cores(value: Any) -> Decimal:
        return Decimal(str(value))

    return Ask(
        memory_mb=request.memory_mb,
        cpu_cores=cores(request.cpu_cores),
        token_budget=request.token_budget,
        disk_space_mb=request.disk_space_mb,
        min_memory_mb=request.min_memory_mb,
        min_cpu_cores=cores(request.min_cpu_cores),
    )


def _floor(ask: Ask, name: str) -> grants.Number:
    if name == "memory_mb":
        return grants.memory_floor(ask.memory_mb, ask.min_memory_mb)
    return grants.cpu_floor(ask.cpu_cores, ask.min_cpu_cores)


def _of(bound: Bound, lack: Lack) -> Lack:
    sentence = f"{lack.sentence} ({bound.name})"
    return Lack(lack.name, sentence, lack.shortage, never=lack.never)


def rows_of(sql: str, params: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    """Return the rows of a statement that only reads."""
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        found: list[Any] = cursor.fetchall()
        return found
