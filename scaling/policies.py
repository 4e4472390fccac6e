"""
What a pool's scaling policy may say, and how it is written in one line: `warm:k=3,min_size=1`.

Pure. Durations in seconds, shares 0 to 1. Every policy has the common bounds; each reads only the
fields of its own rule (docs/scaling.md has them with formulas and examples).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, get_type_hints

from scaling import standby as standbys
from scaling.schedule import Window, WindowInvalid, parse_window


class PolicyInvalid(Exception):
    """A policy says something that cannot be; `field` names it."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name}: {message}")
        self.field, self.message = name, message


class Rule(StrEnum):
    """How the wanted size is found before the bounds are applied."""

    CLASSIC = "classic"
    UTILIZATION = "utilization"
    QUEUE = "queue"
    WARM = "warm"
    SCHEDULE = "schedule"
    STATIC = "static"
    PREDICTIVE = "predictive"


class Mode(StrEnum):
    """Whether decisions are made, and whether they are carried out."""

    OFF = "off"
    RECOMMEND = "recommend"
    AUTO = "auto"


@dataclass(frozen=True)
class Policy:
    """
    One pool's policy. None stands for "no such bound".

    SLO: `slo_q` of the requests wait at most `slo_s`. Start-up time is learnt per pool;
    `startup_s` is what it is taken for until a launch has been seen. `tick_s` is the longest
    time between two decisions; with `on_events` one is also made `reaction_s` after an arrival or
    an end. `step_up_ratio` and the like bound one decision against the present size; `flap_budget`
    is how many turns (a scale-up after a scale-down, or the other way) an hour may have before no
    more scale-down is made. `standby` is how many agents are kept on standby beside those on duty:
    a number, or `auto`, arrival rate x start-up (`scaling.standby.wanted`).
    """

    rule: Rule = Rule.PREDICTIVE
    mode: Mode = Mode.AUTO

    # -- common bounds
    min_size: int = 1
    max_size: int = 10_000
    min_idle: int = 0
    standby: standbys.Wish = 0
    headroom: float = 0.0
    slo_s: float = 30.0
    slo_q: float = 0.99
    startup_s: float = 60.0
    tick_s: float = 30.0
    on_events: bool = True
    reaction_s: float = 0.0
    cooldown_up_s: float = 0.0
    cooldown_down_s: float = 0.0
    stabilise_s: float = 0.0
    dead_band: int = 0
    step_up: int | None = None
    step_down: int | None = None
    step_up_ratio: float | None = None
    step_down_ratio: float | None = None
    flap_budget: int | None = None
    budget_agent_hours_per_day: float | None = None
    budget_usd_per_day: float | None = None
    usd_per_agent_hour: float = 0.0
    fallback_size: int | None = None
    stale_s: float = 300.0
    schedule: tuple[Window, ...] = ()

    # -- classic (the seed's fields)
    scale_up_threshold: float = 0.8
    scale_down_threshold: float = 0.3
    max_acceptable_wait_time: float = 30.0
    min_useful_wait_time: float = 5.0
    max_scale_up_ratio: float = 0.5
    max_scale_down_ratio: float = 0.5
    as_written: bool = False

    # -- classic, utilization, static, queue, warm
    target_utilization: float = 0.75
    tolerance: float = 0.1
    size: int = 1
    target_per_agent: float = 1.0
    k: float = 2.0

    # -- predictive
    late_target_share: float = 0.93  # of the late share that the SLO allows

    overridden: frozenset[str] = field(default=frozenset(), compare=False)

    def __post_init__(self) -> None:
        check(self)

    @property
    def late(self) -> float:
        """The share of late requests that is aimed at: a little below what the SLO allows."""
        return (1.0 - self.slo_q) * self.late_target_share


# What a rule's usual form sets beside the common defaults; a policy may override each.
DEFAULTS: Mapping[Rule, Mapping[str, Any]] = {
    # Kubernetes' own: polled, and five minutes of stabilisation before it shrinks.
    Rule.UTILIZATION: {"stabilise_s": 300.0, "on_events": False},
    Rule.QUEUE: {"stabilise_s": 300.0, "on_events": False},
    Rule.CLASSIC: {"on_events": False},
    Rule.SCHEDULE: {"on_events": False},
    Rule.STATIC: {"on_events": False},
}
_SHARES = ("slo_q", "scale_up_threshold", "scale_down_threshold", "target_utilization")
_POSITIVE = ("tick_s", "stale_s", "target_per_agent", "late_target_share")
_STANDBY: Mapping[str, standbys.Wish] = {"none": 0, "auto": standbys.AUTO}
_BOOLEANS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def usual(rule: Rule, **fields_: Any) -> Policy:
    """Return a rule's usual policy with some fields of one's own; raises PolicyInvalid."""
    try:
        return Policy(
            rule=rule, overridden=frozenset(fields_), **{**DEFAULTS.get(rule, {}), **fields_}
        )
    except TypeError as error:
        raise PolicyInvalid(str(rule), str(error)) from error


