"""
Changes what running leases hold, by what they use: proposes, asks the runtime, and writes it down.

A shrink frees nothing before the runtime has said that the smaller limit holds; a growth is
reserved before the runtime is told. `balancing.services.settling` takes it from there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

from django.db import IntegrityError, connection, transaction
from django.db.models.functions import Now

from agentpool.registry import events, policies
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Invalid, Refusal
from agentpool.registry.models import (
    REBALANCING_OPEN,
    Lease,
    RebalancePolicy,
    Rebalancing,
    Tick,
    UsageWatch,
)
from balancing import rebalancing, watching
from balancing.rebalancing import CPU, MEMORY, Change, Mode
from balancing.services import leases
from balancing.watching import Watched

# How often leases are looked at, seconds, whoever asks.
LOOK_EVERY_S = 10.0
# Where many are watched, so that remembering them costs at most so many rows a second.
LEASES_A_SECOND = 1000
_TICK = "rebalance"
ACTOR = "rebalancing"
_UNTOLD = "the runtime has not said yet what it holds the work to"


@dataclass(frozen=True)
class Result:
    """
    What one run found and did: the seed's RebalancingResult, without what it could only estimate.

    successful: changes that hold, or that their runtime has been asked for; freed: what all that
    was found comes to, MB and cores, below zero where more is held.
    """

    is_dry_run: bool
    rows: Sequence[Rebalancing]

    @property
    def successful(self) -> int:
        """How many changes have been begun."""
        return sum(row.status in ("asked", "applied") for row in self.rows)

    @property
    def reason(self) -> str:
        """What to say when nothing was changed."""
        if not self.rows:
            return "No beneficial rebalancing opportunities found"
        if self.is_dry_run:
            return "Only looked: nothing was changed"
        return "" if self.successful else self.rows[0].verdict

    @property
    def freed(self) -> Mapping[str, Decimal]:
        """What comes free, by resource."""
        rows = [row for row in self.rows if self.is_dry_run or row.status in ("asked", "applied")]
        return {
            resource: sum(
                (row.before - row.after for row in rows if row.resource == resource), Decimal(0)
            )
            for resource in (MEMORY, CPU)
        }


def look() -> dict[str, int]:
    """
    Look at all running leases of the pools that want it: remember, propose, and change in `auto`.

    Does nothing more often than each LOOK_EVERY_S; return how many were watched and changed.
    """
    if not _is_due():
        return {"watched": 0, "changed": 0}
    policies = {name: each for name, each in watching.policies().items() if each[0] is not Mode.OFF}
    found = watching.leases({name: rules for name, (_, rules) in policies.items()})
    _remember(found)
    changed, still = 0, set()
    for each in found:
        mode, rules = policies[each.agent_type]
        for change in rebalancing.changes(use=each.use, held=each.held, rules=rules):
            still.add((each.lease_id, change.resource))
            if mode is Mode.AUTO and each.can_change:
                row = apply(each, change, mode=mode, actor=ACTOR)
                changed += row is not None and row.status in ("asked", "applied")
            else:
                _propose(each, change)
    _withdraw(still)
    return {"watched": len(found), "changed": changed}


def rebalance(
    *, dry_run: bool, actor: str, agent_type: str | None = None, note: str = ""
) -> Result:
    """
    Find what could change now, whatever the pools' modes, and change it unless it is a dry run.

    An operator need not wait until use has been low for long; every other bound holds.
    Raises: NotFound, there is no such pool; Invalid, its policy does not do.
    """
    if agent_type is not None:
        registry_queries.pool(agent_type)
    policies = watching.policies()
    if agent_type is not None and agent_type not in policies:
        raise Invalid(f"The policy of {agent_type} does not do: what is stored makes no rules.")
    rules = {
        name: replace(each, hold_s=0)
        for name, (_, each) in policies.items()
        if agent_type in (None, name)
    }
    found = watching.leases(rules)
    rows = []
    for each in found:
        for change in rebalancing.changes(
            use=each.use, held=each.held, rules=rules[each.agent_type]
        ):
            if dry_run or not each.can_change:
                rows.append(_row(each, change, mode="dry_run", actor=actor))
            elif row := apply(each, change, mode="manual", actor=actor):
                rows.append(row)
    done = Result(dry_run, rows)
    if not dry_run:
        _remember(found, only={row.lease_id for row in rows})
        about: dict[str, Any] = {"found": len(rows), "begun": done.successful, "note": note}
        events.append("rebalancing.run", agent_type=agent_type or "", actor=actor, **about)
    return done


def apply(each: Watched, change: Change, *, mode: str, actor: str) -> Rebalancing | None:
    """Begin one change; return its row, None: another change of the same is under way."""
    row = _opened(each, change, mode=mode, actor=actor)
    if row is None:
        return None
    lease = Lease.objects.get(id=each.lease_id)
    try:
        if change.kind == "grow" or not each.has_environment:
            leases.resize(
                each.lease_id,
                token=each.token,
                amounts=amounts(change.resource, change.after),
                actor=actor,
            )
        else:
            ask(lease, {change.resource: change.after}, actor=actor)
    except Refusal as refusal:
        return _close(row, "refused", refusal.detail)
    row.status = "asked" if each.has_environment else "applied"
    row.applied_at = None if each.has_environment else registry_queries.now()
    row.save(update_fields=["status", "applied_at"])
    UsageWatch.objects.update_or_create(
        lease_id=each.lease_id, defaults={"changed_at": Now()}, create_defaults=_columns(each, True)
    )
    _tell(row, actor)
    return row


@transaction.atomic
def ask(lease: Lease, wanted: Mapping[str, Any], *, actor: str) -> None:
    """This will have the runtime told which limits to hold a lease to; the grant stays as it is."""
    told: dict[str, Any] = {name: float(value) for name, value in wanted.items()}
    told["fencing_token"] = lease.fencing_token
    events.append("lease.resize_asked", lease=lease, agent=lease.agent, actor=actor, **told)


def amounts(resource: str, value: Decimal) -> Mapping[str, Any]:
    """Return an amount as `leases.resize` takes it."""
    return {resource: int(value) if resource == MEMORY else value}


def set_policy(agent_type: str, *, actor: str, **changes: Any) -> RebalancePolicy:
    """Change a pool's mode and rules; the rest, and what is raised, as of `policies.change`."""
    check, event = rebalancing.rules_of, "rebalancing.policy_changed"
    return policies.change(
        RebalancePolicy, agent_type, check=check, event=event, actor=actor, **changes
    )


