"""
What a pool has learnt of its agents: all that is believed of it, and how firmly.

Pure. Log seconds and the log odds of success are the sum of what is usual for the kind of work
(story type), how this agent differs from others, how it differs at this very kind, and how well its
capabilities match the tags. All of these are normal.
"""

from dataclasses import dataclass, field
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from balancing.outlook import MATCH_WORTH, MEASURES, SUCCESS, TIME, USUAL, USUAL_DOUBT, USUAL_NOISE

Floats = NDArray[np.float64]
# How far the newest means reach back, in leases: noise, tokens, efficiency, waiting times.
MEMORY = 200.0
# What is shared first: the worth of a match and the usual value; then one a kind of work.
MATCH, ALL = 0, 1
FIRST_KIND = 2


class Lesson(NamedTuple):
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


class Shared:
    """
    What all agents of a pool have in common, in one measure; normal.

    means: (shared,): of the worth of a match, of the usual value, then one a kind of work: how much
    it differs from the usual. covariance: (shared, shared). Both are views of `block`, (shared,
    shared + 1), so that one surprise moves them at once.
    """

    __slots__ = ("block", "covariance", "means")

    def __init__(self, block: Floats) -> None:
        self.block = block
        self.covariance, self.means = block[:, :-1], block[:, -1]

    def __reduce__(self) -> tuple[type[Self], tuple[Floats]]:
        """Return how it is made again elsewhere: views must be views there, too."""
        return type(self), (self.block,)

    def with_kind(self, variance: float) -> Self:
        """Return the same with one more kind of work, of which only the variance is known."""
        count = len(self.means)
        block = np.zeros((count + 1, count + 2))
        block[:count, :count] = self.covariance
        block[:count, -1] = self.means
        block[count, count] = variance
        return type(self)(block)


class Own:
    """
    How one agent differs from the average of its pool, in one measure; normal.

    base: (places,); slopes: (places, shared): the mean is base + slopes x the shared means; with
    these, what is learnt later of all agents corrects what was thought of this one. Place 0 is the
    agent in all it does, then one a kind of work. covariance: (places, places): what is left when
    the shared values are known; variances: (places,). All are views of `block`, (places, places +
    shared + 1), so that one surprise moves them at once.
    """

    __slots__ = ("base", "block", "covariance", "places", "slopes", "variances")

    def __init__(self, block: Floats) -> None:
        self.block, self.places = block, len(block)
        self.covariance = block[:, : self.places]
        self.variances = np.einsum("ii->i", self.covariance)
        self.slopes, self.base = block[:, self.places : -1], block[:, -1]

    def __reduce__(self) -> tuple[type[Self], tuple[Floats]]:
        """Return how it is made again elsewhere: views must be views there, too."""
        return type(self), (self.block,)

    @classmethod
    def of(cls, variance: float, *, shared: int) -> Self:
        """Return an agent of which only the variance is known."""
        block = np.zeros((1, shared + 2))
        block[0, 0] = variance
        return cls(block)

    def grown(self, *, places: int, shared: int) -> Self:
        """Return the same with room for more kinds of work and more shared values, all 0."""
        block = np.zeros((places, places + shared + 1))
        block[: self.places, : self.places] = self.covariance
        block[: self.places, places : places + self.slopes.shape[1]] = self.slopes
        block[: self.places, -1] = self.base
        return type(self)(block)


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

    squares: list[float] = field(default_factory=lambda: [0.0, 0.0])
    count: int = 0

    def variances(self, first: tuple[float, float], weight: float) -> list[float]:
        """Return the variances among those seen and `weight` assumed ones of spread `first`."""
        return [
            (self.squares[i] + weight * first[i] ** 2) / (self.count + weight) for i in MEASURES
        ]


def _nothing_shared(measure: int) -> Shared:
    worth, doubt = MATCH_WORTH[measure]
    usual, usual_doubt = USUAL[measure], USUAL_DOUBT[measure]
    return Shared(np.array([[doubt**2, 0, worth], [0, usual_doubt**2, usual]]))


@dataclass(slots=True)
class Model:
    """All that a pool has learnt; `skills` may hold only the agents that are concerned."""

    kinds: list[str] = field(default_factory=list)
    usual: list[Usual] = field(default_factory=list)
    leases_of: list[int] = field(default_factory=list)
    shared: tuple[Shared, Shared] = field(
        default_factory=lambda: (_nothing_shared(SUCCESS), _nothing_shared(TIME))
    )
    skills: dict[str, Skill] = field(default_factory=dict)
    agents: Spread = field(default_factory=Spread)
    cells: Spread = field(default_factory=Spread)
    noise: float = USUAL_NOISE
    leases: int = 0
    # Leases of the pool by agent: how far the pool has come, whatever its size.
    clock: float = 0.0
    at: float = 0.0

    def place(self, kind: str | None) -> int | None:
        """Return the place of a kind of work among the pool's; None: it has not seen it."""
        return self.kinds.index(kind) if kind in self.kinds else None

    def direct(self, place: int | None, match: float) -> Floats:
        """Return what counts of the shared values for a lease: match, the usual, the kind's own."""
        weights = np.zeros(FIRST_KIND + len(self.kinds))
        weights[MATCH], weights[ALL] = match, 1.0
        if place is not None:
            weights[FIRST_KIND + place] = 1.0
        return weights
