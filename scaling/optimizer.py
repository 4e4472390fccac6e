"""
Proposes changes to pools, carries them out when told to, and measures what came of them.

A look only reads and writes proposals; applying one is one transaction with what it changes, by
the services that everybody else uses.
"""

import logging
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.functions import Now

from agentpool.registry import events, policies
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Invalid, NotFound, Refusal, UnsupportedTransition
from agentpool.registry.models import Optimization, OptimizerPolicy, Pool, Tick
from scaling import changing, governance, optimizing, queries, recent, situations, troubles
from scaling.optimizing import Proposal
from scaling.policies import Mode, PolicyInvalid
from scaling.situations import Situation
from scaling.troubles import Kind, Rules

log = logging.getLogger("agentpool.optimizer")

LOOK_EVERY_S = 300.0
ACTOR = "optimizer"
_TICK = "optimize"
# What a person has dismissed is not proposed again so soon.
DISMISSED_FOR = timedelta(days=1)
# After so long without enough work an applied change is closed without a verdict.
JUDGED_WITHIN = timedelta(days=1)
VERDICTS_HEEDED = 20
# A replay of 5,000 leases on 1,000 agents takes 2 s, and grows with their number.
MOST_AGENTS = 2000


@dataclass(frozen=True)
class Looked:
    """What a look found: the open proposals, and how many were applied by themselves and judged."""

    found: list[Optimization]
    applied: int
    judged: int


def run() -> dict[str, int]:
    """Look, if it is time to; return how many proposals are open, were applied, were judged."""
    Tick.objects.get_or_create(name=_TICK, defaults={"at": Now() - timedelta(days=1)})
    late = Tick.objects.filter(name=_TICK, at__lt=Now() - timedelta(seconds=LOOK_EVERY_S - 1))
    if not late.update(at=Now()):
        return {"found": 0, "applied": 0, "judged": 0}
    looked = look()
    return {"found": len(looked.found), "applied": looked.applied, "judged": looked.judged}


def look(agent_type: str | None = None, *, actor: str = "", note: str = "") -> Looked:
    """
    Judge what was applied, propose what would help, and in mode `auto` apply it, within limits.

    agent_type: of one pool, whatever its mode. actor: who asked for it, "": the job. A pool of more
    than MOST_AGENTS, or whose policy does not do, is passed over. Raises: NotFound; Invalid, the
    pool is such a one.
    """
    pools = [registry_queries.pool(agent_type)] if agent_type else list(Pool.objects.all())
    found, applied, judged = [], 0, 0
    for pool in pools:
        policy = policy_of(pool)
        if agent_type is None and policy.mode == Mode.OFF:
            continue
        try:
            looked = _look_at(pool, policy)
        except Exception as error:
            if agent_type is not None:
                raise
            # The edge of the loop: one pool that can't be looked at must not stop the rest.
            unforeseen = None if isinstance(error, Refusal) else error
            log.warning("not looked at pool=%s: %s", pool.agent_type, error, exc_info=unforeseen)
            continue
        found += looked.found
        applied, judged = applied + looked.applied, judged + looked.judged
    if actor:
        counts: dict[str, Any] = {"found": len(found), "applied": applied, "judged": judged}
        events.append(
            "optimizer.looked", agent_type=agent_type or "", actor=actor, note=note, **counts
        )
    return Looked(found, applied, judged)


def _look_at(pool: Pool, policy: OptimizerPolicy) -> Looked:
    if (size := queries.size(pool.agent_type)) > MOST_AGENTS:
        raise Invalid(f"{pool.agent_type} has {size} agents; up to {MOST_AGENTS} can be replayed.")
    try:
        rules = troubles.rules_of(policy.settings)
    except ValueError as error:
        raise Invalid(f"The policy of {pool.agent_type} does not do: {error}") from error
    judged = _judge(pool, rules)
    rows = _propose(pool, rules)
    is_auto = policy.mode == Mode.AUTO
    applied = sum(_apply_alone(row, rules) for row in rows) if is_auto else 0
    return Looked([row for row in rows if row.status == "open"], applied, judged)


