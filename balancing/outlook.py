"""
Says how long an agent will take for a kind of work and whether it will succeed, from what it did.

Pure. Each pool has a model: log seconds and the log odds of success are the sum of what is usual
for the kind of work (story type), how this agent differs from others, how it differs at this very
kind, and how well its capabilities match the tags. All of these are normal, with means and
variances that each outcome moves (a Kalman filter an agent, all else taken as independent of it);
between outcomes what is known of an agent grows uncertain, so that the past is forgotten. An agent
or a kind without outcomes starts at the mean of those that have some, and with their spread.
"""

import math
from dataclasses import dataclass, field, replace
from operator import mul

# What is taken to be usual before anything is known: of coding agents' merge rates by kind of task
# the log odds are about .6 with these standard deviations; of times only the order is known.
USUAL = (0.6, math.log(600))
USUAL_DOUBT = (0.7, 1.2)
USUAL_NOISE = 0.36
KIND_SPREAD = (0.42, 0.4)
AGENT_SPREAD = (0.53, 0.35)
# Wider than real ones: a doubt that is too large is soon corrected, one that is too small stays.
CELL_SPREAD = (0.7, 0.4)
# What a full match of capabilities and tags is worth against none: mean and standard deviation.
MATCH_WORTH = ((0.2, 0.3), (-0.15, 0.2))
# How many agents and cells the first spread counts for, against those that were seen.
SPREAD_WEIGHT = (48.0, 192.0)
# Variance that an agent's skill gains while every agent of the pool ends one lease; and in a day.
DRIFT_A_LEASE = (0.0016, 0.00025)
DRIFT_A_DAY = (0.0015, 0.0005)
# The share of it that stays with the kind of work, not with all that the agent does.
CELL_DRIFT = 0.05
# How far the newest means reach back, in leases: noise, tokens, efficiency, waiting times.
MEMORY = 200.0
# Standard deviations of log time by which doubt makes an agent attractive: it is found out.
OPTIMISM = 0.3
# Half of the width of the interval that holds 8 of 10, in standard deviations.
EIGHT_OF_TEN = 1.2816
# An agent remembers this many kinds of work; what is rarer counts for the agent as a whole.
MAX_KINDS = 24
# How many leases of the kind's mean an agent's own tokens and efficiency are mixed with.
PRIOR_LEASES = 5
_DAY_S = 86_400.0
# Measures: log odds of success, log seconds. Each has its own values in what follows.
MEASURES = SUCCESS, TIME = 0, 1


@dataclass(frozen=True, slots=True)
class Lesson:
    """
    What one ended lease teaches, or a day of equal ones together.

    at: seconds since the epoch. log_s: mean log seconds. successes: of `leases`. match: share of
    the request's tags that the agent's capabilities have, less a half; 0: no tags. efficiency: used
    share of the grant, 0-1.
    """

    agent: str
    kind: str
    at: float
    log_s: float
    successes: float
    leases: int = 1
    match: float = 0.0
    waited_s: float = 0.0
    tokens: float = 0.0
    efficiency: float = 0.0


@dataclass(frozen=True, slots=True)
class Gauss:
    """A value that is not known exactly: its mean and variance."""

    mean: float
    variance: float


@dataclass(slots=True)
class Usual:
    """Means over the newest leases: what they took, and how many there are at most MEMORY."""

    leases: float = 0.0
    waited_s: float = 0.0
    tokens: float = 0.0
    efficiency: float = 0.0

    def add(self, lesson: Lesson) -> None:
        """Mix a lesson in; the more there were, the less it moves."""
        self.leases = min(MEMORY, self.leases + lesson.leases)
        part = lesson.leases / self.leases if self.leases > lesson.leases else 1.0
        self.waited_s += part * (lesson.waited_s - self.waited_s)
        self.tokens += part * (lesson.tokens - self.tokens)
        self.efficiency += part * (lesson.efficiency - self.efficiency)


