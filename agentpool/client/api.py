"""The API client that blocks; `async_api` is the same for asyncio, over the same calls."""

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from agentpool.client import calls, config, exchange, held, models, wire
from agentpool.client.doors import Door
from agentpool.client.faces import Sync

T = TypeVar("T")

# How long repeatable calls are repeated while the control plane is away, in seconds.
PATIENCE_S = 20.0


class Client:
    """
    The blocking client; safe to share between threads.

    Args:
        url, token: default to `AGENTPOOL_URL`, `AGENTPOOL_TOKEN` and the user's config file.
        patience_s: how long repeatable calls are repeated while nothing answers, in seconds.
        gateway: whether calls that it takes go by the gateway while that can be had; False: all
            go by REST, as suits a program that makes one call and ends.
    Raises: ConfigInvalid, the config file can't be read.

    """

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
        self._http = httpx.Client(**wire.http_options(self.settings))
        self._door = Door(self.settings, is_wanted=gateway)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._door.close()
        self._http.close()

    def send(self, call: calls.Call[T]) -> T:
        """Send one call, with repeats, and return its parsed answer. Raises: ApiError."""
        return self.converse(exchange.exchange(call, patience_s=self.patience_s))

    def acquire(
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
        return self.converse(talk)

    def lease(
        self, agent_type: str, *, project: str, wait_s: float = 30.0, **wish: Unpack[calls.Wish]
    ) -> held.HeldLease:
        """
        Return a context manager that holds a lease: acquired, renewed meanwhile, released.

        It is released with outcome `failure` when the block raises. Raises: LeaseLost at its
        end (or from `check()`) when the lease was lost while the block ran.
        """
        return held.HeldLease(
            self, lambda: self.acquire(agent_type, project=project, wait_s=wait_s, **wish)
        )

    def wait_request(
        self, request_id: str, *, seen: str | None = None, wait_s: float = exchange.POLL_S
    ) -> models.Request:
        """Return the request once its status differs from `seen`, else as it is after `wait_s`."""
        talk = exchange.wait_request(
            request_id, seen=seen, wait_s=wait_s, patience_s=self.patience_s
        )
        return self.converse(talk)

    def logs(
        self, lease_id: str, *, after: int = 0, follow: bool = False
    ) -> Iterator[models.LogChunk]:
        """Yield what the work printed; with `follow` until it ends, else what is there now."""
        while True:
            wait_s = exchange.POLL_S if follow else 0
            page = self.send(calls.lease_log(lease_id, after=after, wait_s=wait_s))
            yield from page.chunks
            if page.complete or not (follow or page.chunks):
                return
            after = max(after, page.next)
            if not page.chunks:
                time.sleep(exchange.QUIET_S)

    def events(
        self, *, after: int | None = None, follow: bool = False, limit: int = 200
    ) -> Iterator[models.Event]:
        """Yield events in order; with `follow` for ever, else those that are there now."""
        while True:
            wait_s = exchange.POLL_S if follow else 0
            page = self.send(calls.events(after=after, wait_s=wait_s, limit=limit))
            yield from page.events
            if not (follow or page.events):
                return
            after = page.next
            if not page.events:
                time.sleep(exchange.QUIET_S)

    def converse(self, talk: exchange.Conversation[T]) -> T:
        """Carry a conversation through and return its result."""
        try:
            step = next(talk)
            while True:
                try:
                    reply = self._done(step)
                except BaseException as error:
                    step = talk.throw(error)
                else:
                    step = talk.send(reply)
        except StopIteration as done:
            result: T = done.value
            return result

    def _done(self, step: calls.Call[Any] | exchange.Pause) -> exchange.Reply | None:
        if isinstance(step, exchange.Pause):
            time.sleep(step.seconds)
            return None
        return self._reply(step)

    def _reply(self, call: calls.Call[Any]) -> exchange.Reply:
        """Return what comes back, by the way that is open. Raises: Unreachable."""
        if (reply := self._door.reply(call)) is not None:
            return reply
        try:
            return wire.reply(self._http.request(**wire.request_options(call)))
        except httpx.HTTPError as error:
            raise wire.unreachable(error, self.settings.url) from error

    agents = Sync(calls.agents)
    agent = Sync(calls.agent)
    agent_row = Sync(calls.agent_row)
    register_agent = Sync(calls.register_agent)
    change_agent = Sync(calls.change_agent)
    retire_agent = Sync(calls.retire_agent)
    set_status = Sync(calls.set_status)
    rotate_credential = Sync(calls.rotate_credential)
    check_health = Sync(calls.check_health)
    set_health = Sync(calls.set_health)
    heartbeat = Sync(calls.heartbeat)
    offers = Sync(calls.offers)
    assign = Sync(calls.assign)
    release_agent = Sync(calls.release_agent)
    request = Sync(calls.request)
    request_batch = Sync(calls.request_batch)
    requests = Sync(calls.requests)
    get_request = Sync(calls.get_request)
    set_priority = Sync(calls.set_priority)
    cancel_request = Sync(calls.cancel_request)
    explain = Sync(calls.explain)
    leases = Sync(calls.leases)
    get_lease = Sync(calls.get_lease)
    lease_log = Sync(calls.lease_log)
    renew = Sync(calls.renew)
    ack = Sync(calls.ack)
    park = Sync(calls.park)
    resume = Sync(calls.resume)
    resize = Sync(calls.resize)
    report_usage = Sync(calls.report_usage)
    append_log = Sync(calls.append_log)
    report_security = Sync(calls.report_security)
    release = Sync(calls.release)
    pools = Sync(calls.pools)
    pool = Sync(calls.pool)
    whoami = Sync(calls.whoami)
    create_pool = Sync(calls.create_pool)
    change_pool = Sync(calls.change_pool)
    profiles = Sync(calls.profiles)
    profile = Sync(calls.profile)
    change_profile = Sync(calls.change_profile)
    enrolment_token = Sync(calls.enrolment_token)
    tokens = Sync(calls.tokens)
    create_token = Sync(calls.create_token)
    revoke_token = Sync(calls.revoke_token)
    event_page = Sync(calls.events)
    metrics_summary = Sync(calls.metrics_summary)
    metrics_health = Sync(calls.metrics_health)
    scaling_recommendation = Sync(calls.scaling_recommendation)
    scale = Sync(calls.scale)
    scaling_history = Sync(calls.scaling_history)
    scaling_decisions = Sync(calls.scaling_decisions)
    scaling_policies = Sync(calls.scaling_policies)
    set_scaling_policy = Sync(calls.set_scaling_policy)
    start_scaling = Sync(calls.start_scaling)
    stop_scaling = Sync(calls.stop_scaling)
    announce_work = Sync(calls.announce_work)
    resources = Sync(calls.resources)
    learning = Sync(calls.learning)
    agent_learning = Sync(calls.agent_learning)
    resource_limits = Sync(calls.resource_limits)
    set_resource_limits = Sync(calls.set_resource_limits)
    remove_resource_limit = Sync(calls.remove_resource_limit)
    rebalance = Sync(calls.rebalance)
    rebalance_history = Sync(calls.rebalance_history)
    rebalance_policies = Sync(calls.rebalance_policies)
    set_rebalance_policy = Sync(calls.set_rebalance_policy)
    optimize = Sync(calls.optimize)
    optimize_history = Sync(calls.optimize_history)
    optimize_policies = Sync(calls.optimize_policies)
    set_optimize_policy = Sync(calls.set_optimize_policy)
    apply_optimization = Sync(calls.apply_optimization)
    dismiss_optimization = Sync(calls.dismiss_optimization)
    readiness = Sync(calls.readiness)


def settings(url: str | None, token: str | None) -> config.Config:
    """Return where a client calls and as whom; None: as the environment or the file says."""
    if url is not None and token is not None:
        return config.Config(url=url.rstrip("/"), token=token)
    found = config.load()
    address = found.url if url is None else url.rstrip("/")
    # A token belongs to its address: never send the stored one somewhere else.
    known = found.token if address == found.url else ""
    return config.Config(url=address, token=known if token is None else token)
