"""Learning as the job does it, in tests with a pulse and in those without one."""

import time

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from balancing import jobs

_ELECT = "SELECT pg_try_advisory_lock(hashtextextended('agentpool pulse', 0))"
NUMBERED_WITHIN_S = 10


def learn():
    """Learn from what has ended, after the relay has numbered what happened."""
    number()
    return jobs.learn()["learnt"]


def number():
    """Let the relay number what happened."""
    with connect() as own:
        if own.execute(_ELECT).fetchone()[0]:
            relay = Relay(own)
            while relay.step():
                pass
        else:
            _wait_for_the_pulse(own)


def _wait_for_the_pulse(own):
    deadline = time.monotonic() + NUMBERED_WITHIN_S
    while own.execute("SELECT FROM event_unnumbered LIMIT 1").fetchone():
        assert time.monotonic() < deadline, "the pulse does not number what happens"
        time.sleep(0.01)