@dataclass(slots=True)
class Shared:
    """
    What all agents of a pool have in common, in one measure; normal.

    means, covariance: of the worth of a match, of the usual value, then one a kind of work: how
    much it differs from the usual.
    """

    means: list[float]
    covariance: list[list[float]]


@dataclass(slots=True)
class Own:
    """
    How one agent differs from the average of its pool, in one measure; normal.

    base, slopes: the mean is base + slopes x the shared means: with these, what is learnt later of
    all agents corrects what was thought of this one. The first row is the agent's in all it does,
    then one a kind of work. covariance: what is left when the shared values are known.
    """

    base: list[float]
    slopes: list[list[float]]
    covariance: list[list[float]]


@dataclass(slots=True)
class Skill:
    """
    What is known of one agent: its own values, and what it used, in all and per kind of work.

    clock, at: up to when its doubts have grown: the pool's leases by agent, and seconds. match: as
    of its last lease of each kind. counted: what it adds to the pool's spreads.
    """

    kinds: list[str]
    own: tuple[Own, Own]
    usual: list[Usual]
    leases: list[int]
    match: list[float]
    counted: list[list[float]]
    clock: float
    at: float


@dataclass(slots=True)
class Spread:
    """How much agents, or cells, differ: the sum of squares, a measure, of those that were seen."""

    squares: list[float]
    count: int = 0


@dataclass(slots=True)
class Model:
    """All that a pool has learnt; `skills` may hold only the agents that are concerned."""

    kinds: list[str] = field(default_factory=list)
    usual: list[Usual] = field(default_factory=list)
    leases_of: list[int] = field(default_factory=list)
    shared: tuple[Shared, Shared] = field(default_factory=lambda: (_shared(0), _shared(1)))
    skills: dict[str, Skill] = field(default_factory=dict)
    agents: Spread = field(default_factory=lambda: Spread([0.0, 0.0]))
    cells: Spread = field(default_factory=lambda: Spread([0.0, 0.0]))
    noise: float = USUAL_NOISE
    leases: int = 0
    # Leases of the pool by agent: how far the pool has come, whatever its size.
    clock: float = 0.0
    at: float = 0.0


def _shared(measure: int) -> Shared:
    match, doubt = MATCH_WORTH[measure]
    return Shared([match, USUAL[measure]], [[doubt**2, 0.0], [0.0, USUAL_DOUBT[measure] ** 2]])


@dataclass(frozen=True, slots=True)
class Average:
    """
    What is usual in a pool for one kind of work: all that a claim needs to know of the pool.

    odds, log_s: log odds of success, log seconds; the doubts are those about an agent of which
    nothing is known. match_odds, match_log_s: what a full match of tags adds against none. noise:
    variance of log seconds from lease to lease. retry_s: what a failure costs beside its own time:
    the usual wait and time until success. leases, at: how many, and when the last one ended.
    """

    odds: float
    log_s: float
    odds_doubt: float
    log_s_doubt: float
    match_odds: float
    match_log_s: float
    noise: float
    retry_s: float
    tokens: float
    efficiency: float
    leases: int
    at: float


