"""Says in words and numbers why a request was refused, waits, or got its agent. Reads only."""

from balancing.explain.answers import Explanation, explain
from balancing.explain.reasons import Reason, reasons
from balancing.explain.refusals import RETRY_AFTER_S, refusal
from balancing.explain.turns import position_of

__all__ = ["RETRY_AFTER_S", "Explanation", "Reason", "explain", "position_of", "reasons", "refusal"]
