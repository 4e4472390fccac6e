"""
Learns from one ended lease at a time what a pool and its agents are like.

Pure. The values of `balancing.belief` are normal, with means and variances that each outcome moves
(a Kalman filter an agent: given what agents have in common they are independent of each other, so
that together it is the exact filter over all of them). Success is linearised. Between outcomes what
is known of an agent grows uncertain, so that the past is forgotten. An agent or a kind without
outcomes starts at the mean of those that have some, and with their spread.
"""

from collections.abc import Callable
from functools import cache

import numpy as np

from balancing.belief import (
    FIRST_KIND,
    MEMORY,
    Floats,
    Lesson,
    Model,
    Own,
    Shared,
    Skill,
    Spread,
    Usual,
)
from balancing.outlook import (
    AGENT_SPREAD,
    CELL_SPREAD,
    KIND_SPREAD,
    MEASURES,
    SUCCESS,
    TIME,
    share,
)

# How many agents and cells the first spread counts for, against those that were seen.
AGENTS_ASSUMED, CELLS_ASSUMED = 48.0, 192.0
# Variance that an agent's skill gains while every agent of the pool ends one lease; and in a day.
DRIFT_A_LEASE = (0.0016, 0.00025)
DRIFT_A_DAY = (0.0015, 0.0005)
# The share of it that stays with the kind of work, not with all that the agent does.
CELL_DRIFT = 0.05
# Work that takes equally long each time (a hundredth of a second at least, as it is counted) must
# not leave a noise from which it took thousands of other leases to come back: a tenth, in log time.
LEAST_NOISE = 0.01
# An agent remembers this many kinds of work; what is rarer counts for the agent as a whole.
MAX_KINDS = 24
_DAY_S = 86_400.0


def learn(model: Model, lesson: Lesson, *, agents: int) -> None:
    """
    Take up one lesson in its order of time.

    agents: of the pool, at work. Changes `model`.
    """
    model.leases += lesson.leases
    model.clock += lesson.leases / max(1, agents)
    model.at = max(model.at, lesson.at)
    kind = _kind(model, lesson.kind)
    skill = model.skills.get(lesson.agent)
    if skill is None:
        skill = model.skills[lesson.agent] = _new_skill(model)
    _age(model, skill)
    cell = _cell(model, skill, lesson.kind)
    _update(model, skill, kind, cell, lesson)
    _count(model, skill, cell)
    if kind is not None:
        model.usual[kind].add(lesson)
        model.leases_of[kind] += lesson.leases
    for place in (0, cell) if cell else (0,):
        skill.usual[place].add(lesson)
        skill.leases[place] += lesson.leases
    skill.match[cell] = lesson.match


def new_agent(model: Model) -> list[float]:
    """Return how much agents differ from the average of their pool: a variance a measure."""
    return model.agents.variances(AGENT_SPREAD, AGENTS_ASSUMED)


def new_cell(model: Model) -> list[float]:
    """Return how much an agent differs at one kind of work from all it does: variances."""
    return model.cells.variances(CELL_SPREAD, CELLS_ASSUMED)


# -- who and what is new ---------------------------------------------------------------------------


def _kind(model: Model, kind: str) -> int | None:
    """Return the place of a kind of work, perhaps a new one; None: the pool has too many."""
    place = model.place(kind)
    if place is not None or len(model.kinds) >= MAX_KINDS:
        return place
    model.kinds.append(kind)
    model.usual.append(Usual())
    model.leases_of.append(0)
    odds, log_s = (each.with_kind(KIND_SPREAD[i] ** 2) for i, each in enumerate(model.shared))
    model.shared = (odds, log_s)
    return len(model.kinds) - 1


def _new_skill(model: Model) -> Skill:
    variances = _seen_first(model.agents, new_agent(model))
    shared = FIRST_KIND + len(model.kinds)
    return Skill(
        kinds=[],
        own=(Own.of(variances[SUCCESS], shared=shared), Own.of(variances[TIME], shared=shared)),
        usual=[Usual()],
        leases=[0],
        match=[0.0],
        counted=[variances],
        clock=model.clock,
        at=model.at,
    )


def _cell(model: Model, skill: Skill, kind: str) -> int:
    """Return the place of a kind of work in an agent's skill; 0, itself, if it has too many."""
    cell, shared = 0, FIRST_KIND + len(model.kinds)
    if kind in skill.kinds:
        cell = skill.kinds.index(kind) + 1
    elif len(skill.kinds) < MAX_KINDS:
        skill.kinds.append(kind)
        cell = len(skill.kinds)
    own, _ = skill.own
    is_new = cell == own.places
    if is_new or own.slopes.shape[1] < shared:
        odds, log_s = (each.grown(places=own.places + is_new, shared=shared) for each in skill.own)
        skill.own = (odds, log_s)
    if is_new:
        variances = _seen_first(model.cells, new_cell(model))
        for i in MEASURES:
            skill.own[i].variances[cell] = variances[i]
        skill.usual.append(Usual())
        skill.leases.append(0)
        skill.match.append(0.0)
        skill.counted.append(variances)
    return cell