def parse(text: str, **common: Any) -> Policy:
    """
    Read `NAME[:k=v,…]`; common: fields that hold unless the text says otherwise.

    A schedule is `schedule=CRON/FOR_S/MIN/MAX[/ZONE]`, several joined by `;`, with `_` for the
    blanks of the cron expression. Raises: PolicyInvalid.
    """
    name, _, rest = text.partition(":")
    if name not in set(Rule):
        raise PolicyInvalid("policy", f"{name!r} is none of {', '.join(Rule)}")
    said: dict[str, Any] = dict(common)
    for part in filter(None, (part.strip() for part in rest.split(","))):
        key, is_given, value = part.partition("=")
        if not is_given:
            raise PolicyInvalid(key, "write it as name=value")
        said[key] = _value(key, value)
    return usual(Rule(name), **said)


def changed(policy: Policy, **fields_: Any) -> Policy:
    """Return the policy with fields changed; raises PolicyInvalid."""
    return replace(policy, overridden=policy.overridden | set(fields_), **fields_)


def read_settings(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields from JSON: numbers, booleans, a schedule as a list; raises PolicyInvalid."""
    return {name: _value(name, _written(value)) for name, value in said.items()}


def _written(value: object) -> str:
    if isinstance(value, list):
        return ";".join(str(each) for each in value)
    return str(value)


def _standby(text: str) -> standbys.Wish:
    if text.lower() in _STANDBY:
        return _STANDBY[text.lower()]
    try:
        return int(text)
    except ValueError:
        said = f"{text!r} is neither none, nor auto, nor a whole number"
        raise PolicyInvalid("standby", said) from None


def _value(key: str, text: str) -> Any:
    kind = _TYPES.get(key)
    if kind is None:
        raise PolicyInvalid(key, "there is no such field")
    if key == "standby":
        return _standby(text)
    try:
        if kind is bool:
            return _BOOLEANS[text.lower()]
        if "tuple" in str(kind):
            return tuple(parse_window(one) for one in text.split(";"))
        if kind in (Rule, Mode):
            return kind(text)
    except (ValueError, KeyError, WindowInvalid) as error:
        raise PolicyInvalid(key, f"{text!r} does not do: {error}") from error
    try:
        return int(text) if "int" in str(kind) else float(text)
    except ValueError:
        whole = "whole " if "int" in str(kind) else ""
        raise PolicyInvalid(key, f"{text!r} is no {whole}number") from None


def check(policy: Policy) -> None:
    """Judge a policy as a whole; raises PolicyInvalid with the first field that cannot be."""
    for each in fields(policy):
        value = getattr(policy, each.name)
        if isinstance(value, int | float) and not 0 <= value < math.inf:
            raise PolicyInvalid(each.name, f"{value} is no finite number from 0 on")
    for name in _SHARES:
        if not 0 < getattr(policy, name) <= 1:
            raise PolicyInvalid(name, "must be above 0 and at most 1")
    for name in _POSITIVE:
        if not getattr(policy, name) > 0:
            raise PolicyInvalid(name, "must be above 0")
    if policy.slo_q == 1:
        raise PolicyInvalid("slo_q", "must be below 1: no pool can promise every request")
    if policy.min_size > policy.max_size:
        raise PolicyInvalid("min_size", f"{policy.min_size} is above max_size {policy.max_size}")
    if policy.scale_down_threshold >= policy.scale_up_threshold:
        raise PolicyInvalid("scale_down_threshold", "must be below scale_up_threshold")
    if policy.budget_usd_per_day is not None and policy.usd_per_agent_hour == 0:
        raise PolicyInvalid("budget_usd_per_day", "needs usd_per_agent_hour")
    if policy.rule == Rule.SCHEDULE and not policy.schedule:
        raise PolicyInvalid("schedule", "needs at least one window")


_TYPES: Mapping[str, Any] = {
    name: kind for name, kind in get_type_hints(Policy).items() if name != "overridden"
}
