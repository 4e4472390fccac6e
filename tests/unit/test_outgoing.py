"""The way out over granian: no task for a lone message, and still in order and bounded."""

import asyncio

import pytest

from agentpool.live.outgoing import FULL_BYTES, GranianOutlet


class Server:
    """Like granian: what `send` returns is under way already, and a future; or it is closed."""

    def __init__(self):
        self.sent = []
        self.under_way = []
        self.is_closed = False

    def send(self, message):
        if self.is_closed:
            return self._refuse()
        self.sent.append(message.get("text", message.get("code")))
        self.under_way.append(asyncio.get_running_loop().create_future())
        return self.under_way[-1]

    async def _refuse(self):
        raise RuntimeError("Transport closed")

    async def take(self, error=None):
        """Let the server have sent what it was given first, or not."""
        future = self.under_way.pop(0)
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
        await settle()


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


@pytest.fixture
def served():
    """Return what runs a coroutine function with a server and an outlet to it."""

    def run(play):
        async def within():
            server = Server()
            await play(server, GranianOutlet(server.send))

        asyncio.run(within())

    return run


def test_a_message_that_has_none_before_it_needs_no_task(served):
    async def play(server, out):
        for text in ("a", "b"):
            out.write(text)
            assert server.sent[-1] == text
            assert len(asyncio.all_tasks()) == 1
            await server.take()

    served(play)


def test_messages_go_one_after_the_other_in_their_order(served):
    async def play(server, out):
        for text in ("a", "b", "c"):
            out.write(text)
        await settle()
        assert server.sent == ["a"]
        await server.take()
        assert server.sent == ["a", "b"]
        await server.take()
        out.write("d")
        await server.take()
        await server.take()
        assert server.sent == ["a", "b", "c", "d"]
        out.write("e")  # nothing is before it again
        assert server.sent[-1] == "e"

    served(play)


@pytest.mark.parametrize("error", [RuntimeError("closed"), OSError("broken")])
def test_after_a_send_that_failed_nothing_is_sent(served, error):
    async def play(server, out):
        out.write("a")
        await server.take(error)
        out.write("b")
        await settle()
        assert not out.is_open
        out.write("c")
        assert server.sent == ["a"]

    served(play)


def test_a_closed_connection_ends_what_is_written_to_it(served):
    async def play(server, out):
        server.is_closed = True
        out.write("a")
        await settle()
        assert not out.is_open
        await out.flushed()

    served(play)


@pytest.mark.parametrize("more", [[], ["b"]])
def test_who_does_not_read_holds_up_no_close(served, more):
    async def play(server, out):
        for text in ("a", *more):
            out.write(text)
        await settle()
        closing = asyncio.create_task(out.close(4408))
        await settle()
        assert server.under_way[0].cancelled()
        assert server.sent == ["a", 4408]
        server.under_way[1].set_result(None)
        await closing
        out.write("c")
        await out.flushed()
        out.end()
        assert server.sent == ["a", 4408]

    served(play)


def test_a_close_waits_for_what_is_under_way(served):
    async def play(server, out):
        out.write("a")
        flushed = asyncio.create_task(out.flushed())
        await settle()
        assert not flushed.done()
        await server.take()
        assert flushed.done()

    served(play)


@pytest.mark.parametrize(
    "sizes", [[FULL_BYTES + 1], [1, FULL_BYTES + 1], [10] + [FULL_BYTES // 4] * 5]
)
def test_what_waits_for_a_reader_is_counted(served, sizes):
    async def play(server, out):
        for size in sizes:
            out.write("x" * size)
        await settle()
        assert out.full
        assert not await out.drained(0.01)
        while server.under_way:
            await server.take()
        assert not out.full
        assert await out.drained(0.01)
        assert [len(text) for text in server.sent] == sizes

    served(play)