@dataclass(frozen=True, slots=True)
class Cell:
    """How one agent differs from its pool at one kind of work; the doubts are all there are."""

    odds: float
    log_s: float
    odds_doubt: float
    log_s_doubt: float
    tokens: float
    efficiency: float
    leases: int
    at: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """
    What is expected of an agent at a kind of work.

    odds, log_s: mean and variance of the log odds of success and of log seconds, without noise.
    noise: variance of log seconds from one lease to the next. leases: of this agent at this kind,
    at: seconds since the epoch when it was last learnt from; 0: never.
    """

    odds: Gauss
    log_s: Gauss
    noise: float
    tokens: float
    efficiency: float
    leases: int
    at: float

    @property
    def success(self) -> float:
        """The expected share of successes, 0-1."""
        return share(self.odds.mean, self.odds.variance)

    @property
    def success_interval(self) -> tuple[float, float]:
        """The bounds that hold 8 of 10, for the agent's true share of successes."""
        reach = EIGHT_OF_TEN * math.sqrt(self.odds.variance)
        return share(self.odds.mean - reach), share(self.odds.mean + reach)

    @property
    def seconds(self) -> float:
        """The expected length of a lease."""
        return math.exp(self.log_s.mean + self.noise / 2)

    @property
    def seconds_interval(self) -> tuple[float, float]:
        """The bounds that hold 8 of 10 leases."""
        reach = EIGHT_OF_TEN * math.sqrt(self.log_s.variance + self.noise)
        return math.exp(self.log_s.mean - reach), math.exp(self.log_s.mean + reach)

    @property
    def success_counts(self) -> tuple[float, float]:
        """The Beta distribution of the share of successes with the same mean and variance."""
        p = self.success
        spread = max(1e-9, (p * (1 - p)) ** 2 * self.odds.variance)
        whole = max(0.0, p * (1 - p) / spread - 1)
        return p * whole, (1 - p) * whole


def hoped_s(prediction: Prediction, *, retry_s: float, optimism: float = OPTIMISM) -> float:
    """
    Return the seconds until success that one hopes for, retries included.

    retry_s: what a failure costs beside its own time: to wait, and to be done again by whoever is
    usual. Doubt counts in the agent's favour, so that it is asked now and then and found out.
    """
    p = prediction.success
    doubt = math.sqrt(prediction.log_s.variance + (1 - p) ** 2 * prediction.odds.variance)
    return (prediction.seconds + (1 - p) * retry_s) * math.exp(-optimism * doubt)


def share(odds: float, variance: float = 0.0) -> float:
    """Return the share, 0-1, that log odds stand for, averaged over their variance."""
    # The logistic curve, flattened as a normal one would be: error below .01.
    odds /= math.sqrt(1 + math.pi * variance / 8)
    return 1 / (1 + math.exp(-odds)) if odds > -500 else 0.0


# -- learning --------------------------------------------------------------------------------------


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
    for measure in (SUCCESS, TIME):
        _update(model, skill, kind, cell, lesson, measure)
    _count(model, skill, cell)
    if kind is not None:
        model.usual[kind].add(lesson)
        model.leases_of[kind] += lesson.leases
    for place in {0, cell}:
        skill.usual[place].add(lesson)
        skill.leases[place] += lesson.leases
    skill.match[cell] = lesson.match


def _kind(model: Model, kind: str) -> int | None:
    """Return the place of a kind of work, perhaps a new one; None: the pool has too many."""
    if kind in model.kinds:
        return model.kinds.index(kind)
    if len(model.kinds) >= MAX_KINDS:
        return None
    model.kinds.append(kind)
    model.usual.append(Usual())
    model.leases_of.append(0)
    for measure, shared in enumerate(model.shared):
        shared.means.append(0.0)
        _grow(shared.covariance, KIND_SPREAD[measure] ** 2)
    return len(model.kinds) - 1


def _grow(covariance: list[list[float]], variance: float) -> None:
    for row in covariance:
        row.append(0.0)
    covariance.append([0.0] * len(covariance) + [variance])


def _new_skill(model: Model) -> Skill:
    spread = [_spread(model.agents, i, AGENT_SPREAD[i], SPREAD_WEIGHT[0]) for i in MEASURES]
    model.agents.count += 1
    for i in MEASURES:
        model.agents.squares[i] += spread[i]
    own = tuple(Own([0.0], [[]], [[variance]]) for variance in spread)
    return Skill(
        kinds=[],
        own=(own[0], own[1]),
        usual=[Usual()],
        leases=[0],
        match=[0.0],
        counted=[spread],
        clock=model.clock,
        at=model.at,
    )


