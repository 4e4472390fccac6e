"""Run one installation: database, migrations, web, jobs and pulse, until somebody says stop."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentpool.host import lock, ports, postgres, process_tree, runtimes, servers
from agentpool.host.installation import (
    DEFAULT_INSTANCE,
    HostError,
    Installation,
    code_folder,
    current,
    make_home,
)
from agentpool.host.output import Output
from agentpool.host.probes import DEFAULT_BIND, DEFAULT_PORT, Site
from agentpool.host.run_to_end import Interrupted, run_to_end
from agentpool.host.servers import Servers
from agentpool.host.supervisor import Child, StopRequest, Supervisor
from agentpool.host.watch import Watch

SETTINGS_MODULE = "agentpool.settings"

_Until = Callable[[], bool]

_STALE_S = 15.0  # AGENTPOOL_STALE_S
# After a sleep of the machine everything looks stale until the next canary job (5 s) is done.
_RECOVER_S = 8.0
_WEB_CONNECTIONS = "20"
_PREPARE_S = 600.0  # migrations of a large database
_STOP_S = 10.0  # everything; of these:
_STOP_AGENTS_S = 4.5
_AGENTS_LEAVE_S = 2.0  # once the command that waits for them has started
_STOP_DATABASE_S = 1.5


def up(
    *,
    port: int = DEFAULT_PORT,
    bind: str = DEFAULT_BIND,
    keep_agents: bool = False,
    installation: Installation | None = None,
) -> int:
    """
    Run the installation in the foreground until SIGINT, SIGTERM or SIGHUP; return an exit code.

    A stop takes at most 10 s and leaves no process, the agents started by scaling included;
    a second signal stops at once. A SIGHUP that is ignored at the start, as under nohup, stays
    so. Call it from the main thread.

    Args:
        keep_agents: the agents go on without the control plane; the next `up` finds them.
        installation: None means the one the environment names.
    Raises: HostError, it can't be started: it runs already, the port is taken, the server is
        not installed, the database or the migrations fail.

    """
    home = installation or current()
    site = Site(bind=bind, port=port)
    web = servers.chosen()
    make_home(home)
    lock_file = home.run_folder / "up.lock"
    try:
        with lock.hold(lock_file, wait_s=0.2, note={"url": site.url}):
            return _Up(home, site=site, web=web, keep_agents=keep_agents).run()
    except lock.LockTaken as error:
        other = lock.holder(lock_file) or {}
        raise HostError(
            f"agentpool is already running at {other.get('url')} (pid {other.get('pid')})."
        ) from error


def running(installation: Installation) -> dict[str, Any] | None:
    """Return {pid, url} of the `up` that runs this installation, None when none does."""
    return lock.holder(installation.run_folder / "up.lock")


def children(
    *, site: Site, env: Mapping[str, str], stale_after_s: float, web: Servers | None = None
) -> Sequence[Child]:
    """
    Return the processes of an installation, in the order they are started.

    Args:
        web: which servers serve; None: daphne alone.
        stale_after_s: silence of /healthz, in seconds, after which the web process is stale.
            Of the others /readyz tells when they are; they get a few seconds to recover.

    """
    web = web or Servers()
    # Threads of the web process come and go, so its connections are pooled. The job cluster
    # forks, and children must never share a pool's sockets.
    pool = os.environ.get("AGENTPOOL_DB_POOL", _WEB_CONNECTIONS)
    web_env = {**env, "AGENTPOOL_DB_POOL": pool}
    recover_s = min(stale_after_s, _RECOVER_S)
    django = ("django", "jobs"), ("django", "pulse")
    jobs, pulse = (_python(*command, "--settings", SETTINGS_MODULE) for command in django)
    main = _python(*servers.asgi(web, site=site))
    found = [Child("web", main, web_env, probe="web", stale_after_s=stale_after_s)]
    if second := wsgi_site(web, site=site):
        # Its threads stay, so each keeps a connection of its own.
        argv = _python(*servers.wsgi(web, site=second))
        found.append(Child("wsgi", argv, env, probe="wsgi", stale_after_s=stale_after_s))
    return (
        *found,
        Child("jobs", jobs, env, probe="jobs", stale_after_s=recover_s),
        Child("pulse", pulse, env, probe="relay", stale_after_s=recover_s),
    )


def wsgi_site(web: Servers, *, site: Site) -> Site | None:
    """Return where the second listener listens, None: there is none."""
    return Site(bind=site.bind, port=web.wsgi_port) if web.wsgi_port else None


def environment(installation: Installation, *, site: Site, database_url: str) -> dict[str, str]:
    """Return what the processes of an installation find in their environment, beside ours."""
    paths = [str(code_folder())] if (code_folder() / "manage.py").exists() else []
    paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
    return {
        "AGENTPOOL_HOME": str(installation.root),
        "AGENTPOOL_INSTANCE": installation.instance,
        "AGENTPOOL_URL": site.url,
        "DATABASE_URL": database_url,
        "DJANGO_SETTINGS_MODULE": SETTINGS_MODULE,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }


def _python(*argv: str) -> tuple[str, ...]:
    return (sys.executable, "-m", *argv)


class _Up:
    """One run of one installation; it exists while the lock is held."""

    def __init__(
        self, installation: Installation, *, site: Site, web: Servers, keep_agents: bool
    ) -> None:
        self._installation = installation
        self._site = site
        self._web = web
        self._second = wsgi_site(web, site=site)
        self._keep_agents = keep_agents
        self._output = Output(folder=installation.log_folder)
        self._stop = StopRequest()
        self._is_interruptible = False
        self._own_database = not os.environ.get("DATABASE_URL")
        self._env: dict[str, str] = {}
        self._supervisor: Supervisor | None = None
        self._watch: Watch | None = None

    def run(self) -> int:
        killed = process_tree.kill_leftovers(self._installation.run_folder)
        if killed:
            self._say(f"an earlier run was killed: ended {killed} processes it left behind")
        _require_free(self._site, option="--port")
        if self._second:
            _require_free(self._second, option="AGENTPOOL_WSGI_PORT")
        with _signals(self._on_signal):
            try:
                self._serve(database_url=self._database())
            except Interrupted:
                pass
            finally:
                self._stop_all()
                self._output.close()
        return 1 if self._watch and self._watch.failed else 0

    def _database(self) -> str:
        if not self._own_database:
            return os.environ["DATABASE_URL"]
        self._is_interruptible = True  # replaying a long log takes longer than a person waits
        try:
            url = postgres.start(self._installation)
        finally:
            self._is_interruptible = False
        self._say("the database answers")
        return url

    def _serve(self, *, database_url: str) -> None:
        self._env = environment(self._installation, site=self._site, database_url=database_url)
        self._prepare()
        self._watch = Watch(
            self._site,
            second=self._second,
            installation=self._installation if self._own_database else None,
            database_url=database_url,
            stop=self._stop,
            output=self._output,
            welcome=self._welcome,
        )
        self._supervisor = Supervisor(
            children(site=self._site, env=self._env, stale_after_s=_stale_after_s(), web=self._web),
            run_folder=self._installation.run_folder,
            output=self._output,
            poll=self._watch.look,
        )
        self._supervisor.run(stop=self._stop)

    def _welcome(self) -> None:
        self._say(f"agentpool is at {self._site.url}  (Ctrl-C stops it)")
        if self._second:
            self._say(f"REST without waiting is at {self._second.url}, too")

    def _prepare(self) -> None:
        """Migrate; keep and show at once what a first start makes and nobody can look up later."""
        said = self._django(
            "prepare", "--json", timeout_s=_PREPARE_S, until=lambda: bool(self._stop)
        )
        answer = _last_json(said)
        admin, token = answer.get("admin"), answer.get("operator_token")
        if admin:
            name, password = admin["username"], admin["password"]
            self._output.private("up", f"sign in as {name} with the password {password}")
        if token:
            file = _save_config(self._installation, site=self._site, token=token)
            self._say(f"wrote the operator token to {file}")
        else:
            _keep_address(self._installation, site=self._site)

    def _stop_all(self) -> None:
        deadline = time.monotonic() + _STOP_S
        self._say("stopping")
        if self._supervisor and not self._keep_agents:
            self._stop_agents()
        if self._supervisor:
            grace_s = max(deadline - time.monotonic() - _STOP_DATABASE_S - 0.5, 1.0)
            self._supervisor.stop(grace_s=grace_s, at_once=self._is_in_a_hurry)
        if self._own_database:
            if self._watch:
                self._watch.leave_the_database()
            postgres.stop(self._installation, timeout_s=_STOP_DATABASE_S)
        self._say("stopped")

    def _stop_agents(self) -> None:
        """End the agents; their leases are returned when database and time allow."""
        runtimes.ask_to_leave(self._installation)
        command = ("stop_agents", "--within", str(_AGENTS_LEAVE_S))
        try:
            said = self._django(*command, timeout_s=_STOP_AGENTS_S, until=self._is_in_a_hurry)
        except (HostError, Interrupted) as error:
            said = f"leases of agents may be left open: {error}"
        for line in said.splitlines():
            self._say(line)
        if killed := runtimes.kill(self._installation):
            self._say(f"{killed} agents did not leave in time: killed")

    def _django(self, command: str, *options: str, timeout_s: float, until: _Until) -> str:
        argv = _python("django", command, *options, "--settings", SETTINGS_MODULE)
        env = {**os.environ, **self._env}
        return run_to_end(
            command, argv, env=env, output=self._output, timeout_s=timeout_s, until=until
        )

    def _on_signal(self, *_: object) -> None:
        self._stop.ask()
        if self._is_interruptible:
            raise Interrupted

    def _is_in_a_hurry(self) -> bool:
        return self._stop.wishes > 1

    def _say(self, text: str) -> None:
        self._output.line("up", text)


@contextmanager
def _signals(handler: Callable[..., None]) -> Iterator[None]:
    """Let the signals that ask for an end call a handler while the block runs."""
    wanted = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
    # Who starts it under nohup wants it to outlive the terminal.
    if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
        wanted.remove(signal.SIGHUP)
    before = {one: signal.signal(one, handler) for one in wanted}
    try:
        yield
    finally:
        for one, earlier in before.items():
            signal.signal(one, earlier)


def _require_free(site: Site, *, option: str) -> None:
    reason = ports.why_taken(site.port, bind=site.bind)
    if reason:
        raise HostError(
            f"Port {site.port} on {site.bind} cannot be used ({reason}): another program may"
            f" have it. Choose another with {option}."
        )


def _stale_after_s() -> float:
    text = os.environ.get("AGENTPOOL_STALE_S")
    try:
        return float(text) if text else _STALE_S
    except ValueError as error:
        raise HostError(f"AGENTPOOL_STALE_S={text!r} is not a number of seconds.") from error


def _last_json(said: str) -> dict[str, Any]:
    for line in reversed(said.splitlines()):
        if line.startswith("{"):
            answer = json.loads(line)
            return answer if isinstance(answer, dict) else {}
    raise HostError(f"`prepare` gave no answer. It said:\n{said.strip()}")


def _save_config(installation: Installation, *, site: Site, token: str) -> Path:
    """
    Write the address and the operator token to the config file.

    Instances beside `main` (demo, tests), and whatever `AGENTPOOL_HOME` has put elsewhere, keep
    theirs at home, so that they never replace the user's; what stood in the file is kept beside it,
    for tokens are shown only once.
    """
    from agentpool.client import config  # brings httpx in, which the supervisor does without

    is_users = installation.instance == DEFAULT_INSTANCE or os.environ.get("AGENTPOOL_CONFIG")
    path = config.config_path() if is_users else installation.home / "config.toml"
    if path.exists():
        config.write_private(path.with_name(f"{path.name}.before"), path.read_text())
    return config.save(url=site.url, token=token, path=path)


def _keep_address(installation: Installation, *, site: Site) -> None:
    """
    Write where this start listens to the installation's own config file, if it has one.

    A token is used for the file's own address only: at another port nobody would be let in.
    """
    path = installation.home / "config.toml"
    if not path.exists() or json.dumps(site.url) in path.read_text():
        return
    from agentpool.client import config  # see above

    stored = config.load(env={"AGENTPOOL_CONFIG": str(path)})
    config.save(url=site.url, token=stored.token, path=path)
