"""Takes requests in, keeps them waiting, and ends those that nobody wants any more."""

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.db import connection, models, transaction
from django.db.models import ExpressionWrapper, F, Value
from django.db.models.functions import Greatest, Now

from agentpool.registry import events
from agentpool.registry.errors import Refusal, UnsupportedTransition
from agentpool.registry.models import Lease, Request
from agentpool.registry.states import RequestStatus
from balancing import claim, explain, queries
from balancing.services import leases
from balancing.services.queue import AGAIN_AFTER_S, AGAIN_AT_MOST, serve_after_commit
from balancing.terms import Acquired

# Waiting requests of one statement; they are locked for as long as it takes.
KEPT_AT_ONCE = 50
_USED_UP = ExpressionWrapper(
    Value(timedelta(seconds=2 / 3)) * F("ttl_s"), output_field=models.DurationField()
)
_TTL = ExpressionWrapper(
    Value(timedelta(seconds=1)) * F("ttl_s"), output_field=models.DurationField()
)


def submit(request: Request, *, queue: bool = True) -> Lease | None:
    """
    Grant the request now, or store it as waiting; return its lease, None: it waits.

    queue: False refuses instead of waiting. Raises, with nothing stored: CapacityExhausted;
    Unsatisfiable, nobody could ever serve it; QueueFull.
    """
    lease = answered(_asked(request, queue=queue), queue=queue)
    events.nudge_on_commit()
    if lease is None:
        serve_after_commit(request.pool_id)
    return lease


def _asked(request: Request, *, queue: bool) -> Acquired:
    """
    Ask once; inside a transaction, a doubt about a limit leaves nothing locked.

    Who asks again, exactly, waits for the limits: whatever it held might be waited for in turn.
    """
    if not connection.in_atomic_block:
        return _claimed(request, queue=queue)
    with transaction.atomic():
        got = _claimed(request, queue=queue)
        transaction.set_rollback(got.code == "again")
    return got


def _claimed(request: Request, *, queue: bool, exact: bool = False) -> Acquired:
    """Claim; while all that fit are locked by others, who will not wait in line asks again."""
    for _ in range(AGAIN_AT_MOST):
        got = claim.acquire([request], queue=queue, exact=exact)[0]
        if got.code != "locked":
            break
        time.sleep(AGAIN_AFTER_S)
    return got


def answered(got: Acquired, *, queue: bool = True) -> Lease | None:
    """
    Return the lease, None: it waits; raises as `submit`.

    A doubt about a limit is settled first: by asking again, exactly, with nothing else locked.
    """
    if got.code == "again":
        got = _claimed(got.request, queue=queue, exact=True)
    if got.code not in ("granted", "waiting"):
        raise _refused(got)
    return got.lease


def _refused(got: Acquired) -> Refusal:
    """Return the refusal; its event stands, or is to be written again after the transaction."""
    refusal = explain.refusal(got.code, got.request)
    if got.code == "locked" or (connection.in_atomic_block and got.code != "unknown_type"):
        refusal.untold.append((got.request, got.code))
    events.tell_refused(refusal)
    events.nudge_on_commit()
    return refusal


def submit_all(requests: Sequence[Request], *, gang: bool) -> list[Request]:
    """
    Store a list of requests in one transaction; return them as they stand afterwards.

    gang: grant all at once or none (CapacityExhausted, nothing stored). Locks the limits first.
    """
    try:
        with transaction.atomic():
            _submit_each(requests, gang=gang)
    except Refusal as refusal:
        # With the one all of them were refused.
        refusal.untold = [(request, why) for _, why in refusal.untold for request in requests]
        events.tell_refused(refusal)
        raise
    found = Request.objects.in_bulk([request.id for request in requests])
    return [found[request.id] for request in requests]


def _submit_each(requests: Sequence[Request], *, gang: bool) -> None:
    claim.lock_limits()
    for request in sorted(requests, key=lambda r: str(r.pool_id)):
        if answered(_claimed(request, queue=not gang, exact=True)) is None:
            serve_after_commit(request.pool_id)
    events.nudge_on_commit()


