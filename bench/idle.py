"""
What an idle installation costs: seconds to start, memory (PSS, Postgres included), share of a core.

    .venv/bin/python bench/idle.py [--json FILE] [--seconds 20]
"""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agentpool.host import ports, probes  # noqa: E402

INSTANCE = "bench-idle"
PSS_TARGET_MB, HEALTHY_TARGET_S = 350, 6
START_S, STOP_S, SETTLE_S = 120, 15, 5


@dataclass(frozen=True)
class Start:
    """Seconds from the command to the first answer of /healthz, and to /readyz saying 200."""

    healthy_s: float
    ready_s: float


@dataclass(frozen=True)
class Row:
    """One process: memory as its share of pages (PSS), and the share of one core it used."""

    process: str
    pss_mb: float
    rss_mb: float
    cpu_share: float


def main() -> int:
    """Measure a first and a warm start, then the idle installation; return the exit code."""
    options = _options()
    root = Path(tempfile.mkdtemp(prefix="agentpool-idle-"))
    root.chmod(0o711)  # the database runs as another user when we are root
    try:
        cold = _measure(root, idle_s=0)[0]
        warm, rows = _measure(root, idle_s=options.seconds)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    _print(cold, warm, rows)
    if options.json:
        options.json.write_text(json.dumps(_report(cold, warm, rows, options.seconds), indent=2))
    total = sum(row.pss_mb for row in rows)
    return 0 if total < PSS_TARGET_MB and warm.healthy_s < HEALTHY_TARGET_S else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.strip().splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--seconds", type=float, default=20, help="how long it idles")
    return parser.parse_args()


def _measure(root: Path, *, idle_s: float) -> tuple[Start, list[Row]]:
    """Start, let it idle, stop; no rows when it shall not idle."""
    site = probes.Site(port=ports.any_free())
    began = time.monotonic()
    with (root / "up.log").open("wb") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "agentpool.cli", "up", "--port", str(site.port)],
            env=_environment(root),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        healthy = _wait(lambda: probes.is_alive(site), up, root) - began
        ready = _wait(lambda: probes.readiness(site).is_ok, up, root) - began
        return Start(healthy, ready), _idle(up, root, seconds=idle_s) if idle_s else []
    finally:
        up.send_signal(signal.SIGINT)
        up.wait(STOP_S)


def _environment(root: Path) -> dict[str, str]:
    ours = ("AGENTPOOL_", "DATABASE_URL", "DJANGO_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)} | {
        "AGENTPOOL_HOME": str(root),
        "AGENTPOOL_INSTANCE": INSTANCE,
        "PYTHONPATH": str(ROOT),
    }


def _wait(claim: Callable[[], bool], up: subprocess.Popen[bytes], root: Path) -> float:
    deadline = time.monotonic() + START_S
    while not claim():
        if up.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"It did not start:\n{(root / 'up.log').read_text()[-3000:]}")
        time.sleep(0.05)
    return time.monotonic()


def _idle(up: subprocess.Popen[bytes], root: Path, *, seconds: float) -> list[Row]:
    """Let it settle, then idle; a process that ends meanwhile is left out."""
    time.sleep(SETTLE_S)
    before = {one: _cpu_s(one) for one in _processes(up, root)}
    began = time.monotonic()
    time.sleep(seconds)
    took = time.monotonic() - began
    rows = []
    for process, used in before.items():
        try:
            share = (_cpu_s(process) - used) / took
            rss = process.memory_info().rss / 2**20
            rows.append(Row(_name(process), _pss_mb(process.pid), rss, share))
        except psutil.Error:
            continue
    return sorted(rows, key=lambda row: -row.pss_mb)


def _processes(up: subprocess.Popen[bytes], root: Path) -> list[psutil.Process]:
    """Return `up`, what it started, and the database, which is nobody's child."""
    ours = psutil.Process(up.pid)
    server = [one for one in psutil.process_iter() if _works_in(one, root)]
    return [*{ours, *ours.children(recursive=True), *server}]


def _works_in(process: psutil.Process, root: Path) -> bool:
    try:
        is_postgres = process.name().startswith("postgres")
        return is_postgres and process.cwd().startswith(str(root))
    except psutil.Error:
        return False


def _cpu_s(process: psutil.Process) -> float:
    used = process.cpu_times()
    return float(used.user + used.system)


def _pss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _name(process: psutil.Process) -> str:
    words = process.cmdline()
    if process.name().startswith("postgres"):
        is_server = len(words) > 1 and words[1] == "-D"
        return "postgres" if is_server else " ".join(words).split(" 127.0.0.1")[0]
    known = ("daphne", "jobs", "pulse", "up")
    return next((word for word in known if word in words), words[0] if words else "?")


def _print(cold: Start, warm: Start, rows: list[Row]) -> None:
    for name, start in (("first start", cold), ("warm start", warm)):
        print(f"{name:<12} healthy after {start.healthy_s:4.1f} s, ready after {start.ready_s:.1f}")
    print(f"\n{'process':<50}{'PSS MB':>8}{'RSS MB':>8}{'CPU %':>8}")
    total = Row(
        "total",
        sum(row.pss_mb for row in rows),
        sum(row.rss_mb for row in rows),
        sum(row.cpu_share for row in rows),
    )
    for row in [*rows, total]:
        share = 100 * row.cpu_share
        print(f"{row.process[:49]:<50}{row.pss_mb:8.1f}{row.rss_mb:8.1f}{share:8.2f}")
    print(f"\ntargets: PSS < {PSS_TARGET_MB} MB, healthy < {HEALTHY_TARGET_S} s warm")


def _report(cold: Start, warm: Start, rows: list[Row], seconds: float) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "idle",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "idle_s": seconds,
        "first_start": asdict(cold),
        "warm_start": asdict(warm),
        "pss_mb": round(sum(row.pss_mb for row in rows), 1),
        "cpu_share": round(sum(row.cpu_share for row in rows), 4),
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
