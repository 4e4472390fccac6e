"""What one lease says to the control plane: that it is taken or handed back, and how it ended."""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agentpool.agent import journal
from agentpool.agent.bench import Bench
from agentpool.agent.control import Control
from agentpool.agent.ending import Ending
from agentpool.client import clock, errors, models

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_AWAY = (errors.Unreachable, errors.Unavailable, errors.RateLimited)


class LeaseLink:
    """The way from one lease to the control plane."""

    def __init__(
        self, bench: Bench, *, lease_id: str, fencing_token: int, control: Control
    ) -> None:
        self._link = bench.link
        self._leaves_at = bench.leaves_at
        self._lease_id = lease_id
        self._fencing_token = fencing_token
        self._control = control

    def is_void(self) -> bool:
        """Whether there is nobody left to tell: the lease is lost, or the runtime must go."""
        leaves_at = self._leaves_at()
        return self._control.is_lost or (leaves_at is not None and clock.now() >= leaves_at)

    def ack(self, *, until: float) -> tuple[models.Lease, float] | None:
        """Take the offer; return the lease, and when that was asked for. None: it is gone."""
        while clock.now() < until:
            sent_at = clock.now()
            try:
                lease = self._link.ack(self._lease_id, fencing_token=self._fencing_token)
            except _AWAY:
                time.sleep(random.uniform(0.05, 0.3))
                continue
            except errors.ApiError as error:
                journal.note("offer.gone", lease=self._lease_id, reason=str(error))
                return None
            return lease, sent_at
        return None

    def decline(self, reason: str) -> None:
        """Hand an offer back at once; else it would be withdrawn only when its time is up."""
        try:
            self._link.release(
                self._lease_id,
                fencing_token=self._fencing_token,
                outcome="cancelled",
                retry=True,
                error=reason,
            )
        except errors.ApiError as error:
            journal.note("offer.not_declined", lease=self._lease_id, reason=str(error))

    def log(self, chunks: list[Mapping[str, Any]]) -> None:
        """Send lines of the log."""
        self._link.log(self._lease_id, fencing_token=self._fencing_token, chunks=chunks)

    def security(
        self, held: Mapping[str, Any] | None, incidents: Sequence[Mapping[str, str]]
    ) -> None:
        """Report what the work is held to, and what it was kept from."""
        self._link.security(
            self._lease_id,
            fencing_token=self._fencing_token,
            enforcement=held,
            incidents=incidents,
        )

    def release(self, ended: Ending) -> None:
        """Give the lease back; goes on until the control plane took it or says it is not ours."""
        backoff_s = _FIRST_BACKOFF_S
        while not self.is_void():
            try:
                self._link.release(
                    self._lease_id,
                    fencing_token=self._fencing_token,
                    outcome=ended.outcome,
                    retry=ended.retry,
                    error=ended.error,
                    usage=ended.usage,
                    result=ended.result,
                )
            except _AWAY as error:
                journal.note("release.waiting", lease=self._lease_id, reason=error.detail)
            except errors.Invalid as error:
                journal.note("release.invalid", lease=self._lease_id, reason=str(error))
                if ended.result is None and not ended.usage:
                    return
                # What the work reported can't be taken; that it ended still must be.
                remark = f"{ended.error or ''} (its report was refused: {error.detail})"
                ended = replace(ended, usage={}, result=None, error=remark.strip()[:2000])
                continue
            except errors.ApiError as error:
                journal.note("release.refused", lease=self._lease_id, reason=str(error))
                return
            else:
                journal.note("lease.released", lease=self._lease_id, outcome=ended.outcome)
                return
            time.sleep(backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(_LONGEST_BACKOFF_S, backoff_s * 2)
        journal.note("lease.dropped", lease=self._lease_id, lost=self._control.is_lost)