# -- rows ------------------------------------------------------------------------------------------


def _is_due() -> bool:
    Tick.objects.get_or_create(name=_TICK, defaults={"at": Now() - timedelta(days=1)})
    every_s = max(LOOK_EVERY_S - 1, UsageWatch.objects.count() / LEASES_A_SECOND)
    late = Tick.objects.filter(name=_TICK, at__lt=Now() - timedelta(seconds=every_s))
    return bool(late.update(at=Now()))


def _remember(found: Iterable[Watched], *, only: set[Any] | None = None) -> None:
    rows = [
        UsageWatch(lease_id=each.lease_id, **_columns(each))
        for each in found
        if only is None or each.lease_id in only
    ]
    kept = ["looked_at", "cpu_seconds", "cpu_cores", "peak_cpu_cores"]
    kept += ["low_memory_since", "low_cpu_since"]
    UsageWatch.objects.bulk_create(
        rows, update_conflicts=True, unique_fields=["lease"], update_fields=kept, batch_size=1000
    )
    if only is None:
        with connection.cursor() as cursor:
            cursor.execute(
                "DELETE FROM usage_watch w WHERE NOT EXISTS (SELECT FROM lease l"
                " WHERE l.id = w.lease_id AND l.status IN ('active', 'parked'))"
            )


def _columns(each: Watched, is_changed: bool = False) -> dict[str, Any]:
    columns = asdict(each.watch) | {"spared": list(each.watch.spared)}
    return columns | ({"changed_at": each.at} if is_changed else {})


def _row(each: Watched, change: Change, *, mode: str, actor: str) -> Rebalancing:
    return Rebalancing(
        pool_id=each.agent_type,
        lease_id=each.lease_id,
        agent_id=each.agent_id,
        project=each.project,
        resource=change.resource,
        kind=change.kind,
        mode=mode,
        before=change.before,
        after=change.after,
        reason=change.reason,
        bound=change.bound,
        verdict="" if each.can_change else _UNTOLD,
        actor=actor,
        at=each.at,
    )


def _opened(each: Watched, change: Change, *, mode: str, actor: str) -> Rebalancing | None:
    """Return the stored row of a change that begins, which may have been proposed before."""
    row = _row(each, change, mode=mode, actor=actor)
    row.status, row.asked_at = "asked", each.at
    earlier = Rebalancing.objects.filter(lease_id=each.lease_id, resource=change.resource)
    earlier.filter(status="proposed").update(
        status="withdrawn", verdict="it is being done", closed_at=Now()
    )
    if change.kind == "grow":
        # Work that goes on growing is not held up by the watch over the last time.
        earlier.filter(status="applied", kind="grow").update(
            status="kept", verdict="it grows again", closed_at=Now()
        )
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return None
    return row


def _propose(each: Watched, change: Change) -> None:
    row = _row(each, change, mode=Mode.RECOMMEND, actor=ACTOR)
    known = Rebalancing.objects.filter(
        lease_id=each.lease_id, resource=change.resource, status__in=REBALANCING_OPEN
    )
    if known.exists():
        known.filter(status="proposed").update(
            before=row.before,
            after=row.after,
            reason=row.reason,
            bound=row.bound,
            verdict=row.verdict,
        )
        return
    try:
        with transaction.atomic():
            row.save(force_insert=True)
    except IntegrityError:
        return  # another look was faster
    _tell(row, ACTOR)


def _withdraw(still: set[tuple[Any, str]]) -> None:
    """Close the proposals whose lease has ended, or that are no longer so."""
    for row in Rebalancing.objects.filter(status="proposed"):
        if (row.lease_id, row.resource) not in still:
            _close(row, "withdrawn", "it is no longer so, or the lease has ended")


def _close(row: Rebalancing, status: str, verdict: str) -> Rebalancing:
    row.status, row.verdict = status, verdict
    row.closed_at = registry_queries.now()
    row.save(update_fields=["status", "verdict", "closed_at"])
    return row


def _tell(row: Rebalancing, actor: str) -> None:
    events.append(
        f"rebalancing.{row.status}",
        lease=Lease.objects.get(id=row.lease_id),
        actor=actor,
        resource=row.resource,
        before=float(row.before),
        after=float(row.after),
        reason=row.reason,
    )
