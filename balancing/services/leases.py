"""Ends, renews and acknowledges leases; every write checks the fencing token."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, NoReturn
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Greatest, Least, Now

from agentpool.registry import counters, events
from agentpool.registry.errors import (
    AgentBusy,
    CapacityExhausted,
    Forbidden,
    LeaseLost,
    NotFound,
    Unsatisfiable,
    UnsupportedTransition,
)
from agentpool.registry.models import Agent, Lease
from agentpool.registry.states import LIVE, LeaseStatus, Outcome, RequestStatus
from balancing import claim, queries
from balancing.services.queue import serve, serve_after_commit
from balancing.terms import Close as Close
from balancing.terms import Closed, Ending


def release(
    lease_id: UUID,
    *,
    token: int | None,
    outcome: Outcome,
    actor: str,
    error: str = "",
    retry: bool = False,
    usage: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    asker: str | None = None,
    agent: UUID | None = None,
) -> Lease:
    """
    End a lease as its holder (with its token) or as an operator (token None).

    asker: only if this principal asked for it; agent: only if it is this agent's.
    Raises: LeaseLost, the lease has ended or the token is stale; NotFound, it is not the caller's.
    Nothing has changed then.
    """
    return close(
        closing(
            lease_id,
            token=token,
            outcome=outcome,
            actor=actor,
            error=error,
            retry=retry,
            usage=usage,
            result=result,
            asker=asker,
            agent=agent,
        )
    )


def closing(
    lease_id: UUID,
    *,
    token: int | None,
    outcome: Outcome,
    actor: str,
    error: str = "",
    retry: bool = False,
    usage: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    asker: str | None = None,
    agent: UUID | None = None,
) -> Close:
    """Return what a holder's word about the end of its work means for the lease."""
    is_cancelled = outcome is Outcome.CANCELLED
    ending = Ending(
        to=LeaseStatus.CANCELLED if is_cancelled else LeaseStatus.RELEASED,
        # To be tried elsewhere: nobody's fault, so no failure of this agent.
        outcome=Outcome.CANCELLED if retry else outcome,
        error=error,
        retry=retry,
        request_to=RequestStatus.CANCELLED if is_cancelled else RequestStatus.FINISHED,
        usage=dict(usage or {}),
        result=dict(result) if result is not None else None,
    )
    return Close(lease_id, token, ending, actor, asker, agent)


@transaction.atomic
def release_agent(
    agent: Agent,
    *,
    project: str | None,
    outcome: Outcome,
    actor: str,
    error: str = "",
    only_of: str | None = None,
) -> list[Lease]:
    """
    End all live leases of an agent; return those it ended.

    project: only those of one project; only_of: only those that this principal asked for. Locks the
    leases, then the agent.
    """
    hold(agent)
    leases = agent.leases.filter(status__in=LIVE)
    if project is not None:
        leases = leases.filter(project=project)
    if only_of is not None:
        leases = leases.filter(request__requested_by=only_of)
    ended = []
    for lease in leases.order_by("id"):
        try:
            ended.append(
                release(
                    lease.id,
                    token=lease.fencing_token,
                    outcome=outcome,
                    actor=actor,
                    error=error,
                )
            )
        except LeaseLost:
            continue  # it ended by itself meanwhile, which is what was asked for
    return ended


@transaction.atomic
def acknowledge(lease_id: UUID, *, token: int) -> Lease:
    """
    Turn an offer into an active lease; doing it twice is harmless.

    Raises: LeaseLost, the offer was withdrawn or the token is stale.
    """
    changed = Lease.objects.filter(
        id=lease_id, fencing_token=token, status=LeaseStatus.OFFERED
    ).update(
        status=LeaseStatus.ACTIVE,
        acked_at=Now(),
        expires_at=Least(F("hard_end_at"), Now() + timedelta(seconds=settings.RUN_LEASE_S)),
    )
    lease = mine(lease_id, token)
    if changed:
        events.append(
            "lease.active",
            lease=lease,
            agent=lease.agent,
            phase=lease.phase,
            cycle_id=lease.cycle_id,
        )
    return lease


@transaction.atomic
def renew(lease_id: UUID, *, token: int) -> Lease:
    """
    Give an active lease its full term again, never past its hard end.

    Raises: LeaseLost.
    """
    Lease.objects.filter(
        id=lease_id,
        fencing_token=token,
        status__in=[LeaseStatus.ACTIVE, LeaseStatus.PARKED],
    ).update(
        expires_at=Least(
            F("hard_end_at"),
            Greatest(F("expires_at"), Now() + timedelta(seconds=settings.RUN_LEASE_S)),
        )
    )
    return mine(lease_id, token)


