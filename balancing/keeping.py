"""Turns what was learnt into JSON and back, so that it outlives the process. Pure."""

from typing import Any

from balancing.outlook import Model, Own, Shared, Skill, Spread, Usual


def model_json(model: Model) -> dict[str, Any]:
    """Return a model without its agents."""
    return {
        "kinds": model.kinds,
        "usual": [_usual(each) for each in model.usual],
        "leases_of": model.leases_of,
        "shared": [[each.means, each.covariance] for each in model.shared],
        "agents": [model.agents.squares, model.agents.count],
        "cells": [model.cells.squares, model.cells.count],
        "noise": model.noise,
        "leases": model.leases,
        "clock": model.clock,
        "at": model.at,
    }


def model_of(told: dict[str, Any]) -> Model:
    """Return the model that `model_json` wrote."""
    success, time = (Shared(*each) for each in told["shared"])
    return Model(
        kinds=told["kinds"],
        usual=[Usual(*each) for each in told["usual"]],
        leases_of=told["leases_of"],
        shared=(success, time),
        agents=Spread(*told["agents"]),
        cells=Spread(*told["cells"]),
        noise=told["noise"],
        leases=told["leases"],
        clock=told["clock"],
        at=told["at"],
    )


def skill_json(skill: Skill) -> dict[str, Any]:
    """Return what is known of one agent."""
    return {
        "kinds": skill.kinds,
        "own": [[each.base, each.slopes, each.covariance] for each in skill.own],
        "usual": [_usual(each) for each in skill.usual],
        "leases": skill.leases,
        "match": skill.match,
        "counted": skill.counted,
        "clock": skill.clock,
        "at": skill.at,
    }


def skill_of(told: dict[str, Any]) -> Skill:
    """Return the skill that `skill_json` wrote."""
    success, time = (Own(*each) for each in told["own"])
    return Skill(
        kinds=told["kinds"],
        own=(success, time),
        usual=[Usual(*each) for each in told["usual"]],
        leases=told["leases"],
        match=told["match"],
        counted=told["counted"],
        clock=told["clock"],
        at=told["at"],
    )


def _usual(each: Usual) -> list[float]:
    return [each.leases, each.waited_s, each.tokens, each.efficiency]
