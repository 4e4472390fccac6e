"""Ends and grants what arrived together, by any door of a process, in one transaction."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from django.db import DatabaseError, connection

from agentpool.registry import credentials, events
from agentpool.registry.errors import Refusal, Unauthenticated
from balancing import claim
from balancing.claim import Close, Exchanged
from balancing.claim import Wish as Wish
from balancing.services import leases, queue, requests
from balancing.services.combining import Combined

T = TypeVar("T")
# A lease as JSON; None: the request waits.
Answer = str | None | Refusal
# Above this, answers would wait longer for their neighbours than the shared commit saves.
MOST_AT_ONCE = 128


@dataclass(frozen=True)
class Call:
    """One call: what is asked for, and the credential that must still be good (None: no token)."""

    wish: Wish | Close
    credential: UUID | None


def one(call: Call) -> str | None:
    """
    Serve one call together with those of other threads; return the lease, as JSON, None: it waits.

    Inside a transaction it is served alone, in that one. Raises as `leases.close` and
    `requests.submit` do, and Unauthenticated.
    """
    answer = _alone(call) if connection.in_atomic_block else _combined(call)
    if isinstance(answer, Refusal):
        raise answer
    return answer


def answers(calls: Sequence[Call]) -> list[Answer]:
    """Serve calls, of whom those with a credential that is no longer good get nothing."""
    held = {call.credential for call in calls if call.credential is not None}
    good = credentials.good(held) if held else set()
    valid = [c for c in calls if c.credential is None or c.credential in good]
    closes = [c.wish for c in valid if isinstance(c.wish, Close)]
    wishes = [c.wish for c in valid if isinstance(c.wish, Wish)]
    ended, granted = exchange(closes, wishes)
    found: dict[int, Answer] = dict(zip(map(id, closes), ended, strict=True))
    found |= dict(zip(map(id, wishes), granted, strict=True))
    revoked = Unauthenticated("The token has been revoked or has expired.")
    return [found.get(id(call.wish), revoked) for call in calls]


_combined: Combined[Call, Answer] = Combined(answers, most=MOST_AT_ONCE)


def _alone(call: Call) -> str | None:
    if call.credential is not None and not credentials.good({call.credential}):
        raise Unauthenticated("The token has been revoked or has expired.")
    return _submit(call.wish) if isinstance(call.wish, Wish) else _close(call.wish)


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
