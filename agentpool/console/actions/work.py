"""What an operator may do to requests and leases."""

from collections.abc import Sequence

from agentpool.console.actions.base import NOTE, Action, Done, Field, Kind, Values, count, number
from agentpool.registry.errors import Invalid, LeaseLost
from agentpool.registry.models import Lease, Request
from agentpool.registry.states import HOLDING, LIVE, Outcome, RequestStatus
from balancing import queries
from balancing.services import leases, requests


def _title(row: Request | Lease) -> str:
    return f"{row.cycle_id or row.project} {row.phase}".rstrip()


REQUEST = Kind(
    name="request",
    plural="requests",
    load=lambda ids: list(Request.objects.filter(id__in=ids).order_by("number")),
    told=_title,
    seen=lambda row: f"{row.status}-{row.priority}",
    state=lambda row: str(row.status),
)
LEASE = Kind(
    name="lease",
    plural="leases",
    load=lambda ids: list(queries.leases().filter(id__in=ids).order_by("fencing_token")),
    told=lambda row: f"{_title(row)} on {row.agent.agent_id}",
    # A parked lease that resumes is given to its holder anew: by another token.
    seen=lambda row: f"{row.status in LIVE}-{row.fencing_token}",
    state=lambda row: str(row.status),
)


# -- requests --------------------------------------------------------------------------------------


def _cancel_tells(rows: Sequence[Request]) -> list[str]:
    held = [row for row in rows if row.status == RequestStatus.GRANTED]
    waiting = [row for row in rows if row.status == RequestStatus.WAITING]
    told = []
    if waiting:
        verb = "leaves" if len(waiting) == 1 else "leave"
        told.append(f"{count(waiting, 'waiting request')} {verb} the queue and is not served.")
    if held:
        told.append(f"{count(held, 'lease')} ends now; whatever runs under it is killed.")
    return told or ["Nothing is left to cancel: it has ended."]


def _cancel(row: Request, values: Values, actor: str) -> Done:
    requests.cancel_request(
        row.id, actor=actor, reason=values.get("note") or "cancelled by an operator"
    )
    return Done("is cancelled")


def _priority_tells(rows: Sequence[Request]) -> list[str]:
    told = []
    for agent_type in sorted({row.pool_id for row in rows}):
        own = [row for row in rows if row.pool_id == agent_type]
        most = max(row.priority for row in own)
        waiting = Request.objects.filter(pool_id=agent_type, status=RequestStatus.WAITING)
        above = waiting.filter(priority__gt=most).exclude(id__in=[row.id for row in rows]).count()
        told.append(
            f"{above} of {waiting.count()} waiting requests of {agent_type} have a higher priority "
            f"than {most} now. Whoever has the highest is served first, whatever its project used."
        )
    return told


def _priority_fields(rows: Sequence[Request]) -> Sequence[Field]:
    usual = min(100, max((row.priority for row in rows), default=50) + 20)
    hint = "0 to 100; higher is served first"
    return (Field("priority", "Priority", "number", usual, hint=hint, is_required=True), NOTE)


def _prioritise(row: Request, values: Values, actor: str) -> Done:
    wanted = number(values, "priority", "Priority")
    if wanted is None or not 0 <= wanted <= 100 or wanted != int(wanted):
        raise Invalid("The priority is a whole number from 0 to 100.")
    requests.set_priority(row.id, priority=int(wanted), actor=actor, note=values.get("note", ""))
    return Done(f"has priority {int(wanted)} (was {row.priority})", undo=str(row.priority))


def _reprioritise(row: Request, values: Values, actor: str) -> Done:
    was = {"priority": values.get(f"was-{row.id}", ""), "note": "taken back"}
    return Done(_prioritise(row, was, actor).sentence)


# -- leases ----------------------------------------------------------------------------------------


def _end_tells(rows: Sequence[Lease]) -> list[str]:
    live = [row for row in rows if row.status in LIVE]
    slots = [row for row in rows if row.status in HOLDING]
    if not live:
        return ["Nothing is left to end: it has ended."]
    one = len(live) == 1
    return [
        f"{count(live, 'lease')} {'ends' if one else 'end'} now; whatever runs under "
        f"{'it' if one else 'them'} is killed, and what it still reports is refused.",
        f"{count(slots, 'slot')} {'is' if len(slots) == 1 else 'are'} free at once; "
        f"{'its request is' if one else 'their requests are'} not tried again.",
    ]


def _cancel_lease(row: Lease, values: Values, actor: str) -> Done:
    reason = values.get("note") or "cancelled by an operator"
    if not leases.cancel(row, reason=reason, actor=actor):
        raise LeaseLost("It has ended by itself meanwhile.")
    return Done("is cancelled")


_OUTCOMES = (("success", "success"), ("failure", "failure"), ("timeout", "timeout"))


def _release_fields(rows: Sequence[Lease]) -> Sequence[Field]:
    return (Field("outcome", "The work was a", "select", "success", choices=_OUTCOMES), NOTE)


def _release(row: Lease, values: Values, actor: str) -> Done:
    outcome = values.get("outcome", "success")
    if outcome not in dict(_OUTCOMES):
        raise Invalid(f"{outcome!r} is no outcome.")
    note = values.get("note", "")
    leases.release(
        row.id, token=row.fencing_token, outcome=Outcome(outcome), actor=actor, error=note
    )
    return Done(f"is released as {outcome}")


ACTIONS = (
    Action(
        "cancel-request",
        "Cancel",
        REQUEST,
        _cancel_tells,
        _cancel,
        allows=lambda row: row.status in (RequestStatus.WAITING, RequestStatus.GRANTED),
        is_grave=True,
        is_for_many=True,
        button="Cancel the request",
    ),
    Action(
        "prioritise",
        "Change priority",
        REQUEST,
        _priority_tells,
        _prioritise,
        _priority_fields,
        lambda row: row.status == RequestStatus.WAITING,
        undo="restore-priority",
        is_for_many=True,
    ),
    Action(
        "restore-priority",
        "Take back",
        REQUEST,
        _priority_tells,
        _reprioritise,
        is_for_many=True,
        is_hidden=True,
    ),
    Action(
        "cancel-lease",
        "Cancel",
        LEASE,
        _end_tells,
        _cancel_lease,
        allows=lambda row: row.status in LIVE,
        is_grave=True,
        is_for_many=True,
        button="Cancel the lease",
    ),
    Action(
        "release-lease",
        "Release",
        LEASE,
        _end_tells,
        _release,
        _release_fields,
        lambda row: row.status in LIVE,
        is_for_many=True,
    ),
)
