"""Keeps with waiting requests why they wait, and that somebody has waited in vain."""

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from agentpool.registry import events
from agentpool.registry.models import Request, Tick
from agentpool.registry.states import RequestStatus
from balancing import explain

# How often the reasons of all pools are looked at, seconds, and for how many requests of a pool.
NOTE_EVERY_S = 5.0
NOTED_AT_ONCE = 500
_TICK = "reasons"


def note_reasons(agent_types: Iterable[str]) -> int:
    """
    Store why requests wait where that has changed, each change with its event; return how many.

    Does nothing more often than each NOTE_EVERY_S, whichever process asks. Each request is changed
    in a transaction of its own: a claim that meets the row passes it only for that moment.
    """
    if not _is_due():
        return 0
    changed = 0
    for agent_type in agent_types:
        waiting = Request.objects.filter(pool_id=agent_type, status=RequestStatus.WAITING)
        rows = {row.id: row for row in waiting.order_by("-priority", "number")[:NOTED_AT_ONCE]}
        for id, reason in explain.reasons(list(rows.values())).items():
            row = rows[id]
            if (reason.short, reason.code) != (row.reason, row.reason_code):
                changed += _note(row, reason)
    return changed


@transaction.atomic
def _note(row: Request, reason: explain.Reason) -> bool:
    same = Request.objects.filter(
        id=row.id, status=RequestStatus.WAITING, attempts=row.attempts, reason=row.reason
    )
    if not same.update(reason=reason.short, reason_code=reason.code):
        return False
    events.append("request.reason", request=row, code=reason.code, reason=reason.short)
    return True


def _is_due() -> bool:
    Tick.objects.get_or_create(name=_TICK, defaults={"at": Now() - timedelta(days=1)})
    late = Tick.objects.filter(name=_TICK, at__lt=Now() - timedelta(seconds=NOTE_EVERY_S))
    return bool(late.update(at=Now()))


@transaction.atomic
def mark_urgent(request_id: UUID) -> bool:
    """
    Note that somebody waited for a request in vain, so that scaling hurries; once a request.

    Returns False if it waits no more, or was urgent already.
    """
    calm = Request.objects.filter(
        id=request_id, status=RequestStatus.WAITING, urgent_at__isnull=True
    )
    if not calm.update(urgent_at=Now()):
        return False
    row = Request.objects.get(id=request_id)
    events.append("request.urgent", request=row, reason="nobody came free in the time to wait")
    return True
