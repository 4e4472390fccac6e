"""
Changes how many agents there are: intents are committed first, drivers are called later.

`execute` only writes rows; `reconcile` (a job, run whenever rows call for it) starts and stops
runtimes and settles whatever a crash left in between.
"""

import logging
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.db.models.functions import Now

from agentpool.registry import credentials, events
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Invalid, UnsupportedTransition
from agentpool.registry.models import Agent, Launch, Pool, Request, ScalingEvent
from agentpool.registry.states import (
    PLACEABLE_STATUS,
    AgentStatus,
    AgentWish,
    LaunchStatus,
    Scope,
)
from balancing.services import agents, heartbeats, leases
from balancing.services.queue import serve_after_commit
from scaling import drivers, queries
from scaling import standby as standbys
from scaling.drivers import DriverError, Spec
from scaling.queries import GONE
from scaling.standby import Moves, Plan

log = logging.getLogger("agentpool.scaling")

# After its start a runtime is looked at, and given up that lives and has not registered.
LOOKED_AT_S, REGISTER_WITHIN_S = 10.0, 60.0
STOP_WITHIN_S = 20.0
# A runtime that ends by itself so soon counts as a launch that failed: the next one waits.
STAYS_S = 120.0
TOKEN_LIFE = timedelta(minutes=10)
# Of an agent, what a request asks for by the same name.
SIZES = ("memory_mb", "cpu_cores", "token_budget", "disk_space_mb")


@dataclass(frozen=True)
class Executed:
    """What a scaling action set in motion."""

    event: ScalingEvent
    launched: Sequence[Agent]
    drained: Sequence[Agent]
    woken: Sequence[Agent]


def execute(agent_type: str, *, action: str, count: int, reason: str, actor: str) -> Executed:
    """
    Grow or shrink a pool by hand; agents that hold leases finish them first.

    action: scale_up or scale_down by count, or set to count. Whoever is on standby is woken before
    anybody is launched, and goes before whoever is idle: sizes include them.
    Locks the pool, so that two actions count one after the other.
    Raises: Invalid, the target leaves the pool's minimum or maximum.
    """
    with transaction.atomic():
        pool = _locked(agent_type)
        current, warm = queries.size(agent_type), queries.on_standby(agent_type).count()
        asked = {"scale_up": current + count, "scale_down": current - count}.get(action, count)
        more = max(0, asked - current)
        # As many as are added; who sets a size wants all of them up.
        wake = min(warm, more) if action == "scale_up" else warm * (more > 0)
        launch = more - wake if action == "scale_up" else more
        target = asked if asked < current else current + launch
        _check_bounds(pool, current, target, least=pool.min_size)
        moves = Moves(wake=wake, launch=launch, cold=launch, let_go=max(0, current - target))
        event = ScalingEvent(action=action, current_size=current, target_size=target)
        done = _carry_out(pool, event, moves, reason=reason, actor=actor)
    return _let_go(done, count=moves.let_go, standby=0)


def follow(
    agent_type: str, *, plan: Plan, may_launch: bool, reason: str, actor: str
) -> Executed | None:
    """
    Bring a pool to what was planned, counted anew; None: there is nothing left to do.

    may_launch: False, whom a launch would bring is left out: launches fail just now.
    Locks the pool. Raises: Invalid, the target exceeds the pool's maximum.
    """
    with transaction.atomic():
        pool = _locked(agent_type)
        sizes = queries.sizes(agent_type)
        moves = standbys.moves(sizes, plan)
        if not may_launch:
            moves = replace(moves, launch=0, cold=0)
        if moves == Moves():
            return None
        target = sizes.total + moves.launch - moves.let_go
        if moves.launch or moves.let_go:
            # The calendar may have asked for fewer than the pool's minimum.
            _check_bounds(pool, sizes.total, target, least=0)
        event = ScalingEvent(action="set", current_size=sizes.total, target_size=target)
        done = _carry_out(pool, event, moves, reason=reason, actor=actor)
    return _let_go(done, count=moves.let_go, standby=plan.standby)


def _locked(agent_type: str) -> Pool:
    pool = registry_queries.pool(agent_type)
    return Pool.objects.select_for_update(no_key=True).get(id=pool.id)


