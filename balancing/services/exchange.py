"""Ends and grants what arrived together in one transaction: the way of the gateway's fast path."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from django.db import DatabaseError, transaction

from agentpool.registry import events
from agentpool.registry.errors import Refusal
from agentpool.registry.models import Lease, Request
from balancing import claim
from balancing.claim import Acquired, Close, Closed
from balancing.services import leases, queue, requests

T = TypeVar("T")
Answer = Lease | Refusal | None


def exchange(
    closes: Sequence[Close], wishes: Sequence[Request]
) -> tuple[list[Answer], list[Answer]]:
    """
    Release leases, then ask for agents; return the answers to each.

    An answer is what `leases.release` and `requests.submit` return (None: the request waits), or
    the refusal that they would raise: one bad message does not harm the others. Must run outside
    of a transaction; after it the queues of the pools concerned have been looked at once.
    """
    try:
        with transaction.atomic():
            closed = claim.close(closes) if closes else []
            acquired = claim.acquire(wishes, queue=True) if wishes else []
    except DatabaseError:
        # Whatever it was concerns one of them: let that one fail by itself.
        return _tried(leases.close, closes), _tried(requests.submit, wishes)
    events.nudge_on_commit()
    queue.serve(_concerned(closed, acquired))
    ended = _tried(_ended, list(zip(closed, closes, strict=True)))
    return ended, _tried(requests.answered, acquired)


def _concerned(closed: Sequence[Closed], acquired: Sequence[Acquired]) -> set[str]:
    freed = {agent_type for one in closed for agent_type in one.pools}
    return freed | {one.request.pool_id for one in acquired if one.code == "waiting"}


def _ended(pair: tuple[Closed, Close]) -> Lease:
    return leases.ended(*pair)


def _tried(call: Callable[[T], Lease | None], subjects: Sequence[T]) -> list[Answer]:
    answers: list[Answer] = []
    for subject in subjects:
        try:
            answers.append(call(subject))
        except Refusal as refusal:
            answers.append(refusal)
    return answers