def policy_of(pool: Pool) -> OptimizerPolicy:
    """Return a pool's policy, an unsaved one with the defaults where there is none."""
    return OptimizerPolicy.objects.filter(pool=pool).first() or OptimizerPolicy(pool=pool)


def factors() -> dict[str, float]:
    """Return by kind which share of a computed gain has come true so far."""
    gains: dict[str, list[tuple[float, float]]] = {}
    rows = Optimization.objects.filter(status="judged", came_out__isnull=False)
    for row in rows.order_by("-closed_at")[: VERDICTS_HEEDED * len(Kind)]:
        of_kind = gains.setdefault(row.kind, [])
        if len(of_kind) < VERDICTS_HEEDED:
            of_kind.append(_gains(row))
    return {kind: optimizing.factor_after(each) for kind, each in gains.items()}


@transaction.atomic
def apply(optimization_id: UUID, *, actor: str, note: str = "") -> Optimization:
    """
    Carry out one open proposal and note when, so that it can be judged.

    Locks the proposal. Raises: NotFound; UnsupportedTransition, it is not open any more; whatever
    the service that makes the change refuses.
    """
    row = _locked_open(optimization_id)
    done = changing.carry_out(row, actor=actor)
    row.status, row.actor, row.applied_at = "applied", actor, registry_queries.now()
    row.verdict = done
    row.save(update_fields=["status", "actor", "applied_at", "verdict"])
    _tell("applied", row, actor, note)
    return row


@transaction.atomic
def dismiss(optimization_id: UUID, *, actor: str, note: str = "") -> Optimization:
    """Close one open proposal; it is not made again for a day. Raises as `apply`."""
    row = _locked_open(optimization_id)
    _close(row, "dismissed", note or "dismissed", actor=actor)
    _tell("dismissed", row, actor, note)
    return row


def set_policy(agent_type: str, *, actor: str, **changes: Any) -> OptimizerPolicy:
    """Change a pool's mode and rules; the rest, and what is raised, as of `policies.change`."""
    check, event = troubles.rules_of, "optimizer.policy_changed"
    return policies.change(
        OptimizerPolicy, agent_type, check=check, event=event, actor=actor, **changes
    )


# -- proposing -------------------------------------------------------------------------------------


def _situation(pool: Pool, over_s: float) -> Situation:
    until = registry_queries.now()
    found = recent.situation(pool, since=until - timedelta(seconds=over_s), until=until)
    try:
        policy = governance.policy_of(pool, governance.row_of(pool))
    except PolicyInvalid:
        return found  # the page of scaling says so; it has no effect on the rest
    return replace(found, policy=policy, usd_per_agent_hour=policy.usd_per_agent_hour)


def _propose(pool: Pool, rules: Rules) -> list[Optimization]:
    """Write what would help now, and withdraw what would not any more; return what is open."""
    situation = _situation(pool, rules.window_s)
    made = optimizing.proposals(situation, rules=rules, factors=factors())
    usd = situation.usd_per_agent_hour
    rows = [row for each in made if (row := _written(pool, each, usd)) is not None]
    gone = Optimization.objects.filter(pool=pool, status="open").exclude(
        id__in=[row.id for row in rows]
    )
    for row in gone:
        _close(row, "withdrawn", "it is no longer so")
    return rows


def _written(pool: Pool, each: Proposal, usd: float) -> Optimization | None:
    """Return the stored row; None: the same is being tried, or was dismissed a while ago."""
    same = Optimization.objects.filter(pool=pool, kind=each.kind, subject=each.subject)
    recently = registry_queries.now() - DISMISSED_FOR
    if same.filter(status="applied").exists() or (
        same.filter(status="dismissed", closed_at__gt=recently).exists()
    ):
        return None
    names = "action change basis metric measured without computed expected factor attempts over_s"
    columns = {name: getattr(each, name) for name in names.split()}
    columns |= {"numbers": dict(each.numbers), "agent_hours_a_day": each.agent_hours_a_day}
    columns["usd_a_day"] = each.agent_hours_a_day * usd
    row, is_new = Optimization.objects.update_or_create(
        pool=pool, kind=each.kind, subject=each.subject, status="open", defaults=columns
    )
    if is_new:
        _tell("proposed", row, ACTOR, "")
    return row


