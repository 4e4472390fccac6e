"""Calls that arrive together are one batch; each is told its own answer, whatever befalls it."""

import asyncio
import threading

import pytest

from agentpool.gateway.gatherer import PerLoop
from agentpool.registry.errors import RateLimited

WAIT_S = 10


class Work:
    """What a gatherer does: doubles numbers, once it may; notes each batch."""

    def __init__(self):
        self.batches = []
        self.may = threading.Event()
        self.may.set()

    def __call__(self, numbers):
        assert self.may.wait(WAIT_S)
        self.batches.append(list(numbers))
        return [2 * n if n >= 0 else RateLimited(f"{n} is too little") for n in numbers]


@pytest.fixture
def work():
    return Work()


@pytest.fixture
def doubled(work):
    return PerLoop(work, name="doubled", most=8)


def play(script):
    asyncio.run(asyncio.wait_for(script(), WAIT_S))


def test_who_calls_in_one_round_is_answered_by_one_batch_in_its_order(work, doubled):
    async def script():
        assert await asyncio.gather(*map(doubled.call, range(5))) == [0, 2, 4, 6, 8]
        assert await doubled.call(7) == 14

    play(script)
    assert work.batches == [[0, 1, 2, 3, 4], [7]]


def test_a_batch_has_no_more_than_it_may(work, doubled):
    async def script():
        assert await asyncio.gather(*map(doubled.call, range(20))) == [2 * n for n in range(20)]

    play(script)
    assert list(map(len, work.batches)) == [8, 8, 4]


def test_those_who_come_while_one_is_served_are_served_together(work, doubled):
    async def script():
        work.may.clear()
        first = asyncio.create_task(doubled.call(1))
        await asyncio.sleep(0.05)
        others = [asyncio.create_task(doubled.call(n)) for n in (2, 3)]
        await asyncio.sleep(0.05)
        work.may.set()
        assert await asyncio.gather(first, *others) == [2, 4, 6]

    play(script)
    assert work.batches == [[1], [2, 3]]


def test_a_crowd_that_was_answered_is_waited_for(work, doubled, monkeypatch):
    monkeypatch.setattr("agentpool.gateway.gatherer._WAIT_FOR_CROWD_S", WAIT_S)
    monkeypatch.setattr("agentpool.gateway.gatherer._WAIT_SHARE", 1e9)

    async def caller(number):
        await doubled.call(number)
        await asyncio.sleep(0.01 * number)
        await doubled.call(number)

    async def script():
        await asyncio.gather(*map(caller, range(5)))

    play(script)
    assert work.batches == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4]]


@pytest.fixture
def patient(monkeypatch):
    monkeypatch.setattr("agentpool.gateway.gatherer._WAIT_FOR_CROWD_S", 0.5)
    monkeypatch.setattr("agentpool.gateway.gatherer._WAIT_SHARE", 1e9)


@pytest.fixture
def even_first(work):
    return PerLoop(work, name="even first", most=8, is_first=lambda number: number % 2 == 0)


def test_a_crowd_that_asks_for_both_by_turns_comes_to_ask_for_the_same(patient, work, even_first):
    async def caller(number):
        for step in range(6):
            await even_first.call(number + step)

    async def script():
        await asyncio.gather(*map(caller, range(8)))

    play(script)
    kinds = [{number % 2 for number in batch} for batch in work.batches]
    assert kinds[0] == {0, 1}
    assert all(len(kind) == 1 for kind in kinds[1:])
    assert list(map(len, work.batches[1:6])) == [4, 8, 8, 8, 8]


def test_those_who_are_not_first_are_passed_over_once(patient, work, even_first):
    async def caller(number):
        for _ in range(6):
            await even_first.call(number)

    async def script():
        await asyncio.gather(*map(caller, range(8)))

    play(script)
    assert list(map(len, work.batches[:5])) == [8, 4, 8, 4, 8]


def test_a_crowd_is_not_waited_for_long(work, doubled):
    async def script():
        await asyncio.gather(*map(doubled.call, range(5)))
        assert await doubled.call(6) == 12

    play(script)
    assert work.batches == [[0, 1, 2, 3, 4], [6]]


def test_a_bad_call_fails_alone(doubled):
    async def script():
        got = await asyncio.gather(*map(doubled.call, (1, -1, 2)), return_exceptions=True)
        assert (got[0], got[2]) == (2, 4)
        assert isinstance(got[1], RateLimited)
        assert got[1].detail == "-1 is too little"

    play(script)


@pytest.mark.parametrize("work", [lambda numbers: numbers[0] / 0, lambda numbers: []])
def test_what_befalls_a_batch_is_an_error_of_each_and_of_the_next_nothing(work):
    calls = []

    def sometimes(numbers):
        calls.append(numbers)
        return work(numbers) if len(calls) == 1 else [7] * len(numbers)

    unlucky = PerLoop(sometimes, name="unlucky", most=8)

    async def script():
        got = await asyncio.gather(*map(unlucky.call, range(3)), return_exceptions=True)
        assert all(isinstance(error, ZeroDivisionError | ValueError) for error in got)
        assert len({id(error) for error in got}) == 3
        assert await unlucky.call(1) == 7

    play(script)


def test_who_hung_up_or_fails_at_its_answer_holds_up_nobody(work, doubled, caplog):
    async def script():
        work.may.clear()
        gone = asyncio.create_task(doubled.call(1))
        doubled.ask(2, lambda answer: [][answer])
        stays = asyncio.create_task(doubled.call(3))
        await asyncio.sleep(0.05)
        gone.cancel()
        work.may.set()
        assert await stays == 6
        assert await doubled.call(4) == 8

    play(script)
    assert "could not tell an answer" in caplog.text
