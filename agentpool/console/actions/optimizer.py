"""What an operator may do about what the optimizer proposes."""

from collections.abc import Sequence

from agentpool.console.actions.base import NOTE, Action, Done, Field, Kind, Values, number
from agentpool.registry.models import SCALING_MODES, Optimization, OptimizerPolicy, Pool
from scaling import changing, optimizer
from scaling.troubles import USUAL

# Label and unit of all that a policy can set.
SETTINGS: dict[str, tuple[str, str]] = {
    "window_s": ("Looked back for", "s"),
    "least_attempts": ("Says nothing of fewer than", "leases"),
    "wait_s": ("A wait is high above", "s"),
    "useful_wait_s": ("A wait is nobody's trouble below", "s"),
    "busy_share": ("Busy above", "share of the slots"),
    "idle_share": ("Idle below", "share of the slots"),
    "scale_share": ("Agents then added or let go", "share of the pool"),
    "low_memory_share": ("Memory is wasted below", "share of the ask"),
    "headroom": ("To be asked for, of the peak", "times"),
    "throughput_share": ("Throughput is poor below", "share of the day before"),
    "turns_per_hour": ("The size flaps above", "turns an hour"),
    "calm_s": ("Calmed for at least", "s"),
    "hot_ratio": ("An agent is hot above", "times the mean"),
    "fail_excess": ("An agent is bad if more fail by", "share of its leases"),
    "slow_ratio": ("An agent is slow above", "times the others"),
    "chance": ("Bad luck is ruled out below", "chance"),
    "starving_ratio": ("A project starves above", "times the others' wait"),
    "weight_ratio": ("Its weight then", "times the present one"),
    "gain_share": ("Proposed if it improves by", "share"),
    "judge_s": ("Judged after", "s"),
    "most_agents_a_day": ("By itself, agents a day", "at most"),
}


def _policies(names: Sequence[str]) -> Sequence[OptimizerPolicy]:
    pools = Pool.objects.filter(agent_type__in=names).order_by("agent_type")
    kept = OptimizerPolicy.objects.in_bulk([pool.agent_type for pool in pools])
    return [kept.get(pool.agent_type) or OptimizerPolicy(pool=pool) for pool in pools]


OPTIMIZER = Kind(
    name="optimizer",
    plural="pools",
    load=_policies,
    told=lambda row: str(row.pool_id),
    seen=lambda row: "new" if row._state.adding else row.updated_at.isoformat(),
    state=lambda row: f"{row.mode}",
    key=lambda row: str(row.pool_id),
)
OPTIMIZATION = Kind(
    name="optimization",
    plural="proposals",
    load=lambda ids: list(Optimization.objects.filter(id__in=ids).order_by("at")),
    told=lambda row: f"{row.action.replace('_', ' ')} for {row.pool_id}",
    seen=lambda row: row.status,
    state=lambda row: row.status,
)


def _tells(rows: Sequence[Optimization]) -> list[str]:
    told = []
    for row in rows:
        told.append(changing.tells(row))
        told.append(f"Because {row.basis} ({row.attempts} leases in {row.over_s / 60:.0f} min).")
        told.append(
            f"Replayed with it, {row.metric} would be {row.expected:.4g}; without it"
            f" {row.without:.4g}. It is measured afterwards."
        )
    return told


def _apply(row: Optimization, values: Values, actor: str) -> Done:
    done = optimizer.apply(row.id, actor=actor, note=values.get("note", ""))
    return Done(f"done: {done.verdict}")


def _dismiss(row: Optimization, values: Values, actor: str) -> Done:
    optimizer.dismiss(row.id, actor=actor, note=values.get("note", ""))
    return Done("dismissed")


def _look(row: OptimizerPolicy, values: Values, actor: str) -> Done:
    looked = optimizer.look(row.pool_id, actor=actor, note=values.get("note", ""))
    return Done(f"{len(looked.found)} open, {looked.applied} applied, {looked.judged} judged")


def _fields(rows: Sequence[OptimizerPolicy]) -> Sequence[Field]:
    row = rows[0]
    return (
        Field("mode", "Mode", "select", row.mode, [(mode, mode) for mode in SCALING_MODES]),
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


def _edit(row: OptimizerPolicy, values: Values, actor: str) -> Done:
    typed = {
        name: number(values, name, label) for name, (label, _) in SETTINGS.items() if name in values
    }
    after = optimizer.set_policy(
        row.pool_id,
        actor=actor,
        mode=values.get("mode") or None,
        settings=typed,
        note=values.get("note", ""),
    )
    does = {"auto": "acts by itself", "recommend": "only proposes", "off": "is off"}
    return Done(does[after.mode])


ACTIONS = (
    Action(
        "optimize-apply",
        "Apply",
        OPTIMIZATION,
        _tells,
        _apply,
        allows=lambda row: row.status == "open",
    ),
    Action(
        "optimize-dismiss",
        "Dismiss",
        OPTIMIZATION,
        lambda rows: ["Nothing changes; the same is not proposed again for a day."],
        _dismiss,
        allows=lambda row: row.status == "open",
    ),
    Action(
        "optimize-look",
        "Look now",
        OPTIMIZER,
        lambda rows: ["The last hour's work is replayed; in mode auto what helps is also done."],
        _look,
        is_for_many=True,
    ),
    Action(
        "optimize-policy",
        "Change policy",
        OPTIMIZER,
        lambda rows: ["It holds from the next look on, which is within five minutes."],
        _edit,
        _fields,
    ),
)