def _apply_alone(row: Optimization, rules: Rules) -> int:
    """Apply a proposal without being asked, when it is within the limits; return how many."""
    day = Optimization.objects.filter(
        pool_id=row.pool_id, actor=ACTOR, applied_at__gt=Now() - timedelta(days=1)
    )
    agents = sum(int(done.change.get("agents", 0)) for done in day)
    most = rules.most_agents_a_day
    reason = changing.not_alone(row, agents=agents, most_agents=most)
    if not reason and Optimization.objects.filter(pool_id=row.pool_id, status="applied").exists():
        # Two changes at once could not be told apart afterwards.
        reason = "another change of this pool is not judged yet"
    if reason:
        Optimization.objects.filter(id=row.id, status="open").update(verdict=reason)
        return 0
    try:
        done = apply(row.id, actor=ACTOR)
    except Refusal as refusal:
        Optimization.objects.filter(id=row.id).update(verdict=refusal.detail)
        return 0
    row.status = done.status
    return 1


# -- judging ---------------------------------------------------------------------------------------


def _judge(pool: Pool, rules: Rules) -> int:
    now, count = registry_queries.now(), 0
    for row in Optimization.objects.filter(pool=pool, status="applied"):
        since_s = (now - row.applied_at).total_seconds() if row.applied_at else 0.0
        if since_s < rules.judge_s:
            continue
        situation = _situation(pool, since_s)
        after = situations.measured(situation)
        is_told = optimizing.is_told(after, row.metric, row.subject)
        if is_told and after.attempts >= rules.least_attempts:
            _measured(row, situation)
            count += 1
        elif since_s > JUDGED_WITHIN.total_seconds():
            few = f"only {after.attempts} leases since" if is_told else "none of its work since"
            _close(row, "judged", f"{few}: nothing can be said")
    return count


def _measured(row: Optimization, situation: Situation) -> None:
    """Write what a change has brought, in the same measure as before."""
    after = situations.measured(situation)
    if row.metric == "turns_per_hour":
        value = situation.turns / (situation.over_s / 3600)
    else:
        value = optimizing.value_of(after, row.metric, row.subject)
    if row.metric == "agent_hours":
        value *= row.over_s / situation.over_s
    row.came_out = value
    computed, real = _gains(row)
    share = (
        f"{real / computed:.0%} of the gain computed" if computed > 0 else "no gain was computed"
    )
    way = "better" if real > 0 else "no better"
    said = f"{row.metric} {row.measured:.4g} before, {value:.4g} after: {way}; {share}"
    row.save(update_fields=["came_out"])
    _close(row, "judged", f"{said}; {after.attempts} leases")
    _tell("judged", row, ACTOR, "")


def _gains(row: Optimization) -> tuple[float, float]:
    computed = optimizing.gain(metric=row.metric, before=row.without, after=row.computed)
    after = row.measured if row.came_out is None else row.came_out
    return computed, optimizing.gain(metric=row.metric, before=row.measured, after=after)


# -- rows ------------------------------------------------------------------------------------------


def _locked_open(optimization_id: UUID) -> Optimization:
    row = Optimization.objects.select_for_update(of=["self"]).filter(id=optimization_id).first()
    if row is None:
        raise NotFound("There is no such proposal.")
    if row.status != "open":
        raise UnsupportedTransition(f"The proposal is {row.status}, not open.")
    return row


def _close(row: Optimization, status: str, verdict: str, *, actor: str = "") -> None:
    row.status, row.verdict, row.closed_at = status, verdict, registry_queries.now()
    row.actor = actor or row.actor
    row.save(update_fields=["status", "verdict", "closed_at", "actor"])


def _tell(word: str, row: Optimization, actor: str, note: str) -> None:
    about: dict[str, Any] = {"id": str(row.id), "kind_of": row.kind, "subject": row.subject}
    about |= {"action": row.action, "change": row.change, "note": note}
    about |= {"metric": row.metric, "expected": row.expected, "came_out": row.came_out}
    events.append(f"optimizer.{word}", agent_type=row.pool_id, actor=actor, **about)
