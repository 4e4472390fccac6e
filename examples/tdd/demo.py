"""
The demo: start agentpool, launch twelve agents, run 24 TDD cycles on a real repository, check it.

Its files stand in var/demo, its database in the data folder. Exit code 0: every cycle passed and
main is green.
"""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from pathlib import Path

import allow_tools
from rich.console import Console

from agentpool.agent.isolation import LEVELS, Means, tier
from agentpool.host import installation, runtimes, up

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
VAR = ROOT / "var" / "demo"
REPO = VAR / "repo.git"
START_S, AGENTS_S, STOP_S = 120, 60, 15
# An agent that is silent for so long is not counted; after so long the sizes are asked for again.
SILENT_S, ASK_AGAIN_S = 15, 5
# How long after the batch the works beside it may take, whose grants follow their use.
REBALANCED_S = 60
# With --scale auto: how large a pool may grow, and how long the demo waits until all have drained.
MOST_AGENTS, DRAIN_S = 4, 420

say = Console(highlight=False).print


def main() -> int:
    """Run the demo and return its exit code."""
    options = _options()
    # Whoever started it may have ignored SIGINT for it; either signal stops all that it started.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    _prepare(options)
    with _installation(options) as site:
        code = _batch(options)
        password = os.environ["AGENTPOOL_ADMIN_PASSWORD"]
        say(f"\nSee it: [bold]{site}[/]  (user admin, password {password})")
        say(f"The work: git -C {REPO.relative_to(ROOT)} log --oneline main")
        if not options.once and code == 0:
            say("It keeps serving; Ctrl-C stops it.")
            with contextlib.suppress(KeyboardInterrupt):
                signal.pause()
    return code


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--once", action="store_true", help="stop when the batch has ended")
    parser.add_argument("--port", type=int, default=int(os.environ.get("PORT", "8610")))
    parser.add_argument("--agents", type=int, default=3, help="agents per pool")
    parser.add_argument(
        "--scale", choices=("auto",), help=f"begin with one agent a pool, let 1 to {MOST_AGENTS} be"
    )
    return parser.parse_args()


def _prepare(options: argparse.Namespace) -> None:
    """Build the repository, and point everything at an installation of the demo's own."""
    VAR.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    os.environ |= {
        "AGENTPOOL_INSTANCE": os.environ.get("AGENTPOOL_INSTANCE", "demo"),
        "AGENTPOOL_URL": f"http://127.0.0.1:{options.port}",
        "PYTHONUNBUFFERED": "1",
    }
    # The token and the password stay with the database that knows them, whatever becomes of var/.
    here = installation.current()
    installation.make_home(here)
    _end_earlier(here)
    os.environ |= {
        "AGENTPOOL_CONFIG": str(here.home / "config.toml"),
        "AGENTPOOL_ADMIN_PASSWORD": _password(here.home / "admin-password"),
    }
    level = os.environ.setdefault("AGENTPOOL_ISOLATION", os.environ.get("ISOLATION", "process"))
    if level not in LEVELS:
        raise SystemExit(f"ISOLATION={level} is none of {', '.join(LEVELS)}")
    if why := tier(level).missing(Means(cache=VAR)):
        if level != "process":
            raise SystemExit(f"ISOLATION={level}: {why}")
        os.environ["AGENTPOOL_ALLOW_BARE"] = "1"
        say(f"[yellow]The agents run their work without isolation: {why}[/]")
    subprocess.run([sys.executable, str(HERE / "make_repo.py"), str(REPO)], check=True)


def _end_earlier(here: installation.Installation) -> None:
    """End the agents that a killed demo has left at work: their repository is made anew."""
    if other := up.running(here):
        raise SystemExit(f"A demo runs already, at {other.get('url')} (pid {other.get('pid')}).")
    if left := runtimes.kill(here):
        say(f"an earlier demo was killed: ended {left} agents it left behind")


def _password(file: Path) -> str:
    """Return the password of the demo's admin, made at the first start."""
    if not file.exists():
        installation.write_private(file, text=secrets.token_urlsafe(9))
    return file.read_text()


@contextlib.contextmanager
def _installation(options: argparse.Namespace):
    """Run `agentpool up` around the batch; its lines go to var/demo/up.log."""
    site = os.environ["AGENTPOOL_URL"]
    with (VAR / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentpool.cli", "up", "--port", str(options.port)],
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        with Console().status("starting database, web, jobs and pulse …"):
            _wait_until_ready(site, process)
        say(f"agentpool is up at {site}; its log: {VAR.relative_to(ROOT)}/up.log")
        yield site
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        if process.poll() is None:
            process.kill()


def _wait_until_ready(site: str, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _is_ready(site):
            return
        time.sleep(0.2)
    sys.stdout.write((VAR / "up.log").read_text(errors="replace")[-3000:])
    raise SystemExit("agentpool did not start; above is the end of its log.")


def _is_ready(site: str) -> bool:
    try:
        with urllib.request.urlopen(f"{site}/readyz", timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def _batch(options: argparse.Namespace) -> int:
    """Launch the agents, run the cycles, check main; return the worst exit code."""
    if options.scale:
        return _scaled_batch()
    import rebalanced

    _launch(options.agents)
    works = rebalanced.begin()
    code = _cycles()
    say("")
    if not rebalanced.end(works, within_s=REBALANCED_S):
        say("[yellow]A work whose grant was to follow its use has not ended well.[/]")
        return code or 1
    return code


def _cycles() -> int:
    run = subprocess.run(
        [
            *(sys.executable, "-m", "agentpool.cli", "cycles", "run", str(HERE / "cycles.toml")),
            *("--repo", str(REPO), "--summary", str(VAR / "summary.json")),
        ],
        check=False,
    )
    say("\nIs main green, and does it hold every story?")
    check = subprocess.run([sys.executable, str(HERE / "check_main.py"), str(REPO)], check=False)
    return run.returncode or check.returncode


def _scaled_batch() -> int:
    """Run the cycles on pools that scale by themselves; then wait until they have drained."""
    import scaled

    pools = list(allow_tools.TOOLS)
    _launch(1)
    take_back = scaled.start(pools, most=MOST_AGENTS)
    try:
        with scaled.watched(pools) as sizes:
            code = _cycles()
            has_drained = scaled.wait_until_drained(sizes, within_s=DRAIN_S)
    finally:
        # The demo's database stays: the next one begins as ever.
        take_back()
    scaled.report(sizes)
    if not has_drained:
        say(f"[yellow]The pools have not drained to one agent each within {DRAIN_S} s.[/]")
    return code or int(not has_drained)


def _launch(count: int) -> None:
    """Have `count` agents in each pool, also where an earlier run was killed and left dead ones."""
    from agentpool.client import Client

    allow_tools.main()
    pools = list(allow_tools.TOOLS)
    with (
        Client() as client,
        Console().status(f"launching {count} agents in each of {len(pools)} pools …"),
    ):
        deadline, ask_at = time.monotonic() + AGENTS_S, 0.0
        while time.monotonic() < deadline:
            idle = Counter(
                agent.agent_type
                for agent in client.agents(status="idle", limit=500).items
                if (agent.heartbeat_age_s or 0) < SILENT_S
            )
            short = [pool for pool in pools if idle[pool] < count]
            if not short:
                return say(f"{idle.total()} agents are idle.")
            if time.monotonic() >= ask_at:
                ask_at = time.monotonic() + ASK_AGAIN_S
                for pool in short:
                    client.scale(agent_type=pool, action="set", count=count, reason="make demo")
            time.sleep(0.3)
    raise SystemExit("The agents did not come up; their logs: <data folder>/agents/log.")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
