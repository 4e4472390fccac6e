"""Streams over one channel: all arrives, in order, and a far end that lies is cut off."""

import contextlib
import os
import random
import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentpool.agent.isolation.streams import WINDOW, Broken, Closed, Exchange

pytestmark = pytest.mark.timeout(60)


@contextlib.contextmanager
def ends() -> Iterator[tuple[Exchange, Exchange, list[bytes], list[socket.socket]]]:
    one, other = socket.socketpair()
    told: list[bytes] = []
    far: list[socket.socket] = []

    def connect(port: int) -> socket.socket | None:
        if port != 7:
            return None
        near, theirs = socket.socketpair()
        far.append(theirs)
        return near

    for each in (one, other):
        each.setblocking(False)
    with one, other:
        here = Exchange(one.fileno(), told=told.append, connect=connect, most_message=100)
        there = Exchange(other.fileno(), told=told.append, connect=connect, most_message=100)
        yield here, there, told, far
        for exchange in (here, there):
            exchange.close()
        for each in far:
            each.close()


def turn(*exchanges: Exchange) -> None:
    for each in exchanges:
        each.turn(0)


@settings(max_examples=15, deadline=None)
@given(size=st.integers(0, 3 * WINDOW), step=st.integers(1, 90_000))
def test_a_stream_arrives_whole_however_slowly_it_is_read(size: int, step: int) -> None:
    sent = random.Random(size).randbytes(size)
    (source, into), (out, sink) = os.pipe(), os.pipe()
    for each in (source, sink, out):
        os.set_blocking(each, False)

    def feed() -> None:
        with os.fdopen(into, "wb") as file:
            file.write(sent)

    feeder = threading.Thread(target=feed)
    with ends() as (here, there, _, _):
        here.carry(1, source=source)
        there.carry(1, sink=sink)
        feeder.start()
        got = bytearray()
        while not (there.has_ended(1) and len(got) == size):
            turn(here, there)
            with contextlib.suppress(BlockingIOError):
                got += os.read(out, step)
        assert here.has_ended(1)
    feeder.join()
    os.close(out)
    assert bytes(got) == sent


def test_a_reader_that_does_not_read_holds_up_its_own_stream_alone() -> None:
    (source, into), (out, sink) = os.pipe(), os.pipe()
    for each in (source, sink, into):
        os.set_blocking(each, False)
    with ends() as (here, there, told, _):
        here.carry(1, source=source)
        there.carry(1, sink=sink)
        written = 0
        for _ in range(400):
            with contextlib.suppress(BlockingIOError):
                written += os.write(into, bytes(65536))
            turn(here, there)
        here.say(b"still here")
        turn(here, there)
        assert told == [b"still here"]
        # What is held: the window, and what the two pipes take.
        assert WINDOW <= written <= WINDOW + 4 * 65536
    for each in (out, into):
        os.close(each)


def test_a_connection_goes_both_ways_and_ends_one_way_at_a_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, ends() as (here, there, _, far):
        door.setblocking(False)
        here.open_door(door, 7)
        with socket.create_connection(door.getsockname()) as near:
            near.sendall(b"question")
            near.shutdown(socket.SHUT_WR)
            while not far:
                turn(here, there)
            for _ in range(5):
                turn(here, there)
            assert far[0].recv(99) == b"question"
            assert far[0].recv(99) == b""
            far[0].sendall(b"answer")
            far[0].close()
            for _ in range(5):
                turn(here, there)
            near.settimeout(5)
            assert near.recv(99) == b"answer"
            assert near.recv(99) == b""


def test_a_door_that_leads_nowhere_closes_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as door, ends() as (here, there, _, _):
        door.setblocking(False)
        here.open_door(door, 8)
        with socket.create_connection(door.getsockname()) as near:
            for _ in range(5):
                turn(here, there)
            near.settimeout(5)
            assert near.recv(9) == b""


def tell(liar: socket.socket, here: Exchange, frames: list[tuple[int, int, bytes]]) -> None:
    for kind, number, data in frames:
        head = bytes([kind]) + number.to_bytes(4, "little")
        liar.sendall(head + len(data).to_bytes(4, "little") + data)
        here.turn(0)


@pytest.mark.parametrize(
    "frames",
    [
        [(0, 0, bytes(101))],
        [(2, 1, bytes(32 * 1024))] * (WINDOW // (32 * 1024) + 3),
        [(2, 1, bytes(33 * 1024))],
        [(9, 1, b"")],
        [(1, 20 + n, (7).to_bytes(4, "little")) for n in range(200)],
    ],
    ids=["a long message", "more than the window", "a long frame", "no such kind", "connections"],
)
def test_a_far_end_that_breaks_the_rules_is_cut_off(
    frames: list[tuple[int, int, bytes]],
) -> None:
    out, sink = os.pipe()
    os.set_blocking(sink, False)
    one, liar = socket.socketpair()
    far: list[socket.socket] = []

    def connect(port: int) -> socket.socket:
        near, theirs = socket.socketpair()
        far.append(theirs)
        return near

    one.setblocking(False)
    with one, liar:
        here = Exchange(one.fileno(), told=lambda _: None, connect=connect, most_message=100)
        here.carry(1, sink=sink)
        with pytest.raises(Broken):
            tell(liar, here, frames)
        here.close()
    for each in far:
        each.close()
    os.close(out)


def test_a_far_end_that_asks_and_does_not_read_the_answers_is_cut_off() -> None:
    one, liar = socket.socketpair()
    one.setblocking(False)
    asked = b"".join(
        bytes([1]) + number.to_bytes(4, "little") + (4).to_bytes(4, "little") + bytes(4)
        for number in range(20, 2020)
    )
    here = Exchange(one.fileno(), told=print, connect=lambda _: None, most_message=9)

    def ask_on() -> None:
        for _ in range(1000):
            liar.sendall(asked)
            here.turn(0)

    with one, liar, pytest.raises(Broken):
        ask_on()


def test_the_end_of_the_channel_is_told() -> None:
    with ends() as (here, _, _, _):
        pass
    one, other = socket.socketpair()
    one.setblocking(False)
    here = Exchange(one.fileno(), told=print, connect=lambda _: None, most_message=9)
    other.close()
    with one, pytest.raises(Closed):
        here.turn(1)
