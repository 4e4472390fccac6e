"""What an operator may do about what the optimizer proposes."""

from collections.abc import Sequence

from agentpool.console.actions import policies
from agentpool.console.actions.base import Action, Done, Kind, Values
from agentpool.registry.models import Optimization, OptimizerPolicy
from scaling import changing, optimizer
from scaling.troubles import USUAL

# How each metric is told: its name, its unit.
METRICS: dict[str, tuple[str, str]] = {
    "mean_wait_s": ("mean wait", "s"),
    "turnaround_s": ("time from arrival to success", "s"),
    "reserved_mb": ("memory held", "MB"),
    "top_ratio": ("busiest agent over the mean", "times"),
    "project_wait_s": ("its mean wait", "s"),
    "agent_hours": ("agent-hours paid", "h"),
    "turns_per_hour": ("turns of size", "an hour"),
    "throughput_per_agent_h": ("work done by an agent", "an hour"),
}
OPTIMIZER = policies.of_pools("optimizer", OptimizerPolicy)
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
        metric, unit = METRICS[row.metric]
        leases = "1 lease" if row.attempts == 1 else f"{row.attempts} leases"
        told.append(f"Because {row.basis} ({leases} in {row.over_s / 60:.0f} min).")
        told.append(
            f"Replayed with it, {metric} would be {row.expected:.4g} {unit}; without it"
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
    policies.change(
        "optimize-policy",
        OPTIMIZER,
        usual=USUAL,
        set_policy=optimizer.set_policy,
        does={"auto": "acts by itself", "recommend": "only proposes", "off": "is off"},
        within="five minutes",
    ),
)
