"""A lease held while a block of code runs: renewed in the background, released at its end."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

from agentpool.client import calls, errors
from agentpool.client.faces import Sends, SendsAsync
from agentpool.client.models import Lease

# When the answer does not tell how long the lease holds: the server's default run lease.
_DEFAULT_TERM_S = 120.0
# A renewal is also a sign of life, so it is sent at least this often however long the term.
_LONGEST_PAUSE_S = 40.0


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

    def _pause_s(self) -> float:
        return min(self._term_s / 3, _LONGEST_PAUSE_S)

    def _failed(self, error: errors.ApiError) -> bool:
        """Note a renewal that failed; True when there is no use in trying again."""
        is_refused = isinstance(error, errors.LeaseLost | errors.NotFound | errors.Forbidden)
        if is_refused or time.monotonic() >= self._ends_at:
            self._lost.set()
        return self.lost

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
        self._took(lease, sent_at=time.monotonic())
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
        if self.lost:
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
        while not self._done.wait(self._pause_s()):
            sent_at = time.monotonic()
            try:
                call = calls.renew(self.id, fencing_token=self.fencing_token)
                self._took(self._client.send(call), sent_at=sent_at)
            except errors.ApiError as error:
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
        self._took(lease, sent_at=time.monotonic())
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
        if self.lost:
            if error is None:
                self.check()
            return
        try:
            await self._client.send(self._ending(error))
        except errors.ApiError:
            if error is None:
                raise

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._pause_s())
            sent_at = time.monotonic()
            try:
                call = calls.renew(self.id, fencing_token=self.fencing_token)
                self._took(await self._client.send(call), sent_at=sent_at)
            except errors.ApiError as error:
                if self._failed(error):
                    return


def _first_term(lease: Lease) -> float | None:
    """Return how long a lease just granted holds, by the server's clock alone."""
    if lease.expires_at is None or lease.acquired_at is None:
        return None
    return (lease.expires_at - lease.acquired_at).total_seconds()
