"""Turns a call into a method of the blocking or of the asynchronous client, types kept."""

import functools
from collections.abc import Callable, Coroutine
from typing import Any, Generic, ParamSpec, Protocol, Self, TypeVar, overload

from agentpool.client import calls, exchange

P = ParamSpec("P")
T = TypeVar("T")


class Sends(Protocol):
    """Whatever sends a call and waits for its answer."""

    def send(self, call: calls.Call[T]) -> T:
        """Return the parsed answer. Raises: ApiError."""

    def converse(self, talk: exchange.Conversation[T]) -> T:
        """Carry a conversation through and return its result. Raises: ApiError."""


class SendsAsync(Protocol):
    """The same for asyncio."""

    async def send(self, call: calls.Call[T]) -> T:
        """Return the parsed answer. Raises: ApiError."""

    async def converse(self, talk: exchange.Conversation[T]) -> T:
        """Carry a conversation through and return its result. Raises: ApiError."""


class Sync(Generic[P, T]):
    """A call as a blocking method."""

    def __init__(self, build: Callable[P, calls.Call[T]]) -> None:
        self._build = build

    @overload
    def __get__(self, client: None, owner: type[Sends]) -> Self: ...
    @overload
    def __get__(self, client: Sends, owner: type[Sends]) -> Callable[P, T]: ...
    def __get__(self, client: Sends | None, owner: type[Sends]) -> Self | Callable[P, T]:
        if client is None:
            return self

        @functools.wraps(self._build)
        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return client.send(self._build(*args, **kwargs))

        return method


class Async(Generic[P, T]):
    """A call as a coroutine method."""

    def __init__(self, build: Callable[P, calls.Call[T]]) -> None:
        self._build = build

    @overload
    def __get__(self, client: None, owner: type[SendsAsync]) -> Self: ...
    @overload
    def __get__(
        self, client: SendsAsync, owner: type[SendsAsync]
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(
        self, client: SendsAsync | None, owner: type[SendsAsync]
    ) -> Self | Callable[P, Coroutine[Any, Any, T]]:
        if client is None:
            return self

        @functools.wraps(self._build)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.send(self._build(*args, **kwargs))

        return method
