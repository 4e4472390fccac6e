"""Searching by likeness: edit distance, similarity, the closest of several words."""

from collections.abc import Iterable


def distance(left: str, right: str) -> int:
    """Return how many edits (insert, delete or replace a letter) turn one text into the other."""
    previous = list(range(len(right) + 1))
    for row, a in enumerate(left, 1):
        current = [row]
        for column, b in enumerate(right, 1):
            current.append(
                min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (a != b))
            )
        previous = current
    return previous[-1]


def similarity(left: str, right: str) -> float:
    """Return how alike two texts are, from 0 (nothing in common) to 1 (equal)."""
    longest = max(len(left), len(right))
    return 1 - distance(left, right) / longest if longest else 1.0


def closest(word: str, candidates: Iterable[str], *, at_most: int = 2) -> str | None:
    """Return the candidate with the fewest edits to the word; None when all are too far away."""
    best: str | None = None
    for candidate in candidates:
        edits = distance(word, candidate)
        if edits <= at_most:
            best, at_most = candidate, edits
    return best
