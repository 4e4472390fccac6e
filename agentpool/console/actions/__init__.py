"""The actions of the console, in one table, and the one way in which they are done."""

from collections.abc import Mapping, Sequence
from uuid import UUID

from rest_framework.exceptions import ValidationError

from agentpool.console.actions import agents, optimizer, rebalancing, scaling, setup, tokens, work
from agentpool.console.actions.base import (
    Action,
    Done,
    Field,
    Kind,
    Outcome,
    Results,
    Row,
    Values,
)
from agentpool.registry.errors import Refusal

__all__ = ["ACTIONS", "KINDS", "Action", "Field", "Results", "offered", "perform", "rows_of"]

ACTIONS: Mapping[str, Action] = {
    action.name: action
    for action in (
        *agents.ACTIONS,
        *work.ACTIONS,
        *setup.ACTIONS,
        *tokens.ACTIONS,
        *scaling.ACTIONS,
        *rebalancing.ACTIONS,
        *optimizer.ACTIONS,
    )
}
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        agents.AGENT,
        work.REQUEST,
        work.LEASE,
        setup.POOL,
        setup.PROFILE,
        setup.LIMIT,
        tokens.TOKEN,
        scaling.SCALING,
        rebalancing.REBALANCING,
        optimizer.OPTIMIZER,
        optimizer.OPTIMIZATION,
    )
}
# Named by what they are; all other rows by their ids.
_BY_NAME = frozenset({"pool", "profile", "scaling", "rebalancing", "optimizer"})
MOST_ROWS = 1000


def rows_of(kind: Kind, ids: Sequence[str]) -> Sequence[Row]:
    """Return the rows of these ids; what is no id, or of no row, is left out."""
    is_one = _is_name if kind.name in _BY_NAME else _is_uuid
    good = [id for id in ids if is_one(id)]
    return kind.load(good[:MOST_ROWS]) if good else []


def _is_name(text: str) -> bool:
    return "\x00" not in text  # which Postgres keeps in no text


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


def offered(kind: Kind, rows: Sequence[Row]) -> Sequence[Action]:
    """Return the actions that at least one of these rows allows."""
    return [
        action
        for action in ACTIONS.values()
        if action.on is kind
        and not action.is_hidden
        and (action.is_for_many or len(rows) == 1)
        and any(action.allows(row) for row in rows)
    ]


def perform(
    action: Action, rows: Sequence[Row], *, seen: Mapping[str, str], values: Values, actor: str
) -> Results:
    """
    Do an action to each row by itself; one that cannot be changed leaves the others alone.

    seen: by row, its version when the person decided; a row that has another one now is left.
    """
    if action.on is None:
        return Results(action, [_done("", None, action, values, actor)])
    outcomes = []
    for row in rows:
        name, id = action.on.told(row), action.on.key(row)
        if id in seen and seen[id] != action.on.seen(row):
            is_now = action.on.state(row)
            said = f"somebody else changed it meanwhile: it is {is_now} now. Look again."
            outcomes.append(Outcome(name, False, Done(said), id))
        else:
            outcomes.append(_done(name, row, action, values, actor))
    return Results(action, outcomes)


def _done(name: str, row: Row, action: Action, values: Values, actor: str) -> Outcome:
    id = action.on.key(row) if action.on is not None else ""
    try:
        return Outcome(name, True, action.run(row, values, actor), id)
    except Refusal as refusal:
        return Outcome(name, False, Done(refusal.detail, faults=dict(refusal.errors)), id)
    except ValidationError as error:
        return Outcome(name, False, Done(_faults(error, action, row)), id)


def _faults(error: ValidationError, action: Action, row: Row) -> str:
    """Return what is wrong with a form, by the labels that it shows."""
    labels = {field.name: field.label for field in action.fields([row] if row else [])}
    detail = error.detail if isinstance(error.detail, dict) else {"": error.detail}
    return " ".join(
        f"{labels.get(name, name)}: {' '.join(map(str, faults))}".lstrip(": ")
        for name, faults in detail.items()
    )
