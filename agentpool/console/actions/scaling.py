"""What an operator may do about how many agents a pool has."""

import contextlib
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from agentpool.console.actions.base import NOTE, Action, Done, Field, Kind, Trial, Values, number
from agentpool.console.tags import seconds
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Invalid
from agentpool.registry.models import Pool, ScalingPolicy
from scaling import governance
from scaling.policies import DEFAULTS, Mode, Policy, Rule

if TYPE_CHECKING:
    from scaling.what_if import Comparison, Figures

CLASSIC = (
    "scale_up_threshold",
    "scale_down_threshold",
    "max_acceptable_wait_time",
    "min_useful_wait_time",
    "max_scale_up_ratio",
    "max_scale_down_ratio",
)
# Which rules a setting matters to; no entry: to each.
ONLY_FOR: dict[str, tuple[Rule, ...]] = {
    "late_target_share": (Rule.PREDICTIVE,),
    "k": (Rule.WARM,),
    "target_per_agent": (Rule.QUEUE,),
    "target_utilization": (Rule.UTILIZATION, Rule.CLASSIC),
    "tolerance": (Rule.QUEUE, Rule.UTILIZATION),
    "size": (Rule.STATIC,),
    **dict.fromkeys(CLASSIC, (Rule.CLASSIC,)),
}
# Label and unit of what the form asks for; whatever else a policy has set is shown, too.
SETTINGS: dict[str, tuple[str, str]] = {
    "late_target_share": ("Share of the allowed late ones to aim at", ""),
    "k": ("Agents to spare", "slots"),
    "target_per_agent": ("Requests for each slot", ""),
    "target_utilization": ("Share to be busy", "0 to 1"),
    "tolerance": ("Tolerance", "share"),
    "size": ("Size", "agents"),
    "scale_up_threshold": ("Grow above busy", "0 to 1"),
    "scale_down_threshold": ("Shrink below busy", "0 to 1"),
    "max_acceptable_wait_time": ("Grow above a wait of", "s"),
    "min_useful_wait_time": ("Shrink below a wait of", "s"),
    "max_scale_up_ratio": ("Grow at most by", "share"),
    "max_scale_down_ratio": ("Shrink at most by", "share"),
    "slo_s": ("Longest wait that is in time", "s"),
    "slo_q": ("Share of requests in time", "0 to 1"),
    "min_idle": ("Idle at least", "agents"),
    "standby": ("On standby", "agents"),
    "headroom": ("Headroom", "share"),
    "step_up": ("Grow at most at once", "agents"),
    "step_down": ("Shrink at most at once", "agents"),
    "cooldown_up_s": ("Between growing", "s"),
    "cooldown_down_s": ("Between shrinking", "s"),
    "stabilise_s": ("Shrink to the highest wish of", "s"),
    "dead_band": ("Leave differences of", "agents"),
    "budget_agent_hours_per_day": ("Budget a day", "agent-hours"),
    "schedule": ("Calendar", ""),
}
# Settings that are typed as words, and how.
HINTS = {
    "standby": "a number, none, or auto: as many as are asked for during one start-up",
    "schedule": "CRON/FOR_S/MIN[/MAX[/ZONE]], as 0_9_*_*_1-5/28800/4; several joined by ;",
}


def _load(names: Sequence[str]) -> Sequence[ScalingPolicy]:
    pools = Pool.objects.filter(agent_type__in=names).order_by("agent_type")
    return [governance.row_of(pool) for pool in pools]


SCALING = Kind(
    name="scaling",
    plural="pools",
    load=_load,
    told=lambda row: str(row.pool_id),
    seen=lambda row: "new" if row._state.adding else str(row.generation),
    state=lambda row: f"{row.rule}, {row.mode}",
    key=lambda row: str(row.pool_id),
)


# -- start, stop, only recommend -------------------------------------------------------------------


def _would(row: ScalingPolicy, mode: Mode) -> str:
    """Say what the next decision would be in a mode."""
    # Only here: the core's arrays cost each web process 20 MB.
    from scaling import evaluation

    decision = evaluation.recommend(row.pool_id, mode=mode)[0].decision
    if decision.target == decision.current:
        return f"It keeps {decision.current} agents now: {decision.reason}."
    return f"Now from {decision.current} to {decision.target} agents: {decision.reason}."


def _start_tells(rows: Sequence[ScalingPolicy]) -> list[str]:
    told = []
    for row in rows:
        mode = Mode(governance.mode_at_start(row))
        does = "starts and drains agents by itself" if mode == Mode.AUTO else "only recommends"
        bounds = f"{row.pool.min_size} to {row.pool.max_size}"
        told.append(f"{row.pool_id}: {row.rule} {does}, {bounds} agents. {_would(row, mode)}")
    return [*told, "Whoever works is never stopped."]


