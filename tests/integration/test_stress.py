"""Many processes at the claim at once: never over capacity, and nobody waits beside a free slot."""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest
from django.db import connection

from agentpool.host.installation import code_folder
from agentpool.registry import queries as registry_queries
from agentpool.registry.models import Agent, Lease, LeaseOutcome

pytestmark = [pytest.mark.slow, pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]

ACTOR = Path(__file__).with_name("stress_actor.py")
ROUNDS = 2_000
ROUND_ACTORS = 4
# Of waiting and granted together: around the number of slots, where grants and arrivals cross.
FEWEST_OPEN, MOST_OPEN = 2, 7
MEMORY_MB = (512, 1024)
# A transaction that stays open for a moment makes the moves of a round cross each other.
PAUSES_S = (0, 0.002, 0.005, 0.01)


class Actor:
    """A process of its own that does what it is told."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(ACTOR)],
            env=os.environ
            | {"DATABASE_URL": url_of_the_test_database(), "PYTHONPATH": str(code_folder())},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def tell(self, *command: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(command, default=str) + "\n")
        self.process.stdin.flush()

    def answer(self) -> object:
        assert self.process.stdout
        line = self.process.stdout.readline()
        assert line, "an actor died; its traceback is in the captured output"
        return json.loads(line)


@pytest.fixture
def start_actors(pools: object) -> Iterator[Callable[[int], list[Actor]]]:
    """Start so many processes and return them when they are ready; all end with the test."""
    started: list[Actor] = []

    def start(count: int) -> list[Actor]:
        started.extend(Actor() for _ in range(count))
        for actor in started:
            actor.tell("ping")
        assert [actor.answer() for actor in started] == ["here"] * count
        return started

    yield start
    for actor in started:
        actor.process.kill()
        with actor.process:  # closes its pipes and waits
            continue


@pytest.mark.long
def test_fifty_slots_never_hold_more_than_fifty_leases(start_actors, make_agent, whole):
    for _ in range(10):
        make_agent(max_concurrent=5)
    actors = start_actors(8)

    for number, actor in enumerate(actors):
        actor.tell("work", f"p{number}", 200, 10)
    samples = watch(actors)

    assert [actor.answer() for actor in actors] == [200] * 8
    assert max(held for held, _ in samples) > 40, "the pool was never full: this proves nothing"
    assert LeaseOutcome.objects.count() == 1600
    assert not Lease.objects.filter(status="active").exists()
    assert set(Agent.objects.values_list("load", "status")) == {(0, "idle")}
    print(f"{len(samples)} samples, {max(w for _, w in samples)} waited at most")


@pytest.mark.long
def test_nobody_waits_beside_a_free_slot_once_a_round_is_over(start_actors, make_agent, whole):
    agents = [
        make_agent(max_concurrent=2, memory_mb=1536).agent_id,  # one large, or two small, or mixed
        make_agent(max_concurrent=1, memory_mb=1024).agent_id,
    ]
    actors, chance, began = start_actors(ROUND_ACTORS), random.Random(7), time.monotonic()
    seen, peak = look(), 0

    for number in range(ROUNDS):
        for actor, moves in zip(actors, plan(chance, agents, seen), strict=True):
            actor.tell("play", moves)
        assert all(actor.answer() for actor in actors)
        seen = look()
        assert not seen.forgotten, f"round {number}: free slots fit the waiting {seen.forgotten}"
        peak = max(peak, len(seen.waiting))

    assert peak > len(agents), "hardly anybody ever waited: this proves nothing"
    print(f"{ROUNDS} rounds in {time.monotonic() - began:.0f} s, {peak} waited at most")


@dataclass(frozen=True)
class Seen:
    """The pool at rest: shapes that wait beside a free slot, live leases, waiting requests."""

    forgotten: list[int] | None
    live: list[tuple[str, int, str]]
    waiting: list[str]


def look() -> Seen:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT (SELECT array_agg(s.shape) FROM serveable_shapes_1(ARRAY['code']) s),"
            " (SELECT coalesce(jsonb_agg(jsonb_build_array("
            "   l.id, l.fencing_token, a.agent_id)), '[]') FROM lease l JOIN agent a"
            "   ON a.id = l.agent_id WHERE l.status = 'active'),"
            " (SELECT coalesce(jsonb_agg(id), '[]') FROM request WHERE status = 'waiting')"
        )
        forgotten, live, waiting = cursor.fetchone()
    return Seen(forgotten, json.loads(live), json.loads(waiting))


def plan(chance: random.Random, agents: list[str], seen: Seen) -> list[list[tuple]]:
    """Return the moves of each actor: one asks, releases or gives up; half of them beat, too."""
    live, waiting = list(seen.live), list(seen.waiting)
    chance.shuffle(live)
    plans: list[list[tuple]] = []
    asked = 0
    for number in range(ROUND_ACTORS):
        open_ = len(live) + len(waiting) + asked
        is_full = open_ >= MOST_OPEN
        pause_s = chance.choice(PAUSES_S)
        if live and (is_full or (open_ > FEWEST_OPEN and chance.random() < 0.5)):
            moves: list[tuple] = [("release", *live.pop()[:2], pause_s)]
        elif waiting and (is_full or chance.random() < 0.1):
            moves = [("cancel", waiting.pop())]
        else:
            moves = [("ask", chance.choice(MEMORY_MB), pause_s)]
            asked += 1
        if number % 2:
            # Also leases that are released in this very round: their renewal must change nothing.
            agent = chance.choice(agents)
            moves.append(("beat", agent, [one[:2] for one in seen.live if one[2] == agent]))
        plans.append(chance.sample(moves, len(moves)))
    return plans


def watch(actors: list[Actor]) -> list[tuple[int, int]]:
    """Look again and again while actors work; each look is one snapshot, so it must be whole."""
    samples = []
    while not samples or samples[-1] != (0, 0) or LeaseOutcome.objects.count() < 1600:
        assert all(actor.process.poll() is None for actor in actors)
        assert registry_queries.broken_invariants() == {}
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT (SELECT count(*) FROM lease WHERE status IN ('active', 'offered')),"
                " (SELECT count(*) FROM request WHERE status = 'waiting'),"
                " (SELECT max(load - max_concurrent) FROM agent), (SELECT sum(load) FROM agent)"
            )
            held, waiting, over, load = cursor.fetchone()
        assert held <= 50
        assert (held, over <= 0) == (load, True)
        samples.append((held, waiting))
        time.sleep(0.01)
    return samples


def url_of_the_test_database() -> str:
    one = connection.settings_dict
    account = f"{quote(one['USER'])}:{quote(one['PASSWORD'])}"
    return f"postgresql://{account}@{one['HOST']}:{one['PORT']}/{one['NAME']}"
