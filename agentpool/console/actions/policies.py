"""The dialog of a policy that is a mode and some rules, whatever it rules."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agentpool.console.actions.base import NOTE, Action, Done, Field, Kind, Values, number
from agentpool.registry import adjustable, policies
from agentpool.registry.models import MODES


def of_pools(name: str, table: Any) -> Kind:
    """Return pools as what an action is about, by their policies of a table."""
    return Kind(
        name=name,
        plural="pools",
        load=lambda names: policies.policies(table, names),
        told=lambda row: str(row.pool_id),
        seen=lambda row: "new" if row._state.adding else row.updated_at.isoformat(),
        state=lambda row: f"{row.mode}",
        key=lambda row: str(row.pool_id),
    )


def change(
    name: str,
    kind: Kind,
    *,
    usual: Any,
    set_policy: Callable[..., Any],
    does: Mapping[str, str],
    within: str,
) -> Action:
    """
    Return the action that changes one.

    usual: the rules where nothing is set. does: by mode, what the pool then does. within: after
    what time it holds.
    """
    known = adjustable.settings_of(usual)

    def fields(rows: Sequence[Any]) -> Sequence[Field]:
        row = rows[0]
        modes = Field("mode", "Mode", "select", row.mode, [(mode, mode) for mode in MODES])
        numbers = [
            Field(
                each,
                told.label,
                "number",
                row.settings.get(each),
                unit=told.unit,
                usual=f"{getattr(usual, each):g}",
            )
            for each, told in known.items()
        ]
        return (modes, *numbers, NOTE)

    def edit(row: Any, values: Values, actor: str) -> Done:
        typed = {
            each: number(values, each, told.label) for each, told in known.items() if each in values
        }
        after = set_policy(
            row.pool_id,
            actor=actor,
            mode=values.get("mode") or None,
            settings=typed,
            note=values.get("note", ""),
        )
        return Done(does[after.mode])

    holds = [f"It holds from the next look on, which is within {within}."]
    return Action(name, "Change policy", kind, lambda rows: holds, edit, fields)
