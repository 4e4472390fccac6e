"""The API client for asyncio; `api` is the same for threads, over the same calls."""

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from agentpool.client import calls, exchange, held, models, wire
from agentpool.client.api import PATIENCE_S, settings
from agentpool.client.doors import AsyncDoor
from agentpool.client.faces import Async

T = TypeVar("T")


class AsyncClient:
    """The client for asyncio; arguments and errors are those of `Client`."""

    def __init__(
        self,
        *,
        url: str | None = None,
        token: str | None = None,
        patience_s: float = PATIENCE_S,
        gateway: bool = True,
    ) -> None:
        self.settings = settings(url, token)
        self.patience_s = patience_s
        self._http = httpx.AsyncClient(**wire.http_options(self.settings))
        self._door = AsyncDoor(self.settings, is_wanted=gateway)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._door.close()
        await self._http.aclose()

    async def send(self, call: calls.Call[T]) -> T:
        """Send one call, with repeats, and return its parsed answer. Raises: ApiError."""
        return await self.converse(exchange.exchange(call, patience_s=self.patience_s))

    async def acquire(
        self, agent_type: str, *, project: str, wait_s: float = 30.0, **wish: Unpack[calls.Wish]
    ) -> models.Lease:
        """
        Return a lease, waiting `wait_s`, then, as an urgent request, half as long again.

        Raises: CapacityExhausted, with the reason it waited in vain; Unsatisfiable.
        """
        talk = exchange.acquire(
            agent_type=agent_type,
            project=project,
            wait_s=wait_s,
            patience_s=self.patience_s,
            **wish,
        )
        return await self.converse(talk)

    def lease(
        self, agent_type: str, *, project: str, wait_s: float = 30.0, **wish: Unpack[calls.Wish]
    ) -> held.AsyncHeldLease:
        """Return an asynchronous context manager that holds a lease, as `Client.lease` does."""
        return held.AsyncHeldLease(
            self, lambda: self.acquire(agent_type, project=project, wait_s=wait_s, **wish)
        )

    async def wait_request(
        self, request_id: str, *, seen: str | None = None, wait_s: float = exchange.POLL_S
    ) -> models.Request:
        """Return the request once its status differs from `seen`, else as it is after `wait_s`."""
        talk = exchange.wait_request(
            request_id, seen=seen, wait_s=wait_s, patience_s=self.patience_s
        )
        return await self.converse(talk)

    async def logs(
        self, lease_id: str, *, after: int = 0, follow: bool = False
    ) -> AsyncIterator[models.LogChunk]:
        """Yield what the work printed; with `follow` until it ends, else what is there now."""
        while True:
            wait_s = exchange.POLL_S if follow else 0
            page = await self.send(calls.lease_log(lease_id, after=after, wait_s=wait_s))
            for chunk in page.chunks:
                yield chunk
            if page.complete or not (follow or page.chunks):
                return
            after = max(after, page.next)
            if not page.chunks:
                await asyncio.sleep(exchange.QUIET_S)

    async def events(
        self, *, after: int | None = None, follow: bool = False, limit: int = 200
    ) -> AsyncIterator[models.Event]:
        """Yield events in order; with `follow` for ever, else those that are there now."""
        while True:
            wait_s = exchange.POLL_S if follow else 0
            page = await self.send(calls.events(after=after, wait_s=wait_s, limit=limit))
            for event in page.events:
                yield event
            if not (follow or page.events):
                return
            after = page.next
            if not page.events:
                await asyncio.sleep(exchange.QUIET_S)

    async def converse(self, talk: exchange.Conversation[T]) -> T:
        """Carry a conversation through and return its result."""
        try:
            step = next(talk)
            while True:
                try:
                    reply = await self._done(step)
                except BaseException as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    async def _done(self, step: calls.Call[Any] | exchange.Pause) -> exchange.Reply | None:
        if isinstance(step, exchange.Pause):
            await asyncio.sleep(step.seconds)
            return None
        return await self._reply(step)

    async def _reply(self, call: calls.Call[Any]) -> exchange.Reply:
        """Return what comes back, by the way that is open. Raises: Unreachable."""
        if (reply := await self._door.reply(call)) is not None:
            return reply
        try:
            return wire.reply(await self._http.request(**wire.request_options(call)))
        except httpx.HTTPError as error:
            raise wire.unreachable(error, self.settings.url) from error

    agents = Async(calls.agents)
    agent = Async(calls.agent)
    agent_row = Async(calls.agent_row)
    register_agent = Async(calls.register_agent)
    change_agent = Async(calls.change_agent)
    retire_agent = Async(calls.retire_agent)
    set_status = Async(calls.set_status)
    rotate_credential = Async(calls.rotate_credential)
    check_health = Async(calls.check_health)
    set_health = Async(calls.set_health)
    heartbeat = Async(calls.heartbeat)
    offers = Async(calls.offers)
    assign = Async(calls.assign)
    release_agent = Async(calls.release_agent)
    request = Async(calls.request)
    request_batch = Async(calls.request_batch)
    requests = Async(calls.requests)
    get_request = Async(calls.get_request)
    set_priority = Async(calls.set_priority)
    cancel_request = Async(calls.cancel_request)
    explain = Async(calls.explain)
    leases = Async(calls.leases)
    get_lease = Async(calls.get_lease)
    lease_log = Async(calls.lease_log)
    renew = Async(calls.renew)
    ack = Async(calls.ack)
    park = Async(calls.park)
    resume = Async(calls.resume)
    resize = Async(calls.resize)
    report_usage = Async(calls.report_usage)
    append_log = Async(calls.append_log)
    report_security = Async(calls.report_security)
    release = Async(calls.release)
    pools = Async(calls.pools)
    pool = Async(calls.pool)
    whoami = Async(calls.whoami)
    create_pool = Async(calls.create_pool)
    change_pool = Async(calls.change_pool)
    profiles = Async(calls.profiles)
    profile = Async(calls.profile)
    change_profile = Async(calls.change_profile)
    enrolment_token = Async(calls.enrolment_token)
    tokens = Async(calls.tokens)
    create_token = Async(calls.create_token)
    revoke_token = Async(calls.revoke_token)
    event_page = Async(calls.events)
    metrics_summary = Async(calls.metrics_summary)
    metrics_health = Async(calls.metrics_health)
    scaling_recommendation = Async(calls.scaling_recommendation)
    scale = Async(calls.scale)
    scaling_history = Async(calls.scaling_history)
    scaling_decisions = Async(calls.scaling_decisions)
    scaling_policies = Async(calls.scaling_policies)
    set_scaling_policy = Async(calls.set_scaling_policy)
    start_scaling = Async(calls.start_scaling)
    stop_scaling = Async(calls.stop_scaling)
    announce_work = Async(calls.announce_work)
    resources = Async(calls.resources)
    learning = Async(calls.learning)
    agent_learning = Async(calls.agent_learning)
    resource_limits = Async(calls.resource_limits)
    set_resource_limits = Async(calls.set_resource_limits)
    remove_resource_limit = Async(calls.remove_resource_limit)
    rebalance = Async(calls.rebalance)
    rebalance_history = Async(calls.rebalance_history)
    rebalance_policies = Async(calls.rebalance_policies)
    set_rebalance_policy = Async(calls.set_rebalance_policy)
    optimize = Async(calls.optimize)
    optimize_history = Async(calls.optimize_history)
    optimize_policies = Async(calls.optimize_policies)
    set_optimize_policy = Async(calls.set_optimize_policy)
    apply_optimization = Async(calls.apply_optimization)
    dismiss_optimization = Async(calls.dismiss_optimization)
    readiness = Async(calls.readiness)
