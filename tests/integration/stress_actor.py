"""
One process of a stress test: has connections of its own, and obeys commands on its stdin.

Run as `python stress_actor.py` with DATABASE_URL; a command is a line of JSON, its answer, too.
"""

import functools
import json
import random
import sys
import time

import django
from django.db import transaction

django.setup()

from agentpool.registry.errors import LeaseLost, UnsupportedTransition  # noqa: E402
from agentpool.registry.models import Agent, Request  # noqa: E402
from agentpool.registry.states import Outcome  # noqa: E402
from balancing import queries  # noqa: E402
from balancing.services import heartbeats, leases, requests  # noqa: E402


def main() -> None:
    """Answer each command with its result; an error ends the process with its traceback."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        print(json.dumps(COMMANDS[name](*arguments)), flush=True)


def play(moves: list) -> int:
    """Make the moves of one round, one after the other."""
    for name, *arguments in moves:
        MOVES[name](*arguments)
    return len(moves)


def work(project: str, cycles: int, open_at_most: int) -> int:
    """
    Get and give back so many leases, wanting several at a time; return how many there were.

    Some are granted at once; others wait and are handed over by whoever gives one back.
    """
    chance = random.Random(project)
    wanted: list = []
    started = ended = 0
    while ended < cycles:
        if started < cycles and len(wanted) < open_at_most:
            wish = _wish(project, memory_mb=chance.choice([256, 512, 1024]))
            requests.submit(wish)
            wanted.append(wish.id)
            started += 1
            continue
        held = Request.objects.filter(id__in=wanted, status="granted").values_list("id", flat=True)
        for request_id in held:
            _give_back(request_id)
            wanted.remove(request_id)
            ended += 1
        if not held:
            time.sleep(0.002)
    return ended


def ask(memory_mb: int, pause_s: float) -> None:
    """Ask for an agent; the pause keeps the transaction open, so that others act meanwhile."""
    with transaction.atomic():
        requests.submit(_wish("stress", memory_mb=memory_mb))
        time.sleep(pause_s)


def beat(agent_id: str, held: list) -> None:
    agent = _agent(agent_id)
    reports = [{"lease_id": lease_id, "fencing_token": token} for lease_id, token in held]
    heartbeats.heartbeat(
        agent, beat=heartbeats.Heartbeat(incarnation=agent.incarnation, leases=reports)
    )


def release(lease_id: str, token: int, pause_s: float = 0) -> None:
    """Give a lease back; the pause as above."""
    with transaction.atomic():
        leases.release(lease_id, token=token, outcome=Outcome.SUCCESS, actor="stress")
        time.sleep(pause_s)


def cancel(request_id: str) -> None:
    try:
        requests.cancel_request(request_id, actor="stress")
    except UnsupportedTransition:
        return  # granted and given back meanwhile


@functools.cache
def _agent(agent_id: str) -> Agent:
    return Agent.objects.get(agent_id=agent_id)


def _wish(project: str, *, memory_mb: int) -> Request:
    return Request(
        pool_id="code",
        project=project,
        memory_mb=memory_mb,
        min_memory_mb=memory_mb,
        cpu_cores=0.5,
        min_cpu_cores=0.5,
        token_budget=1000,
        disk_space_mb=10,
        affinity="none",
        requested_by="stress",
    )


def _give_back(request_id: object) -> None:
    lease = queries.live_lease_of(request_id)
    assert lease is not None
    try:
        release(lease.id, lease.fencing_token)
    except LeaseLost as error:
        raise AssertionError(f"a lease of mine was ended by somebody else: {error}") from error


COMMANDS = {"play": play, "work": work, "ping": lambda: "here"}
MOVES = {"ask": ask, "beat": beat, "release": release, "cancel": cancel}

if __name__ == "__main__":
    main()
