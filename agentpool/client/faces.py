"""Turns a call into a method of the blocking or of the asynchronous client, types kept."""

import functools
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

from agentpool.client import calls

if TYPE_CHECKING:
    from agentpool.client.api import Client
    from agentpool.client.async_api import AsyncClient

P = ParamSpec("P")
T = TypeVar("T")


class Sync(Generic[P, T]):
    """A call as a blocking method."""

    def __init__(self, build: Callable[P, calls.Call[T]]) -> None:
        self._build = build

    @overload
    def __get__(self, client: None, owner: type["Client"]) -> Self: ...
    @overload
    def __get__(self, client: "Client", owner: type["Client"]) -> Callable[P, T]: ...
    def __get__(self, client: "Client | None", owner: type["Client"]) -> Self | Callable[P, T]:
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
    def __get__(self, client: None, owner: type["AsyncClient"]) -> Self: ...
    @overload
    def __get__(
        self, client: "AsyncClient", owner: type["AsyncClient"]
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(
        self, client: "AsyncClient | None", owner: type["AsyncClient"]
    ) -> Self | Callable[P, Coroutine[Any, Any, T]]:
        if client is None:
            return self

        @functools.wraps(self._build)
        async def method(*args: P.args, **kwargs: P.kwargs) -> T:
            return await client.send(self._build(*args, **kwargs))

        return method