def _stop_tells(rows: Sequence[ScalingPolicy]) -> list[str]:
    names = ", ".join(str(row.pool_id) for row in rows)
    return [
        f"{names}: nothing is decided any more, and no agent is started or drained.",
        "The agents that are there, and those that are starting, stay.",
    ]


def _recommend_tells(rows: Sequence[ScalingPolicy]) -> list[str]:
    told = [f"{row.pool_id}: {_would(row, Mode.RECOMMEND)}" for row in rows]
    return [*told, "That is only said: no agent is started or drained."]


def _start(row: ScalingPolicy, values: Values, actor: str) -> Done:
    after = governance.start(row.pool_id, actor=actor, note=values.get("note", ""))[0]
    return Done("scales by itself" if after.mode == Mode.AUTO else "recommends")


def _stop(row: ScalingPolicy, values: Values, actor: str) -> Done:
    governance.stop(row.pool_id, actor=actor, note=values.get("note", ""))
    return Done("is no longer scaled")


def _recommend(row: ScalingPolicy, values: Values, actor: str) -> Done:
    note = values.get("note", "")
    governance.set_policy(row.pool_id, mode=Mode.RECOMMEND, actor=actor, note=note)
    return Done("only recommends")


# -- the policy ------------------------------------------------------------------------------------


def _policy_fields(rows: Sequence[ScalingPolicy]) -> Sequence[Field]:
    row = rows[0]
    rules = [(rule.value, rule.value) for rule in Rule]
    shown = [*SETTINGS, *(name for name in row.settings if name not in SETTINGS)]
    return (
        Field("rule", "Rule", "select", row.rule, rules),
        *(_setting(row, name) for name in shown),
        NOTE,
    )


def _setting(row: ScalingPolicy, name: str) -> Field:
    label, unit = SETTINGS.get(name, (name, ""))
    value = row.settings.get(name)
    usual = {**Policy.__dict__, **DEFAULTS.get(Rule(row.rule), {})}.get(name)
    return Field(
        name,
        label,
        "text" if name in HINTS else "number",
        ";".join(value) if isinstance(value, list) else value,
        hint=HINTS.get(name, ""),
        unit=unit,
        usual="none" if usual is None or usual == () else f"{usual:g}",
        only_for=[str(rule) for rule in ONLY_FOR.get(name, ())],
    )


def _typed(row: ScalingPolicy, values: Values) -> tuple[str, dict[str, Any]]:
    """Return the rule and those settings that matter to it; what is empty is as usual."""
    rule = values.get("rule") or row.rule
    found: dict[str, Any] = {}
    for field in _policy_fields([row])[1:-1]:
        if field.name not in values or (field.only_for and rule not in field.only_for):
            continue
        text = values[field.name].strip()
        found[field.name] = _value(field.name, text) if text else None
    return rule, found


def _value(name: str, text: str) -> Any:
    """Return what was typed as JSON has it; what is no number is left to the service to refuse."""
    if name == "schedule":
        return [part.strip() for part in text.split(";") if part.strip()]
    with contextlib.suppress(ValueError):
        typed = float(text)
        return int(typed) if typed.is_integer() else typed
    return text


def _edit_policy(row: ScalingPolicy, values: Values, actor: str) -> Done:
    rule, settings = _typed(row, values)
    after = governance.set_policy(
        row.pool_id, rule=rule, settings=settings, actor=actor, note=values.get("note", "")
    )
    return Done(f"is decided by {after.rule}, version {after.generation}")


def _try_policy(row: ScalingPolicy, values: Values) -> Trial:
    # Only here, for the same reason.
    from scaling import what_if

    pool = row.pool
    present = governance.policy_of(pool, row)
    rule, settings = _typed(row, values)
    other = governance.policy_of(pool, governance.edited(row, rule=rule, settings=settings))
    try:
        found = what_if.compare(pool, present=present, other=other)
    except what_if.TooLittle as error:
        return Trial(str(error))
    return Trial(_basis(found), ("", "Now", "As typed"), _compared(found.present, found.other))


def _basis(found: "Comparison") -> str:
    return (
        f"Replayed: {found.requests} requests of the last {seconds(found.over_s)}, "
        f"{found.scored} of them counted, as if each agent had one slot and took "
        f"{seconds(found.startup_s)} to start. Nothing is changed."
    )