def _carry_out(
    pool: Pool, event: ScalingEvent, moves: Moves, *, reason: str, actor: str
) -> Executed:
    """Make the moves, but for letting go, in the caller's transaction."""
    kind = pool.agent_type
    event.pool, event.reason, event.actor, event.cold = pool, reason, actor, moves.cold
    woken = _wake(kind, count=moves.wake, actor=actor, reason=reason or "scaling")
    aside = _set_aside(kind, count=moves.set_aside, actor=actor, reason=reason or "scaling")
    event.woken, event.set_aside = len(woken), len(aside)
    event.save(force_insert=True)
    waiting = queries.next_waiting(kind, count=len(woken) + moves.launch) if moves.launch else []
    wishes = [*_unserved(waiting, woken), *([None] * moves.launch)]
    launched = [_intend(pool, event, wish) for wish in wishes[: moves.launch]]
    events.append(
        "scaling.executed",
        agent_type=kind,
        actor=actor,
        action=event.action,
        current=event.current_size,
        target=event.target_size,
        woken=event.woken,
        set_aside=event.set_aside,
        reason=reason,
    )
    return Executed(event=event, launched=launched, drained=[], woken=woken)


def _wake(agent_type: str, *, count: int, actor: str, reason: str) -> list[Agent]:
    """Give agents on standby to the claim, in the order of their ids; the queue is served after."""
    chosen = list(queries.on_standby(agent_type)[:count]) if count else []
    woken = []
    for agent in sorted(chosen, key=lambda each: each.id):
        try:
            to, wish = AgentStatus.IDLE, AgentWish.WORK
            woken.append(agents.move(agent, to=to, reason=reason, actor=actor, wish=wish))
        except UnsupportedTransition:
            continue  # somebody else has woken it, or it has fallen silent
    if woken:
        serve_after_commit(agent_type)
    return woken


def _set_aside(agent_type: str, *, count: int, actor: str, reason: str) -> list[Agent]:
    """Put idle agents on standby; their wish stays, so that it is seen who has put them there."""
    chosen = queries.longest_idle(agent_type, count=count) if count else []
    aside = []
    for agent in sorted(chosen, key=lambda each: each.id):
        try:
            moved = agents.move(agent, to=AgentStatus.STANDBY, reason=reason, actor=actor)
            aside.append(moved)
        except UnsupportedTransition:
            continue  # it has got work
    return aside


def _unserved(waiting: Sequence[Request], woken: Sequence[Agent]) -> list[Request]:
    """Return who still waits when each of the woken has taken the first it is large enough for."""
    left = list(waiting)
    for agent in woken:
        for request in left:
            if all(getattr(agent, name) >= getattr(request, name) for name in SIZES):
                left.remove(request)
                break
    return left


def _check_bounds(pool: Pool, current: int, target: int, *, least: int) -> None:
    if target > max(pool.max_size, current):
        raise Invalid(
            f"{pool.agent_type} would have {target} agents; its max_size is {pool.max_size}.",
            errors=[("count", f"At most {max(0, pool.max_size - current)} more.")],
        )
    if target < min(least, current):
        raise Invalid(
            f"{pool.agent_type} would have {max(target, 0)} agents; its min_size is {least}.",
            errors=[("count", f"At most {max(0, current - least)} fewer.")],
        )


def _intend(pool: Pool, event: ScalingEvent, wish: Request | None) -> Agent:
    template = pool.launch_template
    if wish is not None:
        # As large as the template says, and at least as the request that it is launched for asks.
        template |= {name: max(template[name], getattr(wish, name)) for name in SIZES}
    agent = Agent.objects.create(
        agent_id=f"{pool.agent_type}-{secrets.token_hex(4)}",
        pool=pool,
        status=AgentStatus.STARTING,
        status_reason="launched by scaling",
        **template,
    )
    Launch.objects.create(event=event, agent=agent, driver=pool.driver)
    events.append("agent.starting", agent=agent, actor=event.actor, driver=pool.driver)
    return agent


