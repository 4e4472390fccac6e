"""Courses of pools: taught here or in processes of their own, they come to the same."""

import random

import pytest

from balancing import keeping
from balancing.apart import Rooms
from balancing.belief import Model
from balancing.course import Course

POOLS = ("code", "qa", "data")


def rows(count):
    chance = random.Random(5)
    for n in range(count):
        ok = chance.random() < 0.7
        seconds = chance.uniform(1, 600)
        kind, agent = f"kind-{n % 3}", f"agent-{chance.randrange(4)}"
        lesson = (agent, kind, n * 60.0, seconds / 100, float(ok), 1, 0.0, 1.0, 9.0, 0.4)
        yield (POOLS[n % 3], *lesson, ok, seconds, False)


def taught(processes):
    with Rooms(processes) as rooms:
        for start in range(0, 300, 100):
            piece = list(rows(300))[start : start + 100]
            for pool in POOLS:
                if not rooms.has(pool):
                    rooms.open(Course(pool, 4, Model()))
                of_pool = [row for row in piece if row[0] == pool]
                rooms.teach(pool, of_pool, is_old=start == 0)
        return {each.agent_type: each for each in rooms.courses()}


def test_processes_of_their_own_teach_what_this_one_would():
    here, apart = taught(0), taught(2)

    assert here.keys() == apart.keys() == set(POOLS)
    for pool in POOLS:
        assert keeping.model_bytes(apart[pool].model) == keeping.model_bytes(here[pool].model)
        assert apart[pool].tallies == here[pool].tallies
        assert apart[pool].touched == here[pool].touched
        for name, skill in here[pool].model.skills.items():
            assert keeping.skill_bytes(apart[pool].model.skills[name]) == keeping.skill_bytes(skill)


def test_a_process_that_dies_is_an_error_and_no_loss():
    with Rooms(1) as rooms:
        rooms.open(Course("code", 4, Model()))
        rooms.teach("code", [("code", "not a lesson")], is_old=True)

        with pytest.raises((EOFError, OSError)):
            rooms.courses()
