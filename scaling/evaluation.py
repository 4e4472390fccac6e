"""
Looks at each pool, decides how large it should be, and sets that in motion where its mode says so.

One pool is one transaction: what was learnt, the decision, and the intents that follow from it are
written together or not at all. The drivers are called later, by `services.reconcile`.
"""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Avg, Count, Q, Sum

from agentpool.registry import counters
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Invalid, Refusal
from agentpool.registry.models import (
    Announcement,
    Launch,
    Lease,
    Pool,
    ScalingDecision,
    ScalingEvent,
    ScalingPolicy,
    ScalingState,
)
from agentpool.registry.states import AgentStatus, AgentWish, LaunchStatus
from scaling import decisions, governance, hearing, queries, services
from scaling.decisions import Decision, PoolState
from scaling.demand import Demand, StateInvalid
from scaling.history import History
from scaling.policies import Mode, Policy, PolicyInvalid
from scaling.simulation import PEAK_AHEAD_S, demand_for
from scaling.standby import Sizes

log = logging.getLogger("agentpool.scaling")

ACTOR = "scaling"
REACTION_S = 2.0
STEADY_EVERY = timedelta(minutes=1)
KEPT = timedelta(days=30)
WAITS_OVER = timedelta(seconds=300)
# A clock that goes back by more is not waited for.
CLOCK_BACK = timedelta(minutes=1)
# After failed launches nothing more is launched for 5, 10, 20 … 300 s.
BACKOFF_FIRST_S, BACKOFF_MOST_S = 5.0, 300.0


@dataclass(frozen=True)
class Look:
    """One pool as it was found, and what is to be done about it."""

    pool: Pool
    row: ScalingPolicy
    policy: Policy
    decision: Decision
    alternatives: list[tuple[str, int, str]]
    forecast: dict[str, Any]
    announcements: list[UUID]
    history: History
    at_s: float


def evaluate() -> dict[str, str]:
    """Decide for every pool whose turn it is; return the action of each."""
    done, began = {}, time.perf_counter()
    for pool in Pool.objects.order_by("agent_type"):
        try:
            with transaction.atomic():
                look = _evaluate(pool)
        except PolicyInvalid as error:
            log.warning("pool=%s has no valid policy: %s", pool.agent_type, error)
        except Exception:
            # The edge of the job's loop: one pool that can't be judged must not stop the rest.
            log.exception("could not evaluate pool=%s", pool.agent_type)
        else:
            if look is not None:
                done[pool.agent_type] = look.decision.action
    if done:
        took_s = time.perf_counter() - began
        counters.observe("agentpool_decision_duration_seconds", {"kind": "sizing"}, took_s)
        counters.flush()
    return done


def recommend(agent_type: str | None = None, *, mode: Mode | None = None) -> list[Look]:
    """
    Return what would be decided now, and decide nothing.

    mode: as if the pool were in it. Raises: NotFound; Invalid, a pool's policy does not do.
    """
    pools = (
        [registry_queries.pool(agent_type)]
        if agent_type
        else list(Pool.objects.order_by("agent_type"))
    )
    now = registry_queries.now()
    try:
        return [_look(pool, _state(pool), now=now, mode=mode) for pool in pools]
    except PolicyInvalid as error:
        raise Invalid(str(error), errors=[(error.field, error.message)]) from error


def _evaluate(pool: Pool) -> Look | None:
    """Decide for one pool; its row's lock keeps a second worker from doing it, too."""
    ScalingState.objects.get_or_create(pool=pool)
    state = ScalingState.objects.select_for_update(skip_locked=True).filter(pool=pool).first()
    if state is None:
        return None
    now = registry_queries.now()
    look = _look(pool, state, now=now)
    _keep(look, state, now)
    return look


def _look(pool: Pool, state: ScalingState, *, now: datetime, mode: Mode | None = None) -> Look:
    """Bring a state up to date, and decide; writes nothing."""
    row = governance.row_of(pool)
    row.mode = mode or row.mode
    policy = governance.policy_of(pool, row)
    until = now - timedelta(seconds=hearing.LAG_S)
    demand, history = _learnt(state, policy, until)
    # What is learnt knows no time that goes back: it stands still until the clock has caught up.
    until = max(until, state.heard_until or until)
    # The pulse looks each second, and a job is taken up within another.
    lead_in_s = max(policy.reaction_s, REACTION_S) if policy.on_events else policy.tick_s
    startup_s = hearing.startup_s(pool.agent_type, otherwise=policy.startup_s)
    demand.retuned(lead_s=startup_s + lead_in_s - policy.slo_s, patience_s=startup_s + lead_in_s)
    told_of = hearing.tell(demand, state, policy=policy, until=until)
    at = until.timestamp()
    found = replace(_pool_state(pool, demand, now=now, at=at), startup_s=startup_s)
    history.paid(at=at, size=queries.paid(pool.agent_type))
    decision = decisions.decide(policy=policy, pool=found, demand=demand, history=history, now=at)
    others = decisions.alternatives(policy=policy, pool=found, demand=demand, now=at)
    forecast = asdict(demand.predict(at))
    state.demand = demand.state()
    return Look(pool, row, policy, decision, others, forecast, told_of, history, at)


def _learnt(state: ScalingState, policy: Policy, until: datetime) -> tuple[Demand, History]:
    """
    Return what was stored; else it is learnt anew from the rows.

    That is if there is none, or of another version, or of a time that is still to come.
    """
    is_ahead = state.heard_until is not None and state.heard_until > until + CLOCK_BACK
    if is_ahead:
        log.warning(
            "pool=%s: the clock has gone back; what was learnt is begun anew", state.pool_id
        )
    elif state.demand is not None:
        try:
            demand = Demand.restored(state.demand)
            demand.late = demand.steering.late = policy.late
        except (StateInvalid, KeyError, TypeError):
            log.warning("pool=%s: what was learnt can't be read; begun anew", state.pool_id)
        else:
            history = History.restored(state.history) if state.history else History()
            return demand, history
    state.heard_until = None
    return demand_for(policy), History()


