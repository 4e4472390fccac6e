"""What Django-Q runs for balancing: health, expiry, and the look at queues that somebody missed."""

from balancing import queries
from balancing.services import (
    agents,
    heartbeats,
    learning,
    leases,
    notes,
    queue,
    rebalancing,
    requests,
    settling,
)


def check_health() -> dict[str, int]:
    """Judge the silence of agents, and lift judgements whose time is over."""
    return heartbeats.check()


def expire() -> dict[str, int]:
    """End offers nobody took, leases nobody renewed, requests nobody asks for, overdue drains."""
    return {
        "leases": leases.expire_leases(),
        "requests": requests.time_out_requests(),
        "drained": agents.end_overdue_drains(),
    }


def serve() -> int:
    """Grant what a process that died between its commit and its look has left waiting."""
    return queue.serve(queries.pools_with_servable_waiters())


def reserve() -> dict[str, int]:
    """Keep capacity for requests that others have passed too often; note why each one waits."""
    pools = queries.pools_with_keeping()
    return {"reserved": queue.reserve(pools), "noted": notes.note_reasons(pools)}


def learn() -> dict[str, int]:
    """Charge projects for what they used; learn from the newest outcomes."""
    return {"events": queue.charge(), "learnt": learning.learn()}


def fold() -> int:
    """Take outcomes that are older than their kept time into the days' sums; forget who is gone."""
    return learning.fold()


def rebalance() -> dict[str, int]:
    """Settle the changes of grants that are open; look what running leases use of theirs."""
    return {**settling.settle(), **rebalancing.look()}
