"""What an operator may do about what running leases hold."""

from collections.abc import Sequence

from agentpool.console.actions.base import NOTE, Action, Done, Field, Kind, Values, number
from agentpool.registry.models import SCALING_MODES, Pool, RebalancePolicy, Rebalancing
from balancing.rebalancing import USUAL
from balancing.services import rebalancing

# Label and unit of all that a policy can set.
SETTINGS: dict[str, tuple[str, str]] = {
    "low_memory_share": ("Memory is low below", "share of the grant"),
    "freed_memory_share": ("Memory then given back", "share of the grant"),
    "low_cpu_share": ("CPU is low below", "share of the grant"),
    "freed_cpu_share": ("CPU then given back", "share of the grant"),
    "pressure_share": ("Pressed above", "share of the grant"),
    "grown_share": ("Grows then by", "share of what it uses"),
    "headroom": ("Never below the peak times", ""),
    "hold_s": ("Low for at least", "s"),
    "rest_s": ("Between two changes", "s"),
    "ack_s": ("The runtime must answer within", "s"),
    "watch_s": ("Watched for", "s"),
    "least_memory_mb": ("Memory worth giving back", "MB"),
    "least_cpu_cores": ("CPU worth giving back", "cores"),
}


def _load(names: Sequence[str]) -> Sequence[RebalancePolicy]:
    pools = Pool.objects.filter(agent_type__in=names).order_by("agent_type")
    kept = RebalancePolicy.objects.in_bulk([pool.agent_type for pool in pools])
    return [kept.get(pool.agent_type) or RebalancePolicy(pool=pool) for pool in pools]


REBALANCING = Kind(
    name="rebalancing",
    plural="pools",
    load=_load,
    told=lambda row: str(row.pool_id),
    seen=lambda row: "new" if row._state.adding else row.updated_at.isoformat(),
    state=lambda row: f"{row.mode}",
    key=lambda row: str(row.pool_id),
)


def _now_tells(rows: Sequence[RebalancePolicy]) -> list[str]:
    told = []
    for row in rows:
        found = rebalancing.rebalance(dry_run=True, actor="", agent_type=row.pool_id)
        told += [f"{row.pool_id}, {each.agent_id}: {_change(each)}." for each in found.rows[:20]]
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


def _fields(rows: Sequence[RebalancePolicy]) -> Sequence[Field]:
    row = rows[0]
    modes = [(mode, mode) for mode in SCALING_MODES]
    return (
        Field("mode", "Mode", "select", row.mode, modes),
        *(
            Field(
                name,
                label,
                "number",
                row.settings.get(name),
                unit=unit,
                usual=f"{getattr(USUAL, name):g}",
            )
            for name, (label, unit) in SETTINGS.items()
        ),
        NOTE,
    )


def _edit(row: RebalancePolicy, values: Values, actor: str) -> Done:
    typed = {
        name: number(values, name, label) for name, (label, _) in SETTINGS.items() if name in values
    }
    after = rebalancing.set_policy(
        row.pool_id,
        actor=actor,
        mode=values.get("mode") or None,
        settings=typed,
        note=values.get("note", ""),
    )
    does = {"auto": "changes grants by itself", "recommend": "only recommends", "off": "is off"}
    return Done(does[after.mode])


ACTIONS = (
    Action(
        "rebalance-now",
        "Rebalance now",
        REBALANCING,
        _now_tells,
        _now,
        is_for_many=True,
    ),
    Action(
        "rebalance-policy",
        "Change policy",
        REBALANCING,
        lambda rows: ["It holds from the next look on, which is within 10 s."],
        _edit,
        _fields,
    ),
)