@transaction.atomic
def report_usage(
    lease_id: UUID, *, token: int, usage: Mapping[str, Any], progress: Mapping[str, Any]
) -> Lease:
    """
    Note what the work uses and how far it is.

    Raises: LeaseLost.
    """
    note_report(lease_id, token=token, usage=usage, progress=progress)
    return mine(lease_id, token)


def hold(agent: Agent) -> None:
    """Lock the live leases of an agent, in the order of ids, to the end of the transaction."""
    rows = agent.leases.select_for_update(no_key=True).filter(status__in=LIVE)
    list(rows.order_by("id").values_list("id"))


def lose_all(agent: Agent, *, why: str, actor: str) -> None:
    """End all live leases of an agent that is gone; their requests wait again."""
    ending = Ending(
        to=LeaseStatus.LOST,
        outcome=Outcome.LOST,
        error=why,
        retry=True,
        request_to=RequestStatus.FAILED,
    )
    for lease in agent.leases.filter(status__in=LIVE).order_by("id"):
        closed = claim.close([Close(lease.id, lease.fencing_token, ending, actor)])[0]
        serve_after_commit(*closed.pools)


def expire_leases() -> int:
    """
    End the leases whose time ran out; return how many.

    Time only permits it: close rechecks the expiry in the same update, so a renewal that was
    faster wins. An offer nobody took and work of an agent that stopped renewing wait again.
    """
    ended = 0
    for lease in queries.overdue_leases(slack_s=settings.REAP_SLACK_S):
        closed = claim.close([Close(lease.id, lease.fencing_token, _expiry_of(lease), "expiry")])[0]
        serve(closed.pools)
        ended += closed.ok
    if ended:
        events.nudge_on_commit()
    return ended


def _expiry_of(lease: Lease) -> Ending:
    if lease.status == LeaseStatus.OFFERED:
        error, outcome, retry = "the offer was not acknowledged", Outcome.LOST, True
    elif lease.hard_end_at <= lease.expires_at:
        error, outcome, retry = "the hard end was reached", Outcome.TIMEOUT, False
    else:
        error, outcome = "nobody renewed the lease", Outcome.LOST
        # Only work that agentpool itself handed out can be handed out again.
        retry = lease.request.payload is not None
    return Ending(
        to=LeaseStatus.EXPIRED,
        outcome=outcome,
        error=error,
        retry=retry,
        request_to=(RequestStatus.FINISHED if outcome is Outcome.TIMEOUT else RequestStatus.FAILED),
        overdue_s=settings.REAP_SLACK_S,
    )


def cancel(lease: Lease, *, reason: str, actor: str) -> bool:
    """End a lease for its request's sake; return False if it has ended by itself."""
    ending = Ending(
        to=LeaseStatus.CANCELLED,
        outcome=Outcome.CANCELLED,
        error=reason,
        request_to=RequestStatus.CANCELLED,
    )
    try:
        close(Close(lease.id, lease.fencing_token, ending, actor))
    except LeaseLost:
        return False
    return True


def park(lease_id: UUID, *, token: int, reason: str, actor: str) -> Lease:
    """
    Free a lease's slot and amounts while it waits for a person or a rate limit; its keys stay.

    Raises: LeaseLost; UnsupportedTransition, it is not active.
    """
    if claim.park(lease_id, token=token, actor=actor, reason=reason) != "ok":
        lease = mine(lease_id, token)
        raise UnsupportedTransition(f"The lease is {lease.status}; only an active one parks.")
    lease = queries.lease(lease_id)
    events.nudge_on_commit()
    serve_after_commit(*queries.pools_concerned(lease.pool_id))
    return lease


def resume(lease_id: UUID, *, token: int, actor: str) -> Lease:
    """
    Let a parked lease go on, on its agent, under a new fencing token.

    Raises: LeaseLost; UnsupportedTransition, it is not parked; AgentBusy, no room there now.
    """
    code = claim.resume(lease_id, token=token, actor=actor, exact=False)
    if code == "again":
        code = claim.resume(lease_id, token=token, actor=actor, exact=True)
    if code == "agent_busy":
        raise AgentBusy(
            "The lease's agent has no free slot, or not enough is free, now.",
            retry_after_s=settings.BACKOFF_S,
        )
    if code != "ok":
        lease = mine(lease_id, token)
        raise UnsupportedTransition(f"The lease is {lease.status}; only a parked one resumes.")
    events.nudge_on_commit()
    return queries.lease(lease_id)


