"""Ends and grants what arrived together, by any door of a process, in one transaction."""

import logging
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar
from uuid import UUID

from django.db import DatabaseError, connection

from agentpool.registry import counters, credentials, events
from agentpool.registry.errors import Refusal, Unauthenticated
from balancing import claim, terms
from balancing.services import leases, queue, requests
from balancing.services.combining import Combined
from balancing.terms import Close, Exchanged
from balancing.terms import Wish as Wish

log = logging.getLogger(__name__)
T = TypeVar("T")
# A lease as JSON; None: the request waits. An error is raised where its call came from.
Answer = str | None | Refusal | DatabaseError
# Above this, answers would wait longer for their neighbours than the shared commit saves.
MOST_AT_ONCE = 128


class Call(NamedTuple):
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
    if isinstance(answer, Exception):
        raise answer
    return answer


def answers(calls: Sequence[Call]) -> list[Answer]:
    """
    Serve calls: release leases, then ask for agents; return the answers to each.

    An answer is what `leases.close` and `requests.submit` return, as JSON, or the refusal that they
    would raise: one bad call does not harm the others, and those whose credential is good no more
    get nothing. Must run outside of a transaction; after it the queues of the pools concerned have
    been looked at once. Raises: DatabaseError for all, when the connection was lost.
    """
    if not calls:
        return []
    closes = [call.wish for call in calls if isinstance(call.wish, Close)]
    wishes = [call.wish for call in calls if isinstance(call.wish, Wish)]
    held = {call.credential for call in calls if call.credential is not None}
    began = time.perf_counter()
    try:
        done = claim.exchange(closes, wishes, credentials=held)
    except DatabaseError:
        if connection.connection is None or connection.connection.closed:
            raise  # nobody knows whether it was committed: once more could be twice
        # Whatever it was concerns one of them: let that one fail by itself.
        return [_tried(_alone, call) for call in calls]
    if wishes:
        took_s = time.perf_counter() - began
        counters.observe("agentpool_decision_duration_seconds", {"kind": "placing"}, took_s)
        counters.flush_if_due()
    if done.refused:
        good = iter(answers([call for call in calls if call.credential not in done.refused]))
        return [_revoked() if call.credential in done.refused else next(good) for call in calls]
    concerned = _concerned(done, wishes)
    _tell(concerned if done.serveable is None else concerned & done.serveable)
    ended = zip(done.ended, closes, strict=True)
    granted = zip(done.granted, wishes, strict=True)
    return [
        _tried(_ended, next(ended))
        if isinstance(c.wish, Close)
        else _tried(_answered, next(granted))
        for c in calls
    ]


_combined: Combined[Call, Answer] = Combined(answers, most=MOST_AT_ONCE, name="exchange")


def _alone(call: Call) -> str | None:
    if call.credential is not None and not credentials.good({call.credential}):
        raise _revoked()
    return _submit(call.wish) if isinstance(call.wish, Wish) else _close(call.wish)


def _revoked() -> Unauthenticated:
    return Unauthenticated("The token has been revoked or has expired.")


def _concerned(done: terms.Exchange, wishes: Sequence[Wish]) -> set[str]:
    freed = {agent_type for one in done.ended for agent_type in one.pools}
    asked = zip(done.granted, wishes, strict=True)
    return freed | {wish.agent_type for one, wish in asked if one.code == "waiting"}


def _ended(pair: tuple[Exchanged, Close]) -> str:
    one, wish = pair
    return one.shown or leases.why_not(wish)


def _answered(pair: tuple[Exchanged, Wish]) -> str | None:
    one, wish = pair
    if one.code in ("granted", "waiting"):
        return one.shown
    lease = requests.answered(terms.Acquired(one.code, wish.request(), None))
    # In a transaction of its own, after the others' had been told.
    _tell({wish.agent_type} if lease is None else set())
    return claim.shown(lease.id) if lease else None


def _close(wish: Close) -> str:
    return claim.shown(leases.close(wish).id)


def _submit(wish: Wish) -> str | None:
    lease = requests.submit(wish.request())
    return claim.shown(lease.id) if lease else None


def _tell(concerned: set[str]) -> None:
    """Tell the listeners of what is committed, and look at these pools' queues."""
    try:
        events.nudge_on_commit()
        if concerned:
            queue.serve(concerned)
    except DatabaseError as error:
        _recover()
        # What was granted stands, and shall reach who asked; the pulse looks within a second.
        log.warning("could not look at the queues error=%s", error)


def _tried(call: Callable[[T], str | None], subject: T) -> Answer:
    try:
        return call(subject)
    except Refusal as refusal:
        return refusal
    except DatabaseError as error:
        _recover()
        return error  # raised here, it would take with it what others have got already


def _recover() -> None:
    """Let the next call connect anew, if the connection was lost."""
    if connection.connection is None or connection.connection.closed:
        connection.close()