def _spread(seen: Spread, measure: int, first: float, weight: float) -> float:
    """Return the variance among agents or cells: of those seen, and of some that are assumed."""
    return (seen.squares[measure] + weight * first**2) / (seen.count + weight)


def _age(model: Model, skill: Skill) -> None:
    """Let doubts grow with what the pool did, and with time, since the agent's last lesson."""
    leases, days = model.clock - skill.clock, max(0.0, model.at - skill.at) / _DAY_S
    skill.clock, skill.at = model.clock, max(skill.at, model.at)
    for measure, own in enumerate(skill.own):
        grown = leases * DRIFT_A_LEASE[measure] + days * DRIFT_A_DAY[measure]
        rows = own.covariance
        rows[0][0] += grown
        for i in range(1, len(rows)):
            rows[i][i] += CELL_DRIFT * grown


def _cell(model: Model, skill: Skill, kind: str) -> int:
    """Return the place of a kind of work in an agent's skill; 0, itself, if it has too many."""
    if kind in skill.kinds:
        return skill.kinds.index(kind) + 1
    if len(skill.kinds) >= MAX_KINDS:
        return 0
    spread = [_spread(model.cells, i, CELL_SPREAD[i], SPREAD_WEIGHT[1]) for i in MEASURES]
    model.cells.count += 1
    skill.kinds.append(kind)
    skill.usual.append(Usual())
    skill.leases.append(0)
    skill.match.append(0.0)
    skill.counted.append(spread)
    for measure, own in enumerate(skill.own):
        model.cells.squares[measure] += spread[measure]
        own.base.append(0.0)
        own.slopes.append([])
        _grow(own.covariance, spread[measure])
    return len(skill.kinds)


def _update(
    model: Model, skill: Skill, kind: int | None, cell: int, lesson: Lesson, measure: int
) -> None:
    """Share a surprise out among all that may explain it, each by how uncertain it is."""
    shared, own = model.shared[measure], skill.own[measure]
    rows = own.covariance
    ours = [row[0] + row[cell] for row in rows] if cell else [row[0] for row in rows]
    skilled = ours[0] + (ours[cell] if cell else 0.0)
    base = own.base[0] + (own.base[cell] if cell else 0.0)
    direct = _direct(shared, kind, lesson.match)
    weights = _weights(own, cell, direct)
    theirs = [_dot(row, weights) for row in shared.covariance]
    doubt = skilled + _dot(theirs, weights)
    mean = base + _dot(shared.means, weights)
    if measure == SUCCESS:
        p = share(mean, doubt)
        weight = max(0.05, p * (1 - p))
        surprise = (lesson.successes / lesson.leases - p) / weight
        noise = 1 / weight / lesson.leases
    else:
        surprise = lesson.log_s - mean
        noise = model.noise / lesson.leases
        if lesson.leases == 1:
            _hear_noise(model, surprise, doubt)
    # Given what is shared, the agent's values move by what is left of the surprise ...
    observed = mean + surprise - base
    for i, each in enumerate(ours):
        gain = each / (skilled + noise)
        own.base[i] += gain * observed
        slope = own.slopes[i]
        slope += [0.0] * (len(weights) - len(slope))
        own.slopes[i] = [old - gain * weight for old, weight in zip(slope, weights, strict=True)]
        rows[i] = [old - gain * other for old, other in zip(rows[i], ours, strict=True)]
    # ... and what is shared moves by as much as all that is uncertain leaves to it.
    whole = doubt + noise
    for i, each in enumerate(theirs):
        part = each / whole
        shared.means[i] += part * surprise
        row = shared.covariance[i]
        shared.covariance[i] = [old - part * their for old, their in zip(row, theirs, strict=True)]