def _compared(now: "Figures", then: "Figures") -> list[tuple[str, str, str]]:
    return [
        ("Agent-hours", f"{now.agent_hours:.2f}", f"{then.agent_hours:.2f}"),
        ("Too late", f"{now.late_percent:.2f} %", f"{then.late_percent:.2f} %"),
        ("Mean wait", seconds(now.mean_wait_s), seconds(then.mean_wait_s)),
        ("95 % wait at most", seconds(now.p95_wait_s), seconds(then.p95_wait_s)),
        ("Longest wait", seconds(now.longest_wait_s), seconds(then.longest_wait_s)),
        ("Busy", f"{now.busy_percent:.0f} %", f"{then.busy_percent:.0f} %"),
        ("Launches", f"{now.launches}", f"{then.launches}"),
        (
            "Missing agents woken",
            f"{now.woken} of {now.missing}",
            f"{then.woken} of {then.missing}",
        ),
    ]


# -- work that is announced ------------------------------------------------------------------------


def _announce_fields(rows: Sequence[ScalingPolicy]) -> Sequence[Field]:
    when = "+30m, or a time such as 2030-01-01T06:00 (UTC)"
    return (
        Field("at", "From", value="+30m", hint=when, is_required=True),
        Field("count", "Requests", "number", 10, is_required=True),
        Field("spread_s", "Spread over", "number", 60, unit="s"),
        Field("name", "Name", hint="what it is, such as nightly"),
        NOTE,
    )


def _announce_tells(rows: Sequence[ScalingPolicy]) -> list[str]:
    row = rows[0]
    by_itself = {
        Mode.AUTO: "Agents are started ahead of it.",
        Mode.RECOMMEND: "The pool only recommends: no agent is started for it.",
        Mode.OFF: "Scaling is off: no agent is started for it.",
    }
    listens = row.rule == Rule.PREDICTIVE
    rule = "" if listens else f" The rule {row.rule} does not look ahead; predictive does."
    return [by_itself[Mode(row.mode)] + rule]


def _announce(row: ScalingPolicy, values: Values, actor: str) -> Done:
    count, spread_s = number(values, "count", "Requests"), number(values, "spread_s", "Spread over")
    if count is None or not 1 <= count <= 1_000_000 or count != int(count):
        raise Invalid(
            "Requests: a whole number from 1 to 1,000,000.",
            errors=[("count", "From 1 to 1,000,000.")],
        )
    if spread_s is not None and not 0 <= spread_s <= 86_400:
        raise Invalid("Spread over: 0 to 86,400 s.", errors=[("spread_s", "From 0 to 86,400.")])
    said = governance.announce(
        row.pool_id,
        at=_moment(values.get("at", "")),
        count=int(count),
        spread_s=60.0 if spread_s is None else spread_s,
        name=values.get("name", "").strip()[:200],
        actor=actor,
        note=values.get("note", ""),
    )
    what = "1 request" if said.count == 1 else f"{said.count} requests"
    return Done(f"expects {what} from {said.at.astimezone(UTC):%F %R} UTC")


def _moment(text: str) -> datetime:
    """Return a time that was typed, `+30m` or ISO-8601; raises Invalid."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
    if found := re.fullmatch(r"\+\s*(\d{1,6})\s*([smhd])", text.strip()):
        return registry_queries.now() + timedelta(seconds=int(found[1]) * units[found[2]])
    try:
        at = datetime.fromisoformat(text.strip())
    except ValueError as error:
        message = f"{text[:40]!r} is no time such as +30m or 2030-01-01T06:00."
        raise Invalid(f"From: {message}", errors=[("at", message)]) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


ACTIONS = (
    Action(
        "scaling-start",
        "Start",
        SCALING,
        _start_tells,
        _start,
        allows=lambda row: row.mode != Mode.AUTO,
        is_for_many=True,
    ),
    Action(
        "scaling-stop",
        "Stop",
        SCALING,
        _stop_tells,
        _stop,
        allows=lambda row: row.mode != Mode.OFF,
        is_grave=True,
        is_for_many=True,
    ),
    Action(
        "scaling-recommend",
        "Only recommend",
        SCALING,
        _recommend_tells,
        _recommend,
        allows=lambda row: row.mode != Mode.RECOMMEND,
        is_for_many=True,
    ),
    Action(
        "scaling-policy",
        "Change policy",
        SCALING,
        lambda rows: ["It holds from the next decision on; smallest and largest are the pool's."],
        _edit_policy,
        _policy_fields,
        tries=_try_policy,
    ),
    Action("announce", "Announce work", SCALING, _announce_tells, _announce, _announce_fields),
)
