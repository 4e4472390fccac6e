"""
Says how long an agent will take for a kind of work and whether it will succeed.

Pure, and plain Python: all that a claim and a page need. What is expected rests on what is usual in
the pool for the kind of work and on how the agent differs from it; how both are found stands in
`balancing.belief` and `balancing.kalman`, and `balancing.estimate` makes these values of it.
"""

import math
from typing import NamedTuple

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
# Used share of a grant where nothing was measured.
USUAL_EFFICIENCY = 0.5
# Standard deviations of log time by which doubt makes an agent attractive: it is found out.
OPTIMISM = 0.3
# Half of the width of the interval that holds 8 of 10, in standard deviations.
EIGHT_OF_TEN = 1.2816
# Measures: log odds of success, log seconds. Each has its own values in what follows.
MEASURES = SUCCESS, TIME = 0, 1


class Gauss(NamedTuple):
    """A value that is not known exactly: its mean and variance."""

    mean: float
    variance: float


class Average(NamedTuple):
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


class Cell(NamedTuple):
    """How one agent differs from its pool at one kind of work; the doubts are all there are."""

    odds: float
    log_s: float
    odds_doubt: float
    log_s_doubt: float
    tokens: float
    efficiency: float
    leases: int
    at: float


class Prediction(NamedTuple):
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
    log_s = USUAL[TIME]
    if expected_duration_s is not None:
        log_s = math.log(max(1e-3, expected_duration_s))
    odds_doubt, log_s_doubt = (
        USUAL_DOUBT[i] ** 2 + AGENT_SPREAD[i] ** 2 + CELL_SPREAD[i] ** 2 for i in MEASURES
    )
    success = share(USUAL[SUCCESS], USUAL_DOUBT[SUCCESS] ** 2)
    return Average(
        odds=USUAL[SUCCESS],
        log_s=log_s,
        odds_doubt=odds_doubt,
        log_s_doubt=log_s_doubt,
        match_odds=MATCH_WORTH[SUCCESS][0],
        match_log_s=MATCH_WORTH[TIME][0],
        noise=USUAL_NOISE,
        retry_s=math.exp(log_s + USUAL_NOISE / 2) / success,
        tokens=0.0,
        efficiency=USUAL_EFFICIENCY,
        leases=0,
        at=0.0,
    )


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
