"""Carries out what the optimizer proposes, through the services that do such things."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any

from agentpool.registry import queries as registry_queries
from agentpool.registry import services as registry_services
from agentpool.registry.errors import NotFound
from agentpool.registry.models import Agent, Optimization, Pool, ResourceLimit
from agentpool.registry.states import PLACEABLE_STATUS, AgentHealth, LimitLevel
from balancing.services import agents, limits
from scaling import governance, queries, services
from scaling.policies import Mode
from scaling.troubles import Action

# The columns of a limit that `limits.set_limit` takes, as a whole.
_AMOUNTS = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")
LIMIT_COLUMNS = (
    *_AMOUNTS,
    "network_bandwidth_mbps",
    *(f"max_{name}" for name in _AMOUNTS),
    "min_memory_mb",
    "min_cpu_cores",
)


def tells(row: Optimization) -> str:
    """Return a sentence of what applying the proposal will do."""
    pool = registry_queries.pool(row.pool_id)
    return _TELLS[Action(row.action)](pool, row)


def not_alone(row: Optimization, *, agents: int, most_agents: float) -> str:
    """
    Return why this may not be done without a person, "": it may.

    agents: how many were added or let go without one today.
    """
    if row.action == Action.LOWER_REQUIREMENTS:
        return "only whoever asks for agents can ask for less"
    wanted = int(row.change.get("agents", 0))
    if agents + wanted > most_agents:
        return f"at most {most_agents:g} agents a day are added or let go without a person"
    pool = registry_queries.pool(row.pool_id)
    if row.action == Action.SCALE_UP and queries.size(row.pool_id) + wanted > pool.max_size:
        return f"it would exceed the pool's max_size, {pool.max_size}"
    return ""


def carry_out(row: Optimization, *, actor: str) -> str:
    """
    Make the change, and return what was done.

    In the caller's transaction. Raises: whatever the services refuse.
    """
    pool = registry_queries.pool(row.pool_id)
    said = tells(row)
    _DOES[Action(row.action)](pool, row, actor)
    return said


# -- what each action says -------------------------------------------------------------------------


def _is_steered(pool: Pool) -> bool:
    return governance.row_of(pool).mode == Mode.AUTO


def _tell_more(pool: Pool, row: Optimization) -> str:
    target = queries.size(pool.agent_type) + row.change["agents"]
    how = f"Its min_size will be {target}" if _is_steered(pool) else f"{target} agents will run"
    more = f", and its max_size {target}" if target > pool.max_size else ""
    return f"{how}, {row.change['agents']} more than now{more}."


def _tell_fewer(pool: Pool, row: Optimization) -> str:
    target = max(0, queries.size(pool.agent_type) - row.change["agents"])
    if _is_steered(pool):
        return f"Its min_size will be {min(pool.min_size, target)}; scaling then lets agents go."
    return f"{row.change['agents']} agents finish what they have and retire; {target} stay."


def _tell_weight(pool: Pool, row: Optimization) -> str:
    now = _limit_of(row.change["project"]).get("weight", 1)
    return f"The weight of {row.change['project']} will be {row.change['weight']:g}, now {now:g}."


_TELLS: Mapping[Action, Callable[[Pool, Optimization], str]] = {
    Action.SCALE_UP: _tell_more,
    Action.SCALE_DOWN: _tell_fewer,
    Action.AGENT_TUNING: lambda pool, row: (
        f"Each agent of {pool.agent_type} will take up to {row.change['slots']} at a time."
    ),
    Action.LOWER_REQUIREMENTS: lambda pool, row: (
        f"Nothing changes here: whoever asks for agents must ask for {row.change['memory_mb']} MB."
        " Press it when that is done; from then on it is measured."
    ),
    Action.CALM_SCALING: lambda pool, row: (
        f"Its scaling policy will hold a larger size for {row.change['stabilise_s']:g} s."
    ),
    Action.SPREAD_WORK: lambda pool, row: (
        f"Its strategy will be {row.change['strategy']}, now {pool.strategy}."
    ),
    Action.QUARANTINE: lambda pool, row: (
        f"{row.change['agent_id']} gets no work for {pool.quarantine_s:g} s; what it has, goes on."
    ),
    Action.PROJECT_WEIGHT: _tell_weight,
}


# -- what each action does -------------------------------------------------------------------------


def _edit(pool: Pool, actor: str, row: Optimization, **fields: Any) -> None:
    registry_services.update_pool(
        pool.agent_type, fields=fields, if_generation=None, actor=actor, note=row.basis
    )


def _more(pool: Pool, row: Optimization, actor: str) -> None:
    count = row.change["agents"]
    target = queries.size(pool.agent_type) + count
    fields = {"max_size": target} if target > pool.max_size else {}
    if _is_steered(pool):
        fields["min_size"] = max(pool.min_size, target)
    if fields:
        _edit(pool, actor, row, **fields)
    if not _is_steered(pool):
        services.execute(
            pool.agent_type, action="scale_up", count=count, reason=row.basis, actor=actor
        )


def _fewer(pool: Pool, row: Optimization, actor: str) -> None:
    count = row.change["agents"]
    target = max(0, queries.size(pool.agent_type) - count)
    if pool.min_size > target:
        _edit(pool, actor, row, min_size=target)
    if not _is_steered(pool):
        services.execute(
            pool.agent_type, action="scale_down", count=count, reason=row.basis, actor=actor
        )


def _tune(pool: Pool, row: Optimization, actor: str) -> None:
    slots = {"max_concurrent": row.change["slots"]}
    _edit(pool, actor, row, **slots)
    for agent in Agent.objects.filter(pool=pool, status__in=PLACEABLE_STATUS).order_by("id"):
        if agent.max_concurrent < row.change["slots"]:
            agents.update_agent(agent.id, fields=slots, if_generation=None, actor=actor)


def _note(pool: Pool, row: Optimization, actor: str) -> None:
    """What the callers ask for is theirs to change; that they did is all that is written."""


def _calm(pool: Pool, row: Optimization, actor: str) -> None:
    governance.set_policy(pool.agent_type, actor=actor, settings=dict(row.change), note=row.basis)


def _spread(pool: Pool, row: Optimization, actor: str) -> None:
    _edit(pool, actor, row, strategy=row.change["strategy"])


def _quarantine(pool: Pool, row: Optimization, actor: str) -> None:
    agent = Agent.objects.filter(agent_id=row.change["agent_id"], pool=pool).first()
    if agent is None:
        raise NotFound(f"There is no agent {row.change['agent_id']} any more.")
    until = registry_queries.now() + timedelta(seconds=pool.quarantine_s)
    agents.set_health(
        agent, health=AgentHealth.QUARANTINED, note=row.basis, until=until, actor=actor
    )


def _weigh(pool: Pool, row: Optimization, actor: str) -> None:
    project = row.change["project"]
    fields = _limit_of(project) | {"weight": row.change["weight"]}
    limits.set_limit(
        {"level": LimitLevel.PROJECT.value, "name": project, **fields},
        actor=actor,
        note=row.basis,
    )


def _limit_of(project: str) -> dict[str, Any]:
    """Return the amounts of a project's limit as they are, none where it has no limit."""
    row = ResourceLimit.objects.filter(level=LimitLevel.PROJECT, name=project).first()
    found = {name: getattr(row, name, None) for name in LIMIT_COLUMNS}
    plain = {
        name: str(value) if isinstance(value, Decimal) else value for name, value in found.items()
    }
    return plain | {"weight": row.weight if row else 1}


_DOES: Mapping[Action, Callable[[Pool, Optimization, str], None]] = {
    Action.SCALE_UP: _more,
    Action.SCALE_DOWN: _fewer,
    Action.AGENT_TUNING: _tune,
    Action.LOWER_REQUIREMENTS: _note,
    Action.CALM_SCALING: _calm,
    Action.SPREAD_WORK: _spread,
    Action.QUARANTINE: _quarantine,
    Action.PROJECT_WEIGHT: _weigh,
}
