"""
Bounds what a rule wants: first the wish is shaped, then paced, last kept within its limits.

Pure. Sizes in agents, those on standby included; `named` gets the names of the bounds that changed
a size, in order.
"""

import math

from scaling import schedule
from scaling.history import History
from scaling.policies import Policy
from scaling.pool import PoolState


def shaped(policy: Policy, pool: PoolState, wanted: int, named: list[str]) -> int:
    """Return a wish with headroom and the least idle ones."""
    target = wanted
    if policy.headroom:
        target = _noted(math.ceil(target * (1 + policy.headroom)), target, "headroom", named)
    if policy.min_idle:
        asked = pool.sized(pool.busy + pool.waiting) + policy.min_idle
        target = _noted(max(target, asked), target, "min_idle", named)
    return target


def paced(
    policy: Policy,
    pool: PoolState,
    history: History,
    current: int,
    wish: int,
    now: float,
    named: list[str],
) -> int:
    """Return how far a wish may be followed now: stabilisation, steps, cool-downs, flaps."""
    target = wish
    if policy.stabilise_s and target < current:
        steady = min(history.highest(since=now - policy.stabilise_s, at_least=target), current)
        target = _noted(steady, target, "stabilise_s", named)
    if policy.dead_band and abs(target - current) <= policy.dead_band and not pool.waiting:
        target = _noted(current, target, "dead_band", named)
    if target == current:
        return target
    is_up = target > current
    steps = [
        policy.step_up if is_up else policy.step_down,
        _share(current, policy.step_up_ratio if is_up else policy.step_down_ratio),
    ]
    most = min((step for step in steps if step is not None), default=None)
    if most is not None and abs(target - current) > most:
        target = _noted(current + (most if is_up else -most), target, "step", named)
    held = _cooling(policy, history, now) if is_up else _staying(policy, history, now)
    for name in held:
        target = _noted(current, target, name, named)
    return target


def made_room(
    policy: Policy,
    pool: PoolState,
    history: History,
    target: int,
    missing: int,
    least: int,
    now: float,
    named: list[str],
) -> int:
    """
    Return a target below the largest size, where idle agents that serve nobody who waits fill it.

    For a pool that has no room left: those who go make it for the ones that come next.
    missing: agents wished for beyond the largest size. least: what must not be left meanwhile.
    """
    waiting = pool.agents(pool.waiting)
    in_the_way = max(0, min(missing, pool.apart.idle, waiting, target - least))
    if not in_the_way or _staying(policy, history, now):
        return target
    return _noted(target - in_the_way, target, "room", named)


def _cooling(policy: Policy, history: History, now: float) -> list[str]:
    """Return what keeps a pool from growing again already."""
    last = history.last_up_at
    is_soon = last is not None and now - last < policy.cooldown_up_s
    return ["cooldown_up_s"] * is_soon


def _staying(policy: Policy, history: History, now: float) -> list[str]:
    """Return what keeps a pool from shrinking again already."""
    last = history.last_down_at
    is_soon = last is not None and now - last < policy.cooldown_down_s
    most = policy.flap_budget
    is_flapping = most is not None and history.turns(since=now - 3600) >= most
    return ["cooldown_down_s"] * is_soon + ["flap_budget"] * is_flapping


def least_and_most(policy: Policy, now: float) -> tuple[int, int]:
    """Return the smallest and the largest size at this moment, by the calendar, too."""
    low, high = policy.min_size, policy.max_size
    if policy.schedule:
        return schedule.bounds(policy.schedule, min_size=low, max_size=high, now=now)
    return low, high


def limited(
    policy: Policy,
    pool: PoolState,
    history: History,
    wish: int,
    spare: int,
    span: tuple[int, int],
    now: float,
    named: list[str],
) -> int:
    """
    Return a target within what must never be left: sizes, budget, agents that are busy.

    spare: how many of it are for the standby. span: of `least_and_most`.
    """
    low, high = span
    # The smallest size is on duty; whoever is on standby comes on top.
    least = min(low + spare, max(low, high))
    target = _noted(max(wish, least), wish, "min_size", named)
    target = _noted(min(target, high), target, "max_size", named)
    ceiling = _affordable(policy, history, low, now)
    if ceiling is not None:
        target = _noted(min(target, ceiling), target, "budget", named)
    # Whoever works is never stopped; agents that are busy leave when they are done.
    return _noted(max(target, pool.sizes.busy), target, "busy", named)


def _affordable(policy: Policy, history: History, low: int, now: float) -> int | None:
    """
    Return the most agents that today's budget allows; None: there is no budget.

    What is left after the minimum's own need until midnight may be spent within an hour.
    """
    budgets = []
    if policy.budget_agent_hours_per_day is not None:
        budgets.append(policy.budget_agent_hours_per_day)
    if policy.budget_usd_per_day is not None:
        budgets.append(policy.budget_usd_per_day / policy.usd_per_agent_hour)
    if not budgets:
        return None
    left_h = 24 - (now % 86_400) / 3600
    over = min(budgets) - history.agent_hours(now) - low * left_h
    return low + max(0, math.floor(over))


def _share(current: int, ratio: float | None) -> int | None:
    return None if ratio is None else max(1, math.ceil(current * ratio))


def _noted(target: int, before: int, name: str, named: list[str]) -> int:
    if target != before:
        named.append(name)
    return target
