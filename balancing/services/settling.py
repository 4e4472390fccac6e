"""
Follows changes of grants until nothing is open: acknowledged or rolled back, kept or undone.

Each row is moved by itself, so that one that cannot be settled now does not hold up the others.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

from django.db.models import Sum

from agentpool.registry import events, measuring
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import LeaseLost, Refusal, UnsupportedTransition
from agentpool.registry.models import Lease, LeaseIsolation, Rebalancing, UsageWatch
from agentpool.registry.states import LIVE, LeaseStatus
from balancing import rebalancing, watching
from balancing.rebalancing import MEMORY, Mode, Rules
from balancing.services import leases
from balancing.services.rebalancing import ACTOR, amounts, ask

# The pool's waits are compared over so long before and after a change.
MEASURED_OVER = timedelta(minutes=10)
# A runtime that was asked for two changes at once answers them one after the other.
ANSWERS_WITHIN = timedelta(seconds=3)


def settle() -> dict[str, int]:
    """Move every open change as far as it can be moved now; return how many reached which state."""
    at = registry_queries.now()
    policies = watching.policies()
    moved: dict[str, int] = {}
    for row in Rebalancing.objects.filter(status__in=("asked", "applied")).order_by("at"):
        _, rules = policies.get(row.pool_id, (Mode.OFF, rebalancing.USUAL))
        lease = Lease.objects.filter(id=row.lease_id).first()
        try:
            _settle(row, lease, rules, at)
        except (LeaseLost, UnsupportedTransition) as refusal:
            _move(row, "ended", f"the lease has ended: {refusal.detail}", at)
        moved[row.status] = moved.get(row.status, 0) + 1
    _measure_waits(at)
    return moved


def _settle(row: Rebalancing, lease: Lease | None, rules: Rules, at: datetime) -> None:
    if lease is None or lease.status not in LIVE:
        how = f"it ended: {lease.outcome or lease.status}" if lease else "its lease is gone"
        _move(row, "ended", how, at)
    elif lease.status != LeaseStatus.ACTIVE:
        return  # parked: it holds nothing, and is looked at again when it goes on
    elif _granted(lease, row.resource) not in _expected(row):
        _move(row, "withdrawn", "somebody else has changed the grant", at)
    elif row.status == "asked":
        _acknowledge(row, lease, rules, at)
    else:
        _watch(row, lease, rules, at)


def _granted(lease: Lease, resource: str) -> Decimal:
    return Decimal(lease.memory_mb if resource == MEMORY else lease.cpu_cores)


def _expected(row: Rebalancing) -> tuple[Decimal, ...]:
    """
    Return what the lease may hold unless somebody else has changed it.

    A shrink that was asked for waits for its yes; a process may have died just after it.
    """
    is_waiting = row.status == "asked" and row.kind == "shrink"
    return (row.before, row.after) if is_waiting else (row.after,)


# -- asked -----------------------------------------------------------------------------------------


def _acknowledge(row: Rebalancing, lease: Lease, rules: Rules, at: datetime) -> None:
    """Take the runtime's word: the limits that it has said to hold since it was asked."""
    asked_at = row.asked_at or row.at
    told = LeaseIsolation.objects.filter(lease=lease, at__gt=asked_at).first()
    holds = _amount(told.policy, row.resource) if told is not None else None
    if holds == row.after:
        if row.kind == "shrink":
            leases.resize(
                lease.id,
                token=lease.fencing_token,
                amounts=amounts(row.resource, row.after),
                actor=ACTOR,
            )
        row.applied_at = at
        _move(row, "applied", "", at)
    elif told is not None and at - told.at > ANSWERS_WITHIN:
        says = f"says nothing of {row.resource}"
        keeps = says if holds is None else f"keeps to {holds:g}: more is in use"
        _roll_back(row, lease, f"the runtime {keeps}", at)
    elif (at - asked_at).total_seconds() > rules.ack_s:
        _roll_back(row, lease, f"the runtime has not acknowledged it in {rules.ack_s:g} s", at)


