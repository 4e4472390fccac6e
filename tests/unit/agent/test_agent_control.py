"""When the work under a lease must stop, by this machine's clock."""

import time

from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool.agent.control import GRACE_S, Control, Reason
from agentpool.client import clock


def test_work_may_go_on_while_nothing_is_known() -> None:
    control = Control()

    assert control.reason() is None
    assert control.grace_s(Reason.CANCELLED) == GRACE_S


def test_a_lease_that_was_not_renewed_stops_before_its_end() -> None:
    control = Control()

    control.renewed(sent_at=clock.now() - 91, expires_in_s=120)
    assert control.reason() is None
    late = Control()
    late.renewed(sent_at=clock.now() - 109, expires_in_s=120)

    assert late.reason() is Reason.UNRENEWED


@settings(deadline=None)
@given(expires_in_s=st.floats(5, 20_000), age_s=st.floats(0, 30_000))
def test_stop_and_grace_are_over_before_the_server_ends_the_lease(
    expires_in_s: float, age_s: float
) -> None:
    control = Control()
    sent_at = clock.now() - age_s
    control.renewed(sent_at=sent_at, expires_in_s=expires_in_s)

    if control.reason() is None:
        assert clock.now() < sent_at + expires_in_s
    killed_at = clock.now() + control.grace_s(Reason.UNRENEWED)

    assert killed_at <= max(clock.now(), sent_at + expires_in_s)


def test_an_answer_that_was_overtaken_does_not_shorten_the_lease() -> None:
    control = Control()
    now = clock.now()

    control.renewed(sent_at=now, expires_in_s=120)
    control.renewed(sent_at=now - 115, expires_in_s=120)

    assert control.reason() is None


def test_the_hard_end_is_a_timeout_though_the_lease_ends_with_it() -> None:
    control = Control()
    now = clock.now()

    control.ends(at=now + 0.3)
    control.renewed(sent_at=now, expires_in_s=0.3)
    assert control.reason() is None
    time.sleep(0.3)

    assert control.reason() is Reason.TIMEOUT


def test_the_hard_end_leaves_the_work_nearly_all_its_time() -> None:
    control = Control()
    now = clock.now()

    control.ends(at=now + 10)
    control.renewed(sent_at=now, expires_in_s=10)

    assert control.reason() is None
    assert control.grace_s(Reason.TIMEOUT) > 8.5


def test_lost_wins_over_an_earlier_reason_and_leaves_no_time() -> None:
    control = Control()

    control.stop(Reason.CANCELLED, "not wanted")
    control.stop(Reason.LOST)
    control.stop(Reason.LEAVING)

    assert control.reason() is Reason.LOST
    assert control.grace_s(Reason.LOST) == 0


def test_the_first_reason_stays() -> None:
    control = Control()

    control.stop(Reason.CANCELLED, "not wanted")
    control.stop(Reason.LEAVING)

    assert control.reason() is Reason.CANCELLED
    assert control.note == "not wanted"
