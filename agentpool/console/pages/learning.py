"""Learning: what is expected of agents, how good predictions were, and who is suspected."""

from collections.abc import Mapping, Sequence
from typing import Any

from agentpool.console import series
from agentpool.console.page import Params, Picture
from agentpool.registry import queries as registry_queries
from balancing import insight

PARAMS = {"agent_type": "", "back": "14d"}
BACKS = {"7d": 7, "14d": 14, "90d": 90}
_SUSPECTED_SHOWN = 20


def picture(params: Params) -> Picture:
    """Return the pools with their errors; of the one looked at, kinds of work and suspects."""
    days = BACKS.get(params["back"], BACKS["14d"])
    pools = insight.pools(days=days)
    types = [each["agent_type"] for each in pools]
    busiest = max(pools, key=lambda each: each["leases"], default=None)
    chosen = params["agent_type"] if params["agent_type"] in types else ""
    chosen = chosen or (busiest["agent_type"] if busiest else "")
    looked_at = next((each for each in pools if each["agent_type"] == chosen), None)
    return {
        "now": registry_queries.now(),
        "back": params["back"] if params["back"] in BACKS else "14d",
        "backs": list(BACKS),
        "pools": [_pool(each) for each in pools],
        "agent_types": types,
        "chosen": chosen,
        "kinds": [_kind(each) for each in insight.kinds(chosen)],
        "suspects": insight.agents(chosen)[:_SUSPECTED_SHOWN],
        "charts": _charts(looked_at, insight.reliability(chosen, days=days)),
    }


def _pool(told: Mapping[str, Any]) -> dict[str, Any]:
    found = told["calibration"]
    names = ("success_skill", "time_skill", "coverage")
    return {**told, **found, **{f"{name}_percent": _percent(found[name]) for name in names}}


def _kind(told: Mapping[str, Any]) -> dict[str, Any]:
    names = ("success", "success_low", "success_high")
    return {**told, **{f"{name}_percent": _percent(told[name]) for name in names}}


def _percent(share: float | None) -> int | None:
    return None if share is None else round(100 * share)


def _charts(
    told: Mapping[str, Any] | None, days: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return what was predicted against what was seen, and the errors by day."""
    bins = told["calibration"]["bins"] if told else []
    labels = [f"{100 * each['predicted']:.0f} % ({each['leases']})" for each in bins]
    seen = [
        series.line("seen", [round(100 * each["seen"], 1) for each in bins], tone="busy"),
        series.line(
            "as predicted",
            [round(100 * each["predicted"], 1) for each in bins],
            tone="standby",
        ),
    ]
    errors = [
        series.line(label, [round(day[name], 4) for day in days], tone=tone)
        for label, name, tone in (
            ("time", "time_error", "busy"),
            ("time, by the mean", "naive_time_error", "standby"),
            ("success", "success_error", "idle"),
            ("success, by the mean", "naive_success_error", "draining"),
        )
    ]
    return {
        "reliability": {**series.chart([], seen, most=100), "at": labels, "labels": labels},
        "errors": {
            **series.chart([], errors),
            "at": [day["day"].isoformat() for day in days],
            "labels": [day["day"].strftime("%d %b") for day in days],
        },
    }
