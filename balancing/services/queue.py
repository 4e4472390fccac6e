"""
Looks at the queues: publish (commit), then look, in a new transaction (docs/decisions/0003).

Whatever frees or adds capacity calls `serve_after_commit`; the pulse's tick covers a process that
dies between its commit and its look.
"""

import time
from collections.abc import Iterable

from django.db import transaction

from agentpool.registry import events
from balancing import claim

# A repeat of serve waits this long for a row lock to go away; bounded, the pulse's tick follows.
AGAIN_AFTER_S = 0.001
AGAIN_AT_MOST = 50


def serve(agent_types: Iterable[str]) -> int:
    """
    Look at the queues of these pools until nothing more can be granted; return how many were.

    Must run outside of a transaction: each look needs a snapshot newer than the publisher's commit.
    """
    # One plain read tells where nobody waits; it is newer than what was published.
    concerned = claim.waited_for(sorted(set(agent_types)))
    return sum(_serve_one(agent_type) for agent_type in concerned)


def serve_after_commit(*agent_types: str) -> None:
    """This will look at the queues once the current transaction is visible to everybody."""
    transaction.on_commit(lambda: serve(agent_types))


def _serve_one(agent_type: str) -> int:
    total = 0
    exact = False
    for _ in range(AGAIN_AT_MOST):
        look = claim.serve(agent_type, exact=exact)
        total += look.granted
        exact = look.exact
        if look.granted:
            events.nudge_on_commit()
        if not (look.again or look.exact):
            break
        if not look.granted and not look.exact:
            time.sleep(AGAIN_AFTER_S)
    return total


def reserve(agent_types: Iterable[str]) -> int:
    """Keep capacity for whoever was passed too often in these pools; return how many there are."""
    helped = 0
    for agent_type in agent_types:
        if claim.reserve(agent_type) is not None:
            helped += 1
            _serve_one(agent_type)
    return helped


def charge() -> int:
    """Charge the projects' shares with what the newest events say; return how many were read."""
    return claim.fold_shares()