def _seen_first(seen: Spread, variances: list[float]) -> list[float]:
    """Count one more agent or cell, as far from the others as they are from each other."""
    seen.count += 1
    for i in MEASURES:
        seen.squares[i] += variances[i]
    return variances


def _age(model: Model, skill: Skill) -> None:
    """Let doubts grow with what the pool did, and with time, since the agent's last lesson."""
    leases, days = model.clock - skill.clock, max(0.0, model.at - skill.at) / _DAY_S
    skill.clock, skill.at = model.clock, max(skill.at, model.at)
    if not leases and not days:
        return
    for measure, own in enumerate(skill.own):
        grown = leases * DRIFT_A_LEASE[measure] + days * DRIFT_A_DAY[measure]
        variances = own.variances
        variances += grown * _drift_shares(own.places)


@cache
def _drift_shares(places: int) -> Floats:
    """Return the shares of the drift that an agent's values have, in all and per kind of work."""
    shares = np.full(places, CELL_DRIFT)
    shares[0] = 1.0
    return shares


# -- one surprise ----------------------------------------------------------------------------------


def _update(model: Model, skill: Skill, kind: int | None, cell: int, lesson: Lesson) -> None:
    direct = model.direct(kind, lesson.match)
    _update_one(model, skill.own[SUCCESS], model.shared[SUCCESS], cell, direct, lesson, _success)
    _update_one(model, skill.own[TIME], model.shared[TIME], cell, direct, lesson, _time)


def _update_one(
    model: Model,
    own: Own,
    shared: Shared,
    cell: int,
    direct: Floats,
    lesson: Lesson,
    surprise_of: Callable[[Model, Lesson, float, float], tuple[float, float]],
) -> None:
    """Share a surprise out among all that may explain it, each by how uncertain it is."""
    # Covariances of the agent's values with what this lease shows, slopes, and base, in a row.
    row = own.block[0] + own.block[cell] if cell else own.block[0].copy()
    ours, weights = row[: own.places], row[own.places : -1]
    weights += direct
    # The same of the shared values, and the part of the mean that they make.
    their_row = weights.dot(shared.block)
    theirs, their_mean = their_row[:-1], their_row.item(-1)
    skilled = row.item(0) + row.item(cell) if cell else row.item(0)
    doubt = skilled + float(theirs.dot(weights))
    surprise, noise = surprise_of(model, lesson, row.item(-1) + their_mean, doubt)
    # Given what is shared, the agent's values move by what is left of the surprise ...
    row[-1] = -(their_mean + surprise)
    own.block -= (ours / (skilled + noise))[:, None] * row
    # ... and what is shared moves by as much as all that is uncertain leaves to it.
    their_row[-1] = -surprise
    shared.block -= (theirs / (doubt + noise))[:, None] * their_row


def _success(model: Model, lesson: Lesson, mean: float, doubt: float) -> tuple[float, float]:
    """Return how far a share of successes is from the expected one, and its noise, as log odds."""
    p = share(mean, doubt)
    weight = max(0.05, p * (1 - p))
    return (lesson.successes / lesson.leases - p) / weight, 1 / weight / lesson.leases


def _time(model: Model, lesson: Lesson, mean: float, doubt: float) -> tuple[float, float]:
    """Return how far log seconds are from the expected ones, and their noise."""
    surprise, noise = lesson.log_s - mean, model.noise / lesson.leases
    if lesson.leases == 1:
        _hear_noise(model, surprise, doubt)
    return surprise, noise


def _hear_noise(model: Model, surprise: float, doubt: float) -> None:
    """Let one surprise move the variance from lease to lease; an outlier counts as 9 at most."""
    # What the doubts explain of it is taken off by shares, so that it stays above 0.
    whole = model.noise + doubt
    seen = min(surprise**2, 9 * whole) * model.noise / whole
    noise = model.noise + (seen - model.noise) / min(5 * MEMORY, 20 + model.leases)
    model.noise = max(LEAST_NOISE, noise)


def _count(model: Model, skill: Skill, cell: int) -> None:
    """Keep the spreads of agents and cells to what is known of this one now."""
    for measure, own in enumerate(skill.own):
        means = model.shared[measure].means
        for place, seen in ((0, model.agents), (cell, model.cells))[: 2 if cell else 1]:
            mean = own.base.item(place) + float(own.slopes[place].dot(means))
            now = mean**2 + own.variances.item(place)
            counted = skill.counted[place]
            seen.squares[measure] += now - counted[measure]
            counted[measure] = now
