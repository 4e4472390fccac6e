"""
The fast path: acquires and releases of this process that arrive together share one transaction.

Each message is answered when its transaction has committed.
"""

from agentpool.gateway.gatherer import PerLoop
from balancing.services.exchange import MOST_AT_ONCE, Call, answers

batcher: PerLoop[Call, str | None] = PerLoop(answers, name="batcher", most=MOST_AT_ONCE)
