"""
Says from all that a pool has learnt what to expect: of an agent, of its cells, of the pool.

Pure. The values themselves are `balancing.outlook`'s; `average` and `cells` are what is written
down for the claim, and `outlook.expect` makes of them what `predict` says.
"""

import math

import numpy as np

from balancing.belief import ALL, FIRST_KIND, MATCH, Floats, Model, Own, Shared, Skill, Usual
from balancing.kalman import new_agent, new_cell
from balancing.outlook import (
    SUCCESS,
    TIME,
    USUAL_EFFICIENCY,
    Average,
    Cell,
    Gauss,
    Prediction,
    share,
)

# How many leases of the kind's mean an agent's own tokens and efficiency are mixed with.
PRIOR_LEASES = 5


def predict(model: Model, skill: Skill | None, kind: str, *, match: float = 0.0) -> Prediction:
    """
    Return what is expected of an agent at a kind of work, by all that the model knows.

    skill: None: nothing is known of the agent, it is taken to be like its pool. The doubts are as
    of the agent's last lesson.
    """
    direct = model.direct(model.place(kind), match)
    cell = skill.kinds.index(kind) + 1 if skill and kind in skill.kinds else 0
    agents, of_cells = new_agent(model), new_cell(model)
    values = []
    for i, shared in enumerate(model.shared):
        base, weights, doubt = 0.0, direct, agents[i]
        if skill is not None:
            own = _fitted(skill.own[i], model)
            row = own.block[0] + own.block[cell] if cell else own.block[0]
            base, weights = row.item(-1), direct + row[own.places : -1]
            doubt = row.item(0) + row.item(cell) if cell else row.item(0)
        mean, their_doubt = _shared_part(shared, weights)
        values.append(Gauss(base + mean, doubt + their_doubt + (0.0 if cell else of_cells[i])))
    tokens, efficiency = _used(model, skill, kind, cell)
    return Prediction(
        odds=values[SUCCESS],
        log_s=values[TIME],
        noise=model.noise,
        tokens=tokens,
        efficiency=efficiency,
        leases=skill.leases[cell] if skill and cell else 0,
        at=skill.at if skill else 0.0,
    )


def average(model: Model, kind: str | None) -> Average:
    """Return what is usual in a pool for a kind of work; None: for one that it has not seen."""
    return _average(model, model.place(kind), _shared_rows(model), _new(model))


def averages(model: Model) -> dict[str | None, Average]:
    """Return `average` for all kinds of work of a pool, and for None."""
    rows, new = _shared_rows(model), _new(model)
    found: dict[str | None, Average] = {None: _average(model, None, rows, new)}
    for place, kind in enumerate(model.kinds):
        found[kind] = _average(model, place, rows, new)
    return found


def _shared_rows(model: Model) -> list[list[list[float]]]:
    """Return the blocks of what is shared, as numbers that are quick to take one by one."""
    return [each.block.tolist() for each in model.shared]


def _new(model: Model) -> list[float]:
    """Return how much an agent of which nothing is known differs at a kind of work: variances."""
    return [agent + cell for agent, cell in zip(new_agent(model), new_cell(model), strict=True)]


def _average(
    model: Model, place: int | None, rows: list[list[list[float]]], new: list[float]
) -> Average:
    (odds, odds_doubt), (log_s, log_s_doubt) = (_usual_part(each, place) for each in rows)
    usual = _usual(model, place)
    seconds = math.exp(log_s + model.noise / 2)
    return Average(
        odds=odds,
        log_s=log_s,
        odds_doubt=odds_doubt + new[SUCCESS],
        log_s_doubt=log_s_doubt + new[TIME],
        match_odds=rows[SUCCESS][MATCH][-1],
        match_log_s=rows[TIME][MATCH][-1],
        noise=model.noise,
        retry_s=(usual.waited_s + seconds) / share(odds, odds_doubt),
        tokens=usual.tokens,
        efficiency=usual.efficiency,
        leases=model.leases_of[place] if place is not None else model.leases,
        at=model.at,
    )


def cells(model: Model, skill: Skill) -> dict[str | None, Cell]:
    """
    Return how an agent differs from the average at each kind of work that it has done.

    None: at those that it has not. The doubts are about leases that match as its last one did.
    """
    direct = _direct(model, skill)
    of_cells, values = new_cell(model), []
    for i, shared in enumerate(model.shared):
        own = _fitted(skill.own[i], model)
        # All kinds at once: what the agent is in all it does, and for each kind that kind's row.
        rows = own.block + own.block[0]
        rows[0] = own.block[0]
        slopes, base = rows[:, own.places : -1], rows[:, -1]
        doubts = own.variances + own.variances[0] + 2 * own.covariance[0]
        doubts[0] = own.variances[0] + of_cells[i]
        weights = slopes + direct
        doubts += np.vecdot(weights.dot(shared.covariance), weights)
        values += [(base + slopes.dot(shared.means)).tolist(), doubts.tolist()]
    odds, odds_doubts, log_s, log_s_doubts = values
    return {
        kind: Cell(
            odds[i],
            log_s[i],
            odds_doubts[i],
            log_s_doubts[i],
            *_used(model, skill, kind, i),
            skill.leases[i] if i else 0,
            skill.at,
        )
        for i, kind in enumerate((None, *skill.kinds))
    }


def _direct(model: Model, skill: Skill) -> Floats:
    """Return what counts of the shared values at each place of a skill, as it matched last."""
    direct = np.zeros((1 + len(skill.kinds), FIRST_KIND + len(model.kinds)))
    direct[:, MATCH], direct[:, ALL] = skill.match, 1.0
    direct[0, MATCH] = 0.0  # that of a kind that it has not done is not known
    for i, kind in enumerate(skill.kinds, start=1):
        place = model.place(kind)
        if place is not None:
            direct[i, FIRST_KIND + place] = 1.0
    return direct


def _fitted(own: Own, model: Model) -> Own:
    """Return an agent's own values with room for all that is shared by now."""
    shared = FIRST_KIND + len(model.kinds)
    is_narrow = own.slopes.shape[1] < shared
    return own.grown(places=own.places, shared=shared) if is_narrow else own


def _shared_part(shared: Shared, weights: Floats) -> tuple[float, float]:
    """Return mean and variance of what the shared values make with these weights."""
    row = weights.dot(shared.block)
    return row.item(-1), float(row[:-1].dot(weights))


def _usual_part(rows: list[list[float]], place: int | None) -> tuple[float, float]:
    """Return mean and variance of what is usual for a kind of work, without a match."""
    usual = rows[ALL]
    if place is None:
        return usual[-1], usual[ALL]
    kind = FIRST_KIND + place
    own = rows[kind]
    return usual[-1] + own[-1], usual[ALL] + 2 * usual[kind] + own[kind]


def _usual(model: Model, place: int | None) -> Usual:
    return model.usual[place] if place is not None else Usual(efficiency=USUAL_EFFICIENCY)


def _used(model: Model, skill: Skill | None, kind: str | None, cell: int) -> tuple[float, float]:
    """Return the tokens and the efficiency to expect: the agent's own, mixed with the pool's."""
    pool, own = _usual(model, model.place(kind)), skill.usual[cell] if skill and cell else Usual()
    whole = own.leases + PRIOR_LEASES
    tokens = (own.tokens * own.leases + pool.tokens * PRIOR_LEASES) / whole
    efficiency = (own.efficiency * own.leases + pool.efficiency * PRIOR_LEASES) / whole
    return tokens, efficiency
