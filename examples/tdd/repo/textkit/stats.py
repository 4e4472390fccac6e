"""Statistics of a list of numbers: mean, median, percentiles, a histogram in text."""

from collections.abc import Sequence


def mean(values: Sequence[float]) -> float:
    """
    Return the arithmetic mean.

    Raises: ValueError, there are no values.
    """
    if not values:
        raise ValueError("the mean of nothing is not defined")
    return sum(values) / len(values)


def median(values: Sequence[float]) -> float:
    """
    Return the value in the middle, or the mean of the two in the middle.

    Raises: ValueError, there are no values.
    """
    if not values:
        raise ValueError("the median of nothing is not defined")
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def percentile(values: Sequence[float], *, share: float) -> float:
    """Return the value below which a share (0 to 1) of the values lies."""
    ordered = sorted(values)
    return ordered[int(len(ordered) * share)]


def histogram(counts: dict[str, int], *, width: int = 20) -> str:
    """Return one bar of `#` a label; the largest count fills the width."""
    if not counts:
        return ""
    longest = max(len(label) for label in counts)
    largest = max(counts.values()) or 1
    return "\n".join(
        f"{label:<{longest}} {'#' * round(width * count / largest)} {count}"
        for label, count in counts.items()
    )
