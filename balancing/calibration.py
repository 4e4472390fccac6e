"""
Says how good predictions were, against the mean of the kind of work, and when to trust them.

Pure. Each outcome is compared with what was expected before it was known.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from balancing.outlook import Prediction

BINS = 10
# What a pool must have seen before its predictions are proposed, and by how many standard errors
# they must have been better than the mean of the kind of work.
LEAST_LEASES = 100
SURE = 2.0
# How far back the proposal looks, days.
LOOK_BACK_DAYS = 14


@dataclass(slots=True)
class Tally:
    """Sums over outcomes, as the table of the same name keeps them a day."""

    leases: int = 0
    squares: float = 0.0
    naive_squares: float = 0.0
    errors: float = 0.0
    naive_errors: float = 0.0
    gain: float = 0.0
    gain_squares: float = 0.0
    within: int = 0
    bin_leases: list[int] = field(default_factory=lambda: [0] * BINS)
    bin_predicted: list[float] = field(default_factory=lambda: [0.0] * BINS)
    bin_successes: list[int] = field(default_factory=lambda: [0] * BINS)

    def add(self, said: Prediction, naive: Prediction, *, is_success: bool, log_s: float) -> None:
        """Compare one outcome with what was said of it, and with the mean of its kind of work."""
        square, naive_square = (each.success - is_success for each in (said, naive))
        square, naive_square = square**2, naive_square**2
        error, naive_error = (abs(each.log_s.mean - log_s) for each in (said, naive))
        gain = naive_square - square + naive_error - error
        low_s, high_s = said.seconds_interval
        place = min(BINS - 1, int(BINS * said.success))
        self.leases += 1
        self.squares += square
        self.naive_squares += naive_square
        self.errors += error
        self.naive_errors += naive_error
        self.gain += gain
        self.gain_squares += gain**2
        self.within += low_s <= math.exp(log_s) <= high_s
        self.bin_leases[place] += 1
        self.bin_predicted[place] += said.success
        self.bin_successes[place] += is_success


@dataclass(frozen=True)
class Report:
    """
    How good predictions were; shares 0-1, None: nothing was predicted.

    *_skill: 1 - error / that of the mean of the kind of work: above 0 is better than it. coverage:
    of the bounds for 8 of 10. typical_factor: predicted and taken seconds differ by it.
    proposes: they have beaten the mean, beyond chance.
    """

    leases: int
    success_error: float | None
    success_skill: float | None
    time_error: float | None
    time_skill: float | None
    typical_factor: float | None
    coverage: float | None
    bins: list[tuple[float, float, int]]
    proposes: bool
    why: str


def merged(tallies: Iterable[Tally]) -> Tally:
    """Return the sum of tallies."""
    total = Tally()
    for each in tallies:
        for name in Tally.__slots__:
            mine, its = getattr(total, name), getattr(each, name)
            if isinstance(mine, list):
                setattr(total, name, [a + b for a, b in zip(mine, its, strict=True)])
            else:
                setattr(total, name, mine + its)
    return total


def report(tally: Tally) -> Report:
    """Return what a tally says."""
    n = tally.leases
    proposes, why = _proposes(tally)
    bins = [
        (predicted / count, successes / count, count)
        for count, predicted, successes in zip(
            tally.bin_leases, tally.bin_predicted, tally.bin_successes, strict=True
        )
        if count
    ]
    return Report(
        leases=n,
        success_error=math.sqrt(tally.squares / n) if n else None,
        success_skill=_skill(tally.squares, tally.naive_squares),
        time_error=tally.errors / n if n else None,
        time_skill=_skill(tally.errors, tally.naive_errors),
        typical_factor=math.exp(tally.errors / n) if n else None,
        coverage=tally.within / n if n else None,
        bins=bins,
        proposes=proposes,
        why=why,
    )


def _skill(error: float, naive: float) -> float | None:
    return 1 - error / naive if naive else None


def _proposes(tally: Tally) -> tuple[bool, str]:
    n = tally.leases
    if n < LEAST_LEASES:
        return False, f"{n} of {LEAST_LEASES} leases have been predicted"
    mean = tally.gain / n
    doubt = math.sqrt(max(0.0, tally.gain_squares / n - mean**2) / n)
    if mean > SURE * doubt:
        return True, f"over {n} leases it predicted better than the mean of the kind of work"
    return False, f"over {n} leases it was not better than the mean of the kind of work"
