"""Says in words and numbers why a request was refused, waits, or got its agent. Reads only."""

from balancing.explain.answers import Explanation, explain
from balancing.explain.reasons import Reason, reasons
from balancing.explain.refusals import RETRY_AFTER_S, refusal
from balancing.explain.turns import Turn, position_of, turns_of

__all__ = [
    "RETRY_AFTER_S",
    "Explanation",
    "Reason",
    "Turn",
    "explain",
    "position_of",
    "reasons",
    "refusal",
    "turns_of",
]
