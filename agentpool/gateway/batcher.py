"""
The fast path: acquires and releases of this process that arrive together share one transaction.

Each message is answered when its transaction has committed.
"""

from agentpool.gateway.gatherer import PerLoop
from balancing.services.exchange import MOST_AT_ONCE, Call, answers
from balancing.terms import Close

batcher: PerLoop[Call, str | None] = PerLoop(
    answers,
    name="batcher",
    most=MOST_AT_ONCE,
    # Who gives back asks anew, mostly; and what is given back others wait for.
    is_first=lambda call: isinstance(call.wish, Close),
)