def _let_go(done: Executed, *, count: int, standby: int) -> Executed:
    """Add to what was done whom it lets go; standby: how many of those on it are to stay."""
    event, drained = done.event, []
    chosen = queries.victims(event.pool_id, count=count, standby=standby) if count > 0 else []
    for agent in chosen:
        try:
            reason = event.reason or "scaling"
            drained.append(_let_one_go(agent, actor=event.actor, reason=reason))
        except UnsupportedTransition:
            continue  # it went by itself
    return replace(done, drained=drained)


def _let_one_go(agent: Agent, *, actor: str, reason: str) -> Agent:
    if agent.status in PLACEABLE_STATUS:
        return agents.drain(agent, retire=True, actor=actor, reason=reason)
    # Starting or on standby: it has nothing to finish.
    return agents.move(agent, to=AgentStatus.RETIRED, actor=actor, reason=reason)


# -- reconcile -----------------------------------------------------------------------------------


def reconcile() -> dict[str, int]:
    """Bring runtimes and rows together; return how many launches were moved to which status."""
    counts: dict[str, int] = {}
    for launch in queries.unsettled(looked_at_s=LOOKED_AT_S):
        try:
            moved = _settle(launch)
        except Exception:
            # The edge of the job's loop: one launch that cannot be settled must not stop the rest.
            log.exception("could not settle launch=%s", launch.id)
            continue
        if moved:
            counts[moved] = counts.get(moved, 0) + 1
    return counts


def _settle(launch: Launch) -> str | None:
    """Bring one launch a step further; its row lock keeps a second worker from doing it, too."""
    with transaction.atomic():
        locked = (
            Launch.objects.select_for_update(skip_locked=True, of=["self"])
            .select_related("agent", "agent__pool")
            .filter(id=launch.id, status=launch.status)
            .first()
        )
        if locked is None:
            return None
        if locked.status == LaunchStatus.INTENDED:
            return _start(locked)
        return _end(locked)


def _start(launch: Launch) -> str | None:
    if launch.agent.status != AgentStatus.STARTING:
        return _moved(launch, LaunchStatus.STOPPED, ended_at=Now())  # let go before it came up
    try:
        driver = drivers.named(launch.driver)
    except DriverError as error:
        return _failed(launch, str(error))  # the package that offered it is gone
    try:
        # A worker that died between the start and its commit has left a runtime; adopt it.
        handle = driver.find(str(launch.id))
    except DriverError as error:
        # Not at once: it may come back, and have a runtime.
        since = registry_queries.now() - launch.created_at
        is_over = since > timedelta(seconds=REGISTER_WITHIN_S)
        return _failed(launch, str(error)) if is_over else None
    try:
        if handle is None:
            handle = driver.start(_spec(launch))
    except DriverError as error:
        return _failed(launch, str(error))
    return _moved(launch, LaunchStatus.STARTED, handle=handle, started_at=Now())


def _end(launch: Launch) -> str | None:
    driver = drivers.named(launch.driver)
    if not driver.reaches(launch.handle):
        return None  # a job worker of the machine where it runs will see to it
    if not driver.is_alive(launch.handle):
        return _ended(launch)
    if launch.agent.status == AgentStatus.STARTING:
        return _overdue(launch)
    if launch.status == LaunchStatus.STOPPING:
        since = registry_queries.now() - launch.ended_at if launch.ended_at else timedelta()
        if since > timedelta(seconds=STOP_WITHIN_S):
            driver.kill(launch.handle)
        return None
    if launch.agent.status not in GONE:
        return None  # silent, but running: what that means is for the health check to say
    driver.stop(launch.handle, urgent=False)
    return _moved(launch, LaunchStatus.STOPPING, ended_at=Now())


def _overdue(launch: Launch) -> str | None:
    since = registry_queries.now() - (launch.started_at or launch.created_at)
    error = f"it did not register within {REGISTER_WITHIN_S:g} s"
    if since <= timedelta(seconds=REGISTER_WITHIN_S) or not _given_up(launch, error):
        return None  # it is coming up, or has registered since we looked
    drivers.named(launch.driver).kill(launch.handle)
    return _failed(launch, error)


