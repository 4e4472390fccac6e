"""Serves static files inside of Django's middleware, without costing other calls a thread."""

from typing import Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.http import HttpRequest
from whitenoise.middleware import WhiteNoiseMiddleware


class StaticFiles(WhiteNoiseMiddleware):
    """
    WhiteNoise that stays asynchronous when all around it is.

    WhiteNoise's own is synchronous: under ASGI each call would hold a thread to its end, a call
    that waits for a minute, too.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        if iscoroutinefunction(get_response):
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> Any:
        """Return the file that the path names, else what the next one answers."""
        if iscoroutinefunction(self):
            return self._answer(request)
        return super().__call__(request)

    async def _answer(self, request: HttpRequest) -> Any:
        find = self.find_file if self.autorefresh else self.files.get
        file = find(request.path_info)
        if file is None:
            return await self.get_response(request)
        return await sync_to_async(self.serve, thread_sensitive=False)(file, request)
