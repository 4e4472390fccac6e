"""Takes requests in, keeps them waiting, and ends those that nobody wants any more."""

import time
from collections.abc import Sequence
from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest, Now

from agentpool.registry import events
from agentpool.registry.errors import CapacityExhausted, UnsupportedTransition
from agentpool.registry.models import Lease, Request
from agentpool.registry.states import RequestStatus
from balancing import claim, queries
from balancing.services import leases
from balancing.services.queue import AGAIN_AFTER_S, AGAIN_AT_MOST, serve_after_commit


def submit(request: Request, *, queue: bool = True) -> Lease | None:
    """
    Grant the request now, or store it as waiting; return its lease, None: it waits.

    queue: False raises CapacityExhausted instead of waiting, and stores nothing.
    """
    lease_id = claim.acquire(request, queue=queue)
    events.nudge_on_commit()
    if lease_id is None and not queue:
        raise CapacityExhausted(
            f"No {request.pool_id} agent with a free slot fits now.",
            retry_after_s=settings.BACKOFF_S,
        )
    if lease_id is None:
        serve_after_commit(request.pool_id)
        return None
    return queries.lease(lease_id)


@transaction.atomic
def submit_all(requests: Sequence[Request], *, gang: bool) -> list[Request]:
    """
    Store a list of requests in one transaction; return them as they stand afterwards.

    gang: grant all at once or none (CapacityExhausted, nothing stored).
    """
    for request in sorted(requests, key=lambda r: str(r.pool_id)):
        submit(request, queue=not gang)
    found = Request.objects.in_bulk([request.id for request in requests])
    return [found[request.id] for request in requests]


def touch_request(request: Request) -> None:
    """This will push a waiting request's deadline out: somebody still asks for it."""
    if request.status == RequestStatus.WAITING:
        Request.objects.filter(id=request.id, status=RequestStatus.WAITING).update(
            expires_at=Greatest(F("expires_at"), Now() + timedelta(seconds=request.ttl_s))
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
    if not rows.update(status=to, reason=reason, finished_at=Now()):
        return False
    events.append(f"request.{to}", request=queries.request(request_id), actor=actor, reason=reason)
    return True
