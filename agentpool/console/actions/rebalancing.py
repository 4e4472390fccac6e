"""What an operator may do about what running leases hold."""

from collections.abc import Sequence

from agentpool.console.actions import policies
from agentpool.console.actions.base import Action, Done, Values
from agentpool.registry.models import RebalancePolicy, Rebalancing
from balancing.rebalancing import USUAL
from balancing.services import rebalancing

REBALANCING = policies.of_pools("rebalancing", RebalancePolicy)
_NAMED = 20  # of a pool's changes


def _now_tells(rows: Sequence[RebalancePolicy]) -> list[str]:
    told = []
    for row in rows:
        found = rebalancing.rebalance(dry_run=True, actor="", agent_type=row.pool_id)
        named = found.rows[:_NAMED]
        told += [f"{row.pool_id}, {each.agent_id}: {_change(each)}." for each in named]
        if len(found.rows) > _NAMED:
            told.append(f"{row.pool_id}: and {len(found.rows) - _NAMED} more.")
        if not found.rows:
            told.append(f"{row.pool_id}: nothing to change is found.")
    return [*told, "Each runtime must agree; what presses the work then is undone."]


def _change(row: Rebalancing) -> str:
    unit = "MB" if row.resource == "memory_mb" else "cores"
    bound = f"; bounded by {row.bound}" if row.bound else ""
    return f"{row.before:g} to {row.after:g} {unit}, because {row.reason}{bound}"


def _now(row: RebalancePolicy, values: Values, actor: str) -> Done:
    note = values.get("note", "")
    found = rebalancing.rebalance(dry_run=False, actor=actor, agent_type=row.pool_id, note=note)
    if not found.rows:
        return Done("nothing to change was found")
    return Done(f"{found.successful} of {len(found.rows)} changes begun")


ACTIONS = (
    Action(
        "rebalance-now",
        "Rebalance now",
        REBALANCING,
        _now_tells,
        _now,
        is_for_many=True,
    ),
    policies.change(
        "rebalance-policy",
        REBALANCING,
        usual=USUAL,
        set_policy=rebalancing.set_policy,
        does={"auto": "changes grants by itself", "recommend": "only recommends", "off": "is off"},
        within="10 s",
    ),
)