def _direct(shared: Shared, kind: int | None, match: float) -> list[float]:
    """Return what counts of the shared values for a lease: match, the usual, the kind's own."""
    weights = [0.0] * len(shared.means)
    weights[0], weights[1] = match, 1.0
    if kind is not None:
        weights[kind + 2] = 1.0
    return weights


def _weights(own: Own, cell: int, direct: list[float]) -> list[float]:
    """Return how an expected value of the agent moves with each shared value."""
    weights = list(direct)
    for place in {0, cell}:
        for i, slope in enumerate(own.slopes[place]):
            weights[i] += slope
    return weights


def _dot(left: list[float], right: list[float]) -> float:
    return float(sum(map(mul, left, right)))


def _hear_noise(model: Model, surprise: float, doubt: float) -> None:
    """Let one surprise move the variance from lease to lease; an outlier counts as 9 at most."""
    # What the doubts explain of it is taken off by shares, so that it stays above 0.
    whole = model.noise + doubt
    seen = min(surprise**2, 9 * whole) * model.noise / whole
    model.noise += (seen - model.noise) / min(5 * MEMORY, 20 + model.leases)


def _count(model: Model, skill: Skill, cell: int) -> None:
    """Keep the spreads of agents and cells to what is known of this one now."""
    for place, seen in ((0, model.agents), (cell, model.cells))[: 2 if cell else 1]:
        for measure in MEASURES:
            own, shared = skill.own[measure], model.shared[measure]
            mean = own.base[place] + _dot(own.slopes[place], shared.means)
            now = mean**2 + own.covariance[place][place]
            seen.squares[measure] += now - skill.counted[place][measure]
            skill.counted[place][measure] = now


# -- predicting ------------------------------------------------------------------------------------


def predict(model: Model, skill: Skill | None, kind: str, *, match: float = 0.0) -> Prediction:
    """
    Return what is expected of an agent at a kind of work, by all that the model knows.

    skill: None: nothing is known of the agent, it is taken to be like its pool. The doubts are as
    of the agent's last lesson.
    """
    place = _place(model, kind)
    cell = skill.kinds.index(kind) + 1 if skill and kind in skill.kinds else 0
    odds, log_s = (_value(model, skill, place, cell, match, measure) for measure in MEASURES)
    pool = model.usual[place] if place is not None else Usual(efficiency=0.5)
    usual = skill.usual[cell] if skill and cell else Usual()
    return Prediction(
        odds=odds,
        log_s=log_s,
        noise=model.noise,
        tokens=_shrunk(usual.tokens, usual.leases, pool.tokens),
        efficiency=_shrunk(usual.efficiency, usual.leases, pool.efficiency),
        leases=skill.leases[cell] if skill and cell else 0,
        at=skill.at if skill else 0.0,
    )


def average(model: Model, kind: str | None) -> Average:
    """Return what is usual in a pool for a kind of work; None: for one that it has not seen."""
    place = None if kind is None else _place(model, kind)
    odds, log_s = (_value_of_all(model, place, measure) for measure in MEASURES)
    usual = model.usual[place] if place is not None else Usual(efficiency=0.5)
    new = [_value(model, None, place, 0, 0.0, measure).variance for measure in MEASURES]
    success, seconds = share(odds.mean, odds.variance), math.exp(log_s.mean + model.noise / 2)
    return Average(
        odds=odds.mean,
        log_s=log_s.mean,
        odds_doubt=new[SUCCESS],
        log_s_doubt=new[TIME],
        match_odds=model.shared[SUCCESS].means[0],
        match_log_s=model.shared[TIME].means[0],
        noise=model.noise,
        retry_s=(usual.waited_s + seconds) / success,
        tokens=usual.tokens,
        efficiency=usual.efficiency,
        leases=model.leases_of[place] if place is not None else model.leases,
        at=model.at,
    )


