"""
Turns what was learnt into bytes and back, so that it outlives the process. Pure.

A line of JSON with the kinds of work, then numbers of 8 bytes: exact, and nothing to parse, however
many kinds an agent has done.
"""

import struct
from collections.abc import Iterable
from itertools import chain

import numpy as np
import ujson

from balancing.belief import FIRST_KIND, Floats, Model, Own, Shared, Skill, Spread, Usual

# Numbers that stand before those of the kinds of work, or of an agent's places.
_OF_A_MODEL, _OF_A_SKILL = 10, 2


def model_bytes(model: Model) -> bytes:
    """Return a model without its agents."""
    agents, cells = model.agents, model.cells
    numbers = (
        *(model.noise, model.clock, model.at, model.leases),
        *(*agents.squares, agents.count, *cells.squares, cells.count),
        *model.leases_of,
        *_usual_numbers(model.usual),
    )
    return _packed(model.kinds, numbers, model.shared)


def model_of(kept: bytes) -> Model:
    """Return the model that `model_bytes` wrote."""
    kinds, numbers = _unpacked(kept)
    count = len(kinds)
    told, (leases_of, usual), (success, time) = _split(
        numbers, first=_OF_A_MODEL, widths=(1, 4), count=count, rows=FIRST_KIND + count
    )
    noise, clock, at, leases, *spreads = told.tolist()
    return Model(
        kinds=kinds,
        usual=[Usual(*each) for each in usual.tolist()],
        leases_of=_whole(leases_of),
        shared=(Shared(success), Shared(time)),
        agents=Spread(spreads[:2], int(spreads[2])),
        cells=Spread(spreads[3:5], int(spreads[5])),
        noise=noise,
        leases=int(leases),
        clock=clock,
        at=at,
    )


def skill_bytes(skill: Skill) -> bytes:
    """Return what is known of one agent."""
    numbers = (
        *(skill.clock, skill.at),
        *skill.leases,
        *skill.match,
        *chain.from_iterable(skill.counted),
        *_usual_numbers(skill.usual),
    )
    return _packed(skill.kinds, numbers, skill.own)


def skill_of(kept: bytes) -> Skill:
    """Return the skill that `skill_bytes` wrote."""
    kinds, numbers = _unpacked(kept)
    places = 1 + len(kinds)
    told, (leases, match, counted, usual), (success, time) = _split(
        numbers, first=_OF_A_SKILL, widths=(1, 1, 2, 4), count=places, rows=places
    )
    clock, at = told.tolist()
    return Skill(
        kinds=kinds,
        own=(Own(success), Own(time)),
        usual=[Usual(*each) for each in usual.tolist()],
        leases=_whole(leases),
        match=match[:, 0].tolist(),
        counted=counted.tolist(),
        clock=clock,
        at=at,
    )


def _packed(kinds: list[str], numbers: tuple[float, ...], blocks: Iterable[Shared | Own]) -> bytes:
    told = struct.pack(f"<{len(numbers)}d", *numbers)
    several = [each.block.astype("<f8", copy=False).tobytes() for each in blocks]
    return b"".join((ujson.dumps(kinds).encode(), b"\n", told, *several))


def _unpacked(kept: bytes) -> tuple[list[str], Floats]:
    """Return the kinds of work and the numbers: a copy of one's own, to be learnt in."""
    kinds, _, rest = kept.partition(b"\n")
    return ujson.loads(kinds), np.frombuffer(rest, "<f8").astype(np.float64)


def _split(
    numbers: Floats, *, first: int, widths: tuple[int, ...], count: int, rows: int
) -> tuple[Floats, list[Floats], Floats]:
    """
    Return the first numbers; tables of `count` rows, each so wide; and two blocks of `rows` rows.

    The blocks are as wide as what is left.
    """
    tables, end = [], first
    for width in widths:
        begin, end = end, end + width * count
        tables.append(numbers[begin:end].reshape(count, width))
    return numbers[:first], tables, numbers[end:].reshape(2, rows, -1)


def _usual_numbers(several: list[Usual]) -> Iterable[float]:
    return chain.from_iterable(
        (each.leases, each.waited_s, each.tokens, each.efficiency) for each in several
    )


def _whole(numbers: Floats) -> list[int]:
    return [int(each) for each in numbers[:, 0].tolist()]
