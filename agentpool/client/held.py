"""A lease held while a block of code runs: renewed in the background, released at its end."""

import asyncio
import contextlib
import math
import threading
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from agentpool.client import calls, clock, errors, exchange
from agentpool.client.faces import Sends, SendsAsync
from agentpool.client.models import Lease

# When the answer does not tell how long the lease holds: the server's default run lease.
_DEFAULT_TERM_S = 120.0
# A renewal is also a sign of life, so it is sent at least this often however long the term.
_LONGEST_PAUSE_S = 40.0
# Between one that failed and the next.
_AGAIN_S = 1.0


class _Hold:
    """What both faces share: the lease, its end by our own clock, and whether it is lost."""

    def __init__(self) -> None:
        self._lease: Lease | None = None
        self._lost = threading.Event()
        self._ends_at = 0.0
        self._term_s = _DEFAULT_TERM_S

    @property
    def value(self) -> Lease:
        """The lease as last answered. Raises: RuntimeError outside the block."""
        if self._lease is None:
            raise RuntimeError("the lease is held only inside its `with` block")
        return self._lease

    @property
    def id(self) -> str:
        """Its id."""
        return self.value.id

    @property
    def fencing_token(self) -> int:
        """Its fencing token, to be handed to whatever the work writes to."""
        return self.value.fencing_token

    @property
    def lost(self) -> bool:
        """Whether the lease was taken away, or can no longer be trusted to hold."""
        # By the clock, too: a renewal may be under way for longer than the lease holds.
        if self._lease is not None and clock.now() >= self._ends_at:
            self._lost.set()
        return self._lost.is_set()

    def check(self) -> None:
        """Do nothing while the lease holds. Raises: LeaseLost."""
        if self.lost:
            raise errors.LeaseLost(f"lease {self.id} was lost; stop the work", status=409)

    def _took(self, lease: Lease, *, sent_at: float) -> None:
        is_new, self._lease = self._lease is None, lease
        self._term_s = lease.expires_in_s or (is_new and _first_term(lease)) or self._term_s
        # Counted from sending: the server's own count began later, so ours ends first.
        self._ends_at = sent_at + self._term_s

    def _pause_s(self, error: errors.ApiError | None = None) -> float:
        """Return how long to wait until the next renewal; error: why the last one failed."""
        pause_s = min(self._term_s / 3, _LONGEST_PAUSE_S)
        return pause_s if error is None else min(pause_s, _AGAIN_S)

    def _failed(self, error: errors.ApiError) -> bool:
        """Note a renewal that failed; True when there is no use in trying again."""
        if isinstance(error, errors.LeaseLost | errors.NotFound | errors.Forbidden):
            self._lost.set()
        return self.lost

    def _renewal(self) -> exchange.Conversation[Lease]:
        """Renew once: whoever repeats it must see in between whether the block is over."""
        return exchange.exchange(
            calls.renew(self.id, fencing_token=self.fencing_token), patience_s=0
        )

    def _is_lost_at_the_end(self) -> bool:
        """Return whether it was lost when the block ended; what comes later does not count."""
        is_lost, self._ends_at = self.lost, math.inf
        return is_lost

    def _ending(self, error: BaseException | None) -> calls.Call[Lease]:
        return calls.release(
            self.id,
            fencing_token=self.fencing_token,
            outcome="success" if error is None else "failure",
            error=None if error is None else f"{type(error).__name__}: {error}"[:2000],
        )


class HeldLease(_Hold):
    """The context manager of `Client.lease`."""

    def __init__(self, client: Sends, acquire: Callable[[], Lease]) -> None:
        super().__init__()
        self._client = client
        self._acquire = acquire
        self._done = threading.Event()
        self._renewer = threading.Thread(target=self._renew, name="lease-renewal", daemon=True)

    def __enter__(self) -> Self:
        lease = self._acquire()
        self._took(lease, sent_at=clock.now())
        self._renewer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._done.set()
        self._renewer.join(timeout=1.0)
        if self._is_lost_at_the_end():
            if error is None:
                self.check()
            return
        try:
            self._client.send(self._ending(error))
        except errors.ApiError:
            # The error of the block says more; the lease ends by itself.
            if error is None:
                raise

    def _renew(self) -> None:
        pause_s = self._pause_s()
        while not self._done.wait(pause_s):
            sent_at = clock.now()
            try:
                self._took(self._client.converse(self._renewal()), sent_at=sent_at)
                pause_s = self._pause_s()
            except errors.ApiError as error:
                pause_s = self._pause_s(error)
                if self._failed(error):
                    return


class AsyncHeldLease(_Hold):
    """The asynchronous context manager of `AsyncClient.lease`."""

    def __init__(self, client: SendsAsync, acquire: Callable[[], Awaitable[Lease]]) -> None:
        super().__init__()
        self._client = client
        self._acquire = acquire
        self._renewer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        lease = await self._acquire()
        self._took(lease, sent_at=clock.now())
        self._renewer = asyncio.create_task(self._renew())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._renewer is not None:
            self._renewer.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewer
        if self._is_lost_at_the_end():
            if error is None:
                self.check()
            return
        try:
            await self._client.send(self._ending(error))
        except errors.ApiError:
            if error is None:
                raise

    async def _renew(self) -> None:
        pause_s = self._pause_s()
        while True:
            await asyncio.sleep(pause_s)
            sent_at = clock.now()
            try:
                self._took(await self._client.converse(self._renewal()), sent_at=sent_at)
                pause_s = self._pause_s()
            except errors.ApiError as error:
                pause_s = self._pause_s(error)
                if self._failed(error):
                    return


def _first_term(lease: Lease) -> float | None:
    """Return how long a lease just granted holds, by the server's clock alone."""
    if lease.expires_at is None or lease.acquired_at is None:
        return None
    return (lease.expires_at - lease.acquired_at).total_seconds()