def _pool_state(pool: Pool, demand: Demand, *, now: datetime, at: float) -> PoolState:
    slots = queries.slots(pool.agent_type)
    warm = queries.on_standby(pool.agent_type).aggregate(
        slots=Sum("max_concurrent", default=0),
        agents=Count("id"),
        kept=Count("id", filter=Q(wish=AgentWish.STANDBY)),
    )
    return PoolState(
        ready=slots.ready,
        busy=min(slots.busy, slots.ready),
        starting=slots.starting,
        waiting=slots.waiting,
        rate=demand.rate(at),
        service_s=pool.mean_service_s,
        average_wait_s=_waits(pool, now),
        peak_demand_ratio=demand.peak_ratio(at, ahead_s=PEAK_AHEAD_S),
        slots_per_agent=max(1, pool.max_concurrent),
        standby=warm["slots"],
        kept=warm["kept"],
        apart=slots.apart,
        held_back=slots.held_back,
        counted=Sizes(slots.ready_agents, 0, slots.starting_agents, warm["agents"]),
    )


def _waits(pool: Pool, now: datetime) -> float:
    """Return the mean wait of those begun in the last 300 s and those waiting, seconds."""
    begun = Lease.objects.filter(
        pool_id=pool.agent_type, acquired_at__gt=now - WAITS_OVER
    ).aggregate(n=Count("id"), mean=Avg("waited_s"))
    asking = queries.asking(pool.agent_type).values_list("queued_at", flat=True)
    since = [(now - at).total_seconds() for at in asking[:500]]
    count = begun["n"] + len(since)
    return (begun["n"] * (begun["mean"] or 0.0) + sum(since)) / count if count else 0.0


def _state(pool: Pool) -> ScalingState:
    return ScalingState.objects.filter(pool=pool).first() or ScalingState(pool=pool)


# -- what comes of it ------------------------------------------------------------------------------


def _keep(look: Look, state: ScalingState, now: datetime) -> None:
    """Carry the decision out where the mode is auto, and keep it where it says something new."""
    decision = look.decision
    event, error = _carry_out(look, now)
    if decision.is_carried_out:
        # What was refused starts no cool-down, nor does a wake; the wish counts all the same.
        size = (event.current_size, event.target_size) if event is not None else (0, 0)
        look.history.decided(
            at=look.at_s,
            wanted=decision.wanted,
            current=size[0],
            target=size[1],
            keep_s=look.policy.stabilise_s,
        )
    state.history = look.history.state()
    state.decided_at = now
    state.save()
    Announcement.objects.filter(id__in=look.announcements).update(heard_at=now)
    mine = ScalingDecision.objects.filter(pool=look.pool)
    last = mine.order_by("-at").first()
    if event is None and last is not None:
        was = (last.target, last.mode, last.action, bool(last.error))
        is_news = was != (decision.target, look.row.mode, decision.action, bool(error))
        if not is_news and now - last.at < STEADY_EVERY:
            return
    ScalingDecision.objects.create(
        pool=look.pool,
        at=now,
        rule=look.row.rule,
        mode=look.row.mode,
        action=decision.action,
        current=decision.current,
        target=max(0, decision.target),
        wanted=max(0, decision.wanted),
        reason=decision.reason,
        bounds=list(decision.bounds),
        inputs=_rounded(decision.inputs),
        alternatives=[list(each) for each in look.alternatives],
        forecast=_rounded(look.forecast),
        is_carried_out=event is not None,
        error=error,
        event=event,
    )
    if now.minute == 0:
        mine.filter(at__lt=now - KEPT).delete()


def _carry_out(look: Look, now: datetime) -> tuple[ScalingEvent | None, str]:
    """Return the change of size that comes of a decision, and why it, or a part of it, did not."""
    decision = look.decision
    if not decision.is_carried_out or decision.action == "no_action":
        return None, ""
    error = _backing_off(look.pool, now) if decision.moves.launch else ""
    try:
        done = services.follow(
            look.pool.agent_type,
            plan=decision.plan,
            # Waking needs no launch: it goes on.
            may_launch=not error,
            reason=decision.reason,
            actor=ACTOR,
        )
    except Refusal as refusal:
        return None, str(refusal)
    return done.event if done else None, error


def _backing_off(pool: Pool, now: datetime) -> str:
    """Return why nothing is launched just now: launches have failed, one change after the other."""
    failed: set[Any] = set()
    last_at: datetime | None = None
    of_pool = Launch.objects.filter(agent__pool_id=pool.agent_type)
    came_up = of_pool.filter(status=LaunchStatus.STARTED).exclude(
        agent__status=AgentStatus.STARTING
    )
    rows = of_pool.filter(ended_at__isnull=False)
    if (last_up := came_up.first()) is not None:
        rows = rows.filter(created_at__gte=last_up.created_at)
    columns = ("status", "error", "ended_at", "event_id")
    for status, error, ended_at, event in rows.order_by("-ended_at").values_list(*columns)[:500]:
        if status != LaunchStatus.FAILED and not error:
            break
        # Those launched together fail for one reason.
        failed.add(event)
        last_at = last_at or ended_at
    if last_at is None:
        return ""
    pause_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** (len(failed) - 1))
    left_s = pause_s - (now - last_at).total_seconds()
    if left_s <= 0:
        return ""
    times = "once" if len(failed) == 1 else f"{len(failed)} times"
    return f"launching failed {times}; the next try is in {left_s:.0f} s"


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()}
