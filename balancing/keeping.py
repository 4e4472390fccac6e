"""
Turns what was learnt into JSON and back, so that it outlives the process. Pure.

Arrays are kept as the base64 of their numbers: exact, half as long as decimals, and read and
written in a thousandth of the time that an agent with many kinds of work would take else.
"""

import base64
from typing import Any

import numpy as np

from balancing.belief import FIRST_KIND, Floats, Model, Own, Shared, Skill, Spread, Usual


def model_json(model: Model) -> dict[str, Any]:
    """Return a model without its agents."""
    return {
        "kinds": model.kinds,
        "usual": [_usual(each) for each in model.usual],
        "leases_of": model.leases_of,
        "shared": [_text(each.block) for each in model.shared],
        "agents": [model.agents.squares, model.agents.count],
        "cells": [model.cells.squares, model.cells.count],
        "noise": model.noise,
        "leases": model.leases,
        "clock": model.clock,
        "at": model.at,
    }


def model_of(told: dict[str, Any]) -> Model:
    """Return the model that `model_json` wrote."""
    rows = FIRST_KIND + len(told["kinds"])
    success, time = (Shared(_block(each, rows=rows)) for each in told["shared"])
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
        "own": [_text(each.block) for each in skill.own],
        "usual": [_usual(each) for each in skill.usual],
        "leases": skill.leases,
        "match": skill.match,
        "counted": skill.counted,
        "clock": skill.clock,
        "at": skill.at,
    }


def skill_of(told: dict[str, Any]) -> Skill:
    """Return the skill that `skill_json` wrote."""
    rows = 1 + len(told["kinds"])
    success, time = (Own(_block(each, rows=rows)) for each in told["own"])
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


def _text(block: Floats) -> str:
    return base64.b64encode(block.astype("<f8").tobytes()).decode()


def _block(text: str, *, rows: int) -> Floats:
    """Return an array with so many rows; its width is what is left."""
    numbers = np.frombuffer(base64.b64decode(text), "<f8")
    return numbers.reshape(rows, -1).astype(np.float64)


def _usual(each: Usual) -> list[float]:
    return [each.leases, each.waited_s, each.tokens, each.efficiency]