def touch_request(request: Request, *, by: str) -> None:
    """This will push a waiting request's deadline out: who wants it, if that is `by`, is there."""
    if request.status == RequestStatus.WAITING and request.requested_by == by:
        Request.objects.filter(id=request.id, status=RequestStatus.WAITING).update(
            expires_at=Greatest(F("expires_at"), Now() + timedelta(seconds=request.ttl_s))
        )


def keep_waiting(request_ids: Sequence[UUID]) -> None:
    """
    Push out the deadlines of those of these requests that wait: whoever asked is still there.

    Only of those that have used up a third of their time: they may be asked after each second.
    Some at a time, and never waiting for a lock: a claim that meets a row passes it by for as long
    as the row is held, and one that it holds is being granted. What is left out has another turn
    long before its deadline.
    """
    for start in range(0, len(request_ids), KEPT_AT_ONCE):
        some = request_ids[start : start + KEPT_AT_ONCE]
        waiting = Request.objects.filter(
            id__in=some, status=RequestStatus.WAITING, expires_at__lt=Now() + _USED_UP
        )
        if not waiting.exists():
            continue
        with transaction.atomic():
            free = waiting.select_for_update(no_key=True, skip_locked=True).order_by("id")
            Request.objects.filter(id__in=[row.id for row in free.only("id")]).update(
                expires_at=Greatest(F("expires_at"), Now() + _TTL)
            )


def cancel_request(request_id: UUID, *, actor: str, reason: str = "cancelled") -> None:
    """
    End a request, and its live lease if it has one.

    Raises: UnsupportedTransition, it has ended already.
    """
    for _ in range(AGAIN_AT_MOST):
        lease = queries.live_lease_of(request_id)
        if lease and leases.cancel(lease, reason=reason, actor=actor):
            return
        if _end_waiting(request_id, to=RequestStatus.CANCELLED, reason=reason, actor=actor):
            return
        request = queries.request(request_id)
        if request.status not in (RequestStatus.WAITING, RequestStatus.GRANTED):
            raise UnsupportedTransition(f"The request has ended: it is {request.status}.")
        time.sleep(AGAIN_AFTER_S)
    raise UnsupportedTransition("The request keeps changing; try again.")


@transaction.atomic
def set_priority(request_id: UUID, *, priority: int, actor: str, note: str = "") -> Request:
    """
    Change the priority (0-100) of a waiting request, and look at its pool's queue.

    Raises: NotFound; UnsupportedTransition, it waits no more.
    """
    row = queries.request(request_id)
    same = Request.objects.filter(
        id=request_id, status=RequestStatus.WAITING, priority=row.priority
    )
    if not same.update(priority=priority):
        now = queries.request(request_id)
        if now.status == RequestStatus.WAITING:
            raise UnsupportedTransition(f"Its priority changed meanwhile: it is {now.priority}.")
        raise UnsupportedTransition(f"The request waits no more: it is {now.status}.")
    events.append(
        "request.priority",
        request=row,
        actor=actor,
        reason=f"priority {row.priority} became {priority}" + (f": {note}" if note else ""),
        was=row.priority,
        priority=priority,
    )
    serve_after_commit(row.pool_id)
    return queries.request(request_id)


def time_out_requests() -> int:
    """End waiting requests that nobody has asked for within their time to live; return how many."""
    overdue = Request.objects.filter(status=RequestStatus.WAITING, expires_at__lt=Now())
    return sum(
        _end_waiting(
            request_id,
            to=RequestStatus.TIMED_OUT,
            reason="nobody asked for it within its time to live",
            actor="expiry",
            overdue=True,
        )
        for request_id in overdue.values_list("id", flat=True)
    )


@transaction.atomic
def _end_waiting(
    request_id: UUID,
    *,
    to: RequestStatus,
    reason: str,
    actor: str,
    overdue: bool = False,
) -> bool:
    rows = Request.objects.filter(id=request_id, status=RequestStatus.WAITING)
    if overdue:
        rows = rows.filter(expires_at__lt=Now())
    if not rows.update(status=to, reason=reason, reason_code="", finished_at=Now()):
        return False
    events.append(f"request.{to}", request=queries.request(request_id), actor=actor, reason=reason)
    return True