def _ended(launch: Launch) -> str:
    if launch.agent.status == AgentStatus.STARTING:
        return _failed(launch, "the runtime ended before it registered")
    if launch.agent.status not in GONE:
        heartbeats.lose(launch.agent, why="its runtime ended", actor="scaling")
    drivers.named(launch.driver).clean(launch.handle)
    return _moved(launch, LaunchStatus.STOPPED, error=_short_life(launch), ended_at=Now())


def _short_life(launch: Launch) -> str:
    """Return what is wrong with a launch that nobody has ended; empty: nothing."""
    if launch.status == LaunchStatus.STOPPING or launch.agent.status == AgentStatus.RETIRED:
        return ""
    lived = registry_queries.now() - (launch.started_at or launch.created_at)
    seconds = lived.total_seconds()
    return f"its runtime ended within {seconds:.0f} s" if seconds < STAYS_S else ""


def _failed(launch: Launch, error: str) -> str:
    log.warning("launch failed agent=%s error=%s", launch.agent.agent_id, error)
    _given_up(launch, error)
    to = LaunchStatus.FAILED if launch.status == LaunchStatus.INTENDED else LaunchStatus.STOPPED
    return _moved(launch, to, error=error, ended_at=Now())


def _given_up(launch: Launch, error: str) -> bool:
    """Retire the agent of a launch, if it has not registered; return whether it was retired now."""
    starting = Agent.objects.filter(id=launch.agent_id, status=AgentStatus.STARTING)
    changed = starting.update(
        status=AgentStatus.RETIRED, status_reason=error, generation=F("generation") + 1
    )
    if changed:
        events.append("agent.retired", agent=launch.agent, actor="scaling", reason=error)
    return bool(changed)


def _moved(launch: Launch, to: LaunchStatus, **columns: object) -> str:
    Launch.objects.filter(id=launch.id, status=launch.status).update(status=to, **columns)
    return to.value


def _spec(launch: Launch) -> Spec:
    agent, pool = launch.agent, launch.agent.pool
    offers = {name: getattr(agent, name) for name in SIZES} | {"cpu_cores": float(agent.cpu_cores)}
    words = (word.partition("=") for word in pool.driver_resources)
    enrolment = credentials.issue(
        scope=Scope.ENROLMENT,
        name=f"launch of {launch.agent.agent_id}",
        pool=pool,
        uses=1,
        expires_at=registry_queries.now() + TOKEN_LIFE,
        created_by="scaling",
    )
    return Spec(
        launch_id=str(launch.id),
        agent_id=launch.agent.agent_id,
        agent_type=pool.agent_type,
        slots=pool.max_concurrent,
        exec=pool.exec,
        root=str(settings.INSTALLATION.agents_folder),
        env={
            "AGENTPOOL_URL": settings.PUBLIC_URL,
            "AGENTPOOL_ENROLMENT_TOKEN": enrolment.secret,
        },
        offers={name: amount for name, amount in offers.items() if amount},
        resources={name: float(amount) for name, _, amount in words},
    )


# -- stop all -------------------------------------------------------------------------------------


def stop_all(*, within_s: float) -> int:
    """
    End every runtime that scaling started: ask, then cancel, then kill; return how many.

    Their leases are returned: by the runtimes themselves, else as lost. within_s: bound, seconds.
    """
    launches = [la for la in queries.running() if drivers.named(la.driver).reaches(la.handle)]
    deadline = time.monotonic() + within_s
    for launch in launches:
        drivers.named(launch.driver).stop(launch.handle, urgent=True)
    alive = list(launches)
    while alive and time.monotonic() < deadline:
        time.sleep(0.1)
        alive = [la for la in alive if drivers.named(la.driver).is_alive(la.handle)]
    for launch in alive:
        drivers.named(launch.driver).kill(launch.handle)
    for launch in launches:
        leases.lose_all(launch.agent, why="the installation was stopped", actor="stop")
        agents.unregister(
            registry_queries.agent_by(id=launch.agent_id),
            force=True,
            if_generation=None,
            actor="stop",
        )
        _moved(launch, LaunchStatus.STOPPED, ended_at=Now())
        drivers.named(launch.driver).clean(launch.handle)
    return len(launches)
