"""Ends and grants what arrived together in one transaction: the way of the gateway's fast path."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from django.db import DatabaseError

from agentpool.registry import events
from agentpool.registry.errors import Refusal
from balancing import claim
from balancing.claim import Close, Exchanged
from balancing.claim import Wish as Wish
from balancing.services import leases, queue, requests

T = TypeVar("T")
# A lease as JSON; None: the request waits.
Answer = str | None | Refusal


def exchange(closes: Sequence[Close], wishes: Sequence[Wish]) -> tuple[list[Answer], list[Answer]]:
    """
    Release leases, then ask for agents; return the answers to each.

    An answer is what `leases.close` and `requests.submit` return, as JSON, or the refusal that they
    would raise: one bad message does not harm the others. Must run outside of a transaction; after
    it the queues of the pools concerned have been looked at once.
    """
    try:
        closed, acquired = claim.exchange(closes, wishes)
    except DatabaseError:
        # Whatever it was concerns one of them: let that one fail by itself.
        return _tried(_close, closes), _tried(_submit, wishes)
    events.nudge_on_commit()
    if concerned := _concerned(closed, acquired, wishes):
        queue.serve(concerned)
    ended = _tried(_ended, list(zip(closed, closes, strict=True)))
    return ended, _tried(_answered, list(zip(acquired, wishes, strict=True)))


def _concerned(
    closed: Sequence[Exchanged], acquired: Sequence[Exchanged], wishes: Sequence[Wish]
) -> set[str]:
    freed = {agent_type for one in closed for agent_type in one.pools}
    asked = zip(acquired, wishes, strict=True)
    return freed | {wish.agent_type for one, wish in asked if one.code == "waiting"}


def _ended(pair: tuple[Exchanged, Close]) -> str:
    one, wish = pair
    return one.shown or leases.why_not(wish)


def _answered(pair: tuple[Exchanged, Wish]) -> str | None:
    one, wish = pair
    if one.code in ("granted", "waiting"):
        return one.shown
    lease = requests.answered(claim.Acquired(one.code, wish.request(), None))
    return claim.shown(lease.id) if lease else None


def _close(wish: Close) -> str:
    return claim.shown(leases.close(wish).id)


def _submit(wish: Wish) -> str | None:
    lease = requests.submit(wish.request())
    return claim.shown(lease.id) if lease else None


def _tried(call: Callable[[T], str | None], subjects: Sequence[T]) -> list[Answer]:
    answers: list[Answer] = []
    for subject in subjects:
        try:
            answers.append(call(subject))
        except Refusal as refusal:
            answers.append(refusal)
    return answers