def resize(lease_id: UUID, *, token: int, amounts: Mapping[str, Any], actor: str) -> Lease:
    """
    Change what an active lease reserves: memory_mb, cpu_cores, token_budget, disk_space_mb.

    Raises: LeaseLost; UnsupportedTransition, it is not active; CapacityExhausted, not enough is
    free now; Unsatisfiable, above a ceiling or the tokens asked for, or below the caller's minimum.
    """
    code = claim.resize(lease_id, token=token, amounts=amounts, actor=actor, exact=False)
    if code == "again":
        code = claim.resize(lease_id, token=token, amounts=amounts, actor=actor, exact=True)
    if code == "lease_lost":
        lease = mine(lease_id, token)
        raise UnsupportedTransition(f"The lease is {lease.status}; only an active one resizes.")
    if code == "exhausted":
        raise CapacityExhausted(
            "Its agent or a limit has not that much free now.", retry_after_s=settings.BACKOFF_S
        )
    if code == "unsatisfiable":
        raise Unsatisfiable(
            "That is above the profile's or a limit's ceiling, above the tokens asked for, "
            "or below the least that the request can live with."
        )
    lease = queries.lease(lease_id)
    events.nudge_on_commit()
    serve_after_commit(*queries.pools_concerned(lease.pool_id))
    return lease


def close(wish: Close) -> Lease:
    """End a lease as told and look at the queues that this concerns; raises as `release`."""
    closed = claim.close([wish])[0]
    lease = ended(closed, wish)
    events.nudge_on_commit()
    serve_after_commit(*closed.pools)
    return lease


def ended(closed: Closed, wish: Close) -> Lease:
    """Return the lease as it ended; raises LeaseLost, NotFound, Forbidden: it was not theirs."""
    return closed.lease if closed.lease is not None else why_not(wish)


def why_not(wish: Close) -> NoReturn:
    """Say why a lease was not the caller's to end; raises as `ended`."""
    lease = queries.lease(wish.lease_id)
    if wish.agent is not None and lease.agent_id != wish.agent:
        raise Forbidden("An agent's credential is good for its own leases only.")
    if wish.asker is not None and lease.request.requested_by != wish.asker:
        raise NotFound(f"There is no lease {lease.id} of yours.")
    raise _why_lost(lease)


def mine(lease_id: UUID, token: int) -> Lease:
    """Return a live lease if the token is its own; raises LeaseLost."""
    lease = queries.lease(lease_id)
    if lease.fencing_token != token or lease.status not in LIVE:
        raise _why_lost(lease)
    return lease


def _why_lost(lease: Lease) -> LeaseLost:
    counters.add("agentpool_fenced_writes_total", {})
    if lease.status in LIVE:
        return LeaseLost("The fencing token is not this lease's.")
    return LeaseLost(f"The lease has ended: it is {lease.status}.")


def note_report(
    lease_id: UUID, *, token: int, usage: Mapping[str, Any], progress: Mapping[str, Any]
) -> None:
    """Note use and progress of a live lease; another one is left as it is."""
    changes: dict[str, Any] = {
        column: usage[name]
        for name, column in _USAGE_COLUMNS.items()
        if usage.get(name) is not None
    }
    if usage.get("memory_mb") is not None:
        changes["peak_memory_mb"] = Greatest(F("peak_memory_mb"), float(usage["memory_mb"]))
    if progress:
        changes.update(
            progress_counter=progress.get("counter", 0),
            progress_phase=progress.get("phase", "")[:200],
            progress_note=progress.get("note", "")[:400],
            progress_at=Now(),
        )
    if changes:
        Lease.objects.filter(id=lease_id, fencing_token=token, status__in=LIVE).update(**changes)


_USAGE_COLUMNS = {
    "memory_mb": "measured_memory_mb",
    "cpu_cores": "measured_cpu_cores",
    "cpu_seconds": "cpu_seconds",
    "disk_space_mb": "measured_disk_space_mb",
    "tokens_in": "tokens_in",
    "tokens_out": "tokens_out",
    "cost_usd": "cost_usd",
}