def cell(model: Model, skill: Skill, kind: str | None) -> Cell:
    """Return how an agent differs from the average at a kind; None: at one that it has not seen."""
    known = kind is not None and kind in skill.kinds
    match = skill.match[skill.kinds.index(kind) + 1] if kind is not None and known else 0.0
    place = None if kind is None else _place(model, kind)
    i = skill.kinds.index(kind) + 1 if kind is not None and known else 0
    values = [_value(model, skill, place, i, match, measure) for measure in MEASURES]
    own = [
        value.mean - _value_of_all(model, place, measure).mean - shared.means[0] * match
        for measure, (value, shared) in enumerate(zip(values, model.shared, strict=True))
    ]
    pool = model.usual[place] if place is not None else Usual(efficiency=0.5)
    usual = skill.usual[i] if i else Usual()
    return Cell(
        odds=own[SUCCESS],
        log_s=own[TIME],
        odds_doubt=values[SUCCESS].variance,
        log_s_doubt=values[TIME].variance,
        tokens=_shrunk(usual.tokens, usual.leases, pool.tokens),
        efficiency=_shrunk(usual.efficiency, usual.leases, pool.efficiency),
        leases=skill.leases[i] if i else 0,
        at=skill.at,
    )


def expect(average: Average, cell: Cell | None, *, match: float = 0.0) -> Prediction:
    """
    Return what is expected of an agent, from what was written down of it and of its pool.

    cell: None: nothing is known of it. match: as of a lesson, 0: the request has no tags.
    """
    odds = average.odds + average.match_odds * match
    log_s = average.log_s + average.match_log_s * match
    if cell is None:
        return Prediction(
            Gauss(odds, average.odds_doubt),
            Gauss(log_s, average.log_s_doubt),
            average.noise,
            average.tokens,
            average.efficiency,
            0,
            0.0,
        )
    return Prediction(
        Gauss(odds + cell.odds, cell.odds_doubt),
        Gauss(log_s + cell.log_s, cell.log_s_doubt),
        average.noise,
        cell.tokens,
        cell.efficiency,
        cell.leases,
        cell.at,
    )


def nothing_known(expected_duration_s: float | None) -> Average:
    """Return what is taken to be usual in a pool without outcomes; the guess, seconds, if any."""
    model = Model()
    found = average(model, None)
    if expected_duration_s is None:
        return found
    log_s = math.log(max(1e-3, expected_duration_s))
    return replace(found, log_s=log_s, retry_s=found.retry_s * math.exp(log_s - found.log_s))


def _place(model: Model, kind: str) -> int | None:
    return model.kinds.index(kind) if kind in model.kinds else None


def _value_of_all(model: Model, kind: int | None, measure: int) -> Gauss:
    shared = model.shared[measure]
    weights = _direct(shared, kind, 0.0)
    doubts = [_dot(row, weights) for row in shared.covariance]
    return Gauss(_dot(shared.means, weights), _dot(weights, doubts))


def _value(
    model: Model, skill: Skill | None, kind: int | None, cell: int, match: float, measure: int
) -> Gauss:
    shared = model.shared[measure]
    weights = _direct(shared, kind, match)
    mean, variance = 0.0, 0.0
    if skill is None:
        variance = _spread(model.agents, measure, AGENT_SPREAD[measure], SPREAD_WEIGHT[0])
    else:
        own = skill.own[measure]
        weights = _weights(own, cell, weights)
        mean = own.base[0] + (own.base[cell] if cell else 0.0)
        variance = own.covariance[0][0]
        if cell:
            variance += 2 * own.covariance[0][cell] + own.covariance[cell][cell]
    if not cell:
        variance += _spread(model.cells, measure, CELL_SPREAD[measure], SPREAD_WEIGHT[1])
    mean += _dot(shared.means, weights)
    variance += _dot(weights, [_dot(row, weights) for row in shared.covariance])
    return Gauss(mean, variance)


def _shrunk(own: float, leases: float, usual: float) -> float:
    return (own * leases + usual * PRIOR_LEASES) / (leases + PRIOR_LEASES)