def _roll_back(row: Rebalancing, lease: Lease, why: str, at: datetime) -> None:
    """Give back what was reserved, or tell the runtime that the old limits hold."""
    if row.kind == "grow":
        leases.resize(
            lease.id,
            token=lease.fencing_token,
            amounts=amounts(row.resource, row.before),
            actor=ACTOR,
        )
    else:
        ask(lease, {row.resource: row.before}, actor=ACTOR)
    _spare(lease, rebalancing.GROWTH if row.kind == "grow" else row.resource, at)
    _move(row, "refused", why, at)


def _spare(lease: Lease, what: str, at: datetime) -> None:
    """Note what is not to be tried again with this lease."""
    watch = UsageWatch.objects.filter(lease=lease).first()
    if watch is not None:
        watch.spared = sorted({*watch.spared, what})
        watch.changed_at = at
        watch.save(update_fields=["spared", "changed_at"])


def _amount(policy: Mapping[str, Any], resource: str) -> Decimal | None:
    """Return what a runtime says; None: nothing, or nothing that is an amount."""
    try:
        return Decimal(str(policy.get(resource))).quantize(Decimal("0.001"))
    except InvalidOperation:
        return None


# -- applied ---------------------------------------------------------------------------------------


def _watch(row: Rebalancing, lease: Lease, rules: Rules, at: datetime) -> None:
    """Undo a shrink that presses the work, keep what has done no harm."""
    used, granted = _used(row.resource, lease)
    is_pressed = rebalancing.is_pressed(used=used, granted=granted, rules=rules)
    if row.kind == "shrink" and is_pressed:
        _undo(row, lease, f"{used:.4g} of {granted:g} were used then", at)
    elif (at - (row.applied_at or at)).total_seconds() >= rules.watch_s:
        share = f"{used / granted:.0%} of it is used" if granted else ""
        _move(row, "kept", share, at)


def _used(resource: str, lease: Lease) -> tuple[float, float]:
    if resource == MEMORY:
        return lease.measured_memory_mb, float(lease.memory_mb)
    watch = UsageWatch.objects.filter(lease=lease).first()
    return (watch.cpu_cores if watch else 0.0), float(lease.cpu_cores)


def _undo(row: Rebalancing, lease: Lease, why: str, at: datetime) -> None:
    try:
        leases.resize(
            lease.id,
            token=lease.fencing_token,
            amounts=amounts(row.resource, row.before),
            actor=ACTOR,
        )
    except (LeaseLost, UnsupportedTransition):
        raise
    except Refusal as refusal:
        # Looked at again; the work keeps what it has, and grows as soon as there is room.
        Rebalancing.objects.filter(id=row.id).update(verdict=f"not undone yet: {refusal.detail}")
        return
    _spare(lease, row.resource, at)
    _move(row, "undone", why, at)


def _move(row: Rebalancing, status: str, verdict: str, at: datetime) -> None:
    """Move a row by compare-and-set, with its event; whoever was faster wins."""
    closed_at = None if status == "applied" else at
    changed = Rebalancing.objects.filter(id=row.id, status=row.status).update(
        status=status, verdict=verdict, applied_at=row.applied_at, closed_at=closed_at
    )
    row.status = status
    if changed:
        lease = Lease.objects.filter(id=row.lease_id).first()
        events.append(
            f"rebalancing.{status}",
            lease=lease,
            agent_type=row.pool_id,
            actor=ACTOR,
            resource=row.resource,
            before=float(row.before),
            after=float(row.after),
            reason=verdict or row.reason,
        )


# -- what it did to waits --------------------------------------------------------------------------


def _measure_waits(at: datetime) -> None:
    """Note the mean waits of the pool before and after each change that is old enough."""
    due = Rebalancing.objects.filter(
        is_measured=False, applied_at__lt=at - MEASURED_OVER - timedelta(minutes=1)
    )
    for row in due[:100]:
        moment = row.applied_at or at
        Rebalancing.objects.filter(id=row.id).update(
            wait_before_s=_mean_wait_s(row.pool_id, moment - MEASURED_OVER, moment),
            wait_after_s=_mean_wait_s(row.pool_id, moment, moment + MEASURED_OVER),
            is_measured=True,
        )


def _mean_wait_s(agent_type: str, since: datetime, until: datetime) -> float | None:
    rows = measuring.samples().filter(pool_id=agent_type, at__gte=since, at__lt=until)
    sums = rows.aggregate(waited=Sum("wait_sum_s"), granted=Sum("granted"))
    return sums["waited"] / sums["granted"] if sums["granted"] else None
