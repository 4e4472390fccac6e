"""Watch a running installation: is the web process there, are the others, is the database."""

import threading
import time
from collections.abc import Callable

from agentpool.host import postgres, probes, wire
from agentpool.host.installation import HostError, Installation
from agentpool.host.output import Output
from agentpool.host.probes import Site
from agentpool.host.supervisor import Health, StopRequest

_ALIVE_S = 60.0
_READY_S = 60.0
_DATABASE_SILENCES = 2  # in a row, one a second, before it is started again


class Watch:
    """Looks at the database, the web process and through it at the others, once a second."""

    def __init__(
        self,
        site: Site,
        *,
        installation: Installation | None,
        database_url: str,
        stop: StopRequest,
        output: Output,
        welcome: Callable[[], None],
        second: Site | None = None,
    ) -> None:
        """
        Watch one site from now on.

        Args:
            second: the listener that serves REST beside it, None: there is none.
            installation: whose embedded database is kept running; None: it is not ours.
            stop: asked for when the start fails or the database has moved.
            welcome: called once, when the web process answers for the first time.

        """
        self.failed = False
        self._site = site
        self._second = second
        self._installation = installation
        self._database_url = database_url
        self._stop = stop
        self._output = output
        self._welcome = welcome
        self._began = time.monotonic()
        self._alive_at: float | None = None
        self._is_settled = False
        self._silences = 0
        self._database_lock = threading.Lock()

    def look(self) -> Health:
        """Return the health of the children; starts the database again when it is gone."""
        if self._installation:
            self._look_at_database(self._installation)
        is_alive = probes.is_alive(self._site)
        ready = probes.Readiness()
        if is_alive:
            ready = probes.readiness(self._site)
        if not self._is_settled:
            self._announce(is_alive=is_alive, ready=ready)
        # Without the database nobody can prove to be well: that is not their stall.
        jobs, relay = (ready.jobs, ready.relay) if ready.database else (None, None)
        second = probes.is_alive(self._second) if self._second else None
        return {"web": is_alive, "wsgi": second, "jobs": jobs, "relay": relay}

    def leave_the_database(self) -> None:
        """Return when no look is starting the database any more; none will from now on."""
        self._stop.ask()
        with self._database_lock:
            return

    def _look_at_database(self, installation: Installation) -> None:
        answer = postgres.answer(self._database_url)
        self._silences = self._silences + 1 if answer is wire.Answer.SILENT else 0
        if self._silences < _DATABASE_SILENCES:
            return
        with self._database_lock:
            if not self._stop:
                self._start_database(installation)

    def _start_database(self, installation: Installation) -> None:
        self._say("the database is gone: starting it again")
        try:
            url = postgres.start(installation)
        except HostError as error:
            self._say(str(error))
            return
        if url != self._database_url:
            # The children know only the old address. Ending is better than half working.
            self._say("the database had to move to another port: start agentpool again")
            self._fail()

    def _announce(self, *, is_alive: bool, ready: probes.Readiness) -> None:
        now = time.monotonic()
        if self._alive_at is None:
            if is_alive:
                self._alive_at = now
                self._welcome()
            elif now - self._began > _ALIVE_S:
                self._say(f"{self._site.url}/healthz did not answer in {_ALIVE_S:.0f} s")
                self._fail()
        elif ready.is_ok:
            self._is_settled = True
            self._say(f"ready after {now - self._began:.1f} s")
        elif now - self._alive_at > _READY_S:
            self._is_settled = True
            self._say(f"not ready after {_READY_S:.0f} s, still trying: {ready.detail}")

    def _fail(self) -> None:
        self.failed = True
        self._stop.ask()

    def _say(self, text: str) -> None:
        self._output.line("up", text)
