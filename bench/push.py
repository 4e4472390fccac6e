"""
From a commit to every open socket: our stream beside a bare LISTEN and fan-out on the same server.

    .venv/bin/python bench/push.py [--rounds 3] [--seconds 4] [--json FILE]

Both run in each round, one after the other; numbers are medians over the rounds, `ratio` the median
of the rounds' own ratios of p99. Times count from just before the commit, which is part of them.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from claim_parts import cpu, paths, stage  # noqa: E402
from live_parts.workers import Worker  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from agentpool.host import ports  # noqa: E402
from agentpool.host.probes import Site  # noqa: E402

WAYS = ("ours", "bare")
PATIENCE_S = 10.0
Row = dict[str, Any]


def main() -> int:
    """Measure, print, and return 1 when something did not arrive, or not in order."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    rows: list[Row] = []
    with stage.stage() as there, contextlib.ExitStack() as closing:
        pulse = paths.Process([sys.executable, "-m", "django", "pulse"], there.env)
        closing.callback(pulse.end)
        writer = Worker("live_parts.writer", there.env)
        closing.callback(writer.end)
        writer.answer()
        for server in options.servers:
            for clients, per_s in options.loads:
                rows.append(_row(there, server, clients, per_s, writer, options))
    report = _report(rows, options) | {"took_s": round(time.monotonic() - began, 1)}
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 0 if all(row["delivered"] == 1 and row["in_order"] for row in rows) else 1


def _options() -> argparse.Namespace:
    def loads(text: str) -> list[tuple[int, float]]:
        return [(int(c), float(e)) for c, e in (part.split("x") for part in text.split(","))]

    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--loads", type=loads, default=[(200, 10.0), (1000, 5.0)])
    parser.add_argument("--servers", type=lambda t: t.split(","), default=["daphne", "granian"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4, help="length of each run")
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


# -- measure -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _bare(there: stage.Stage, server: str) -> Iterator[tuple[str, int]]:
    """Run the yardstick on the same server; give its address and process id."""
    site = Site(port=ports.any_free())
    argv, _ = paths.server_argv(server, site)
    found = os.pathsep.join([str(paths.BENCH), there.env.get("PYTHONPATH", "")])
    process = paths.Process(
        [sys.executable, "-m", *argv[:-1], "live_parts.bare:application"],
        {**there.env, "PYTHONPATH": found},
    )
    try:
        paths._wait_for(site.url, process)
        yield site.url, process.pid
    finally:
        process.end()


def _row(
    there: stage.Stage,
    server: str,
    clients: int,
    per_s: float,
    writer: Worker,
    options: argparse.Namespace,
) -> Row:
    seen: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with contextlib.ExitStack() as closing:
        crowd = Worker("live_parts.readers", there.env)
        closing.callback(crowd.end)
        where = {
            "ours": closing.enter_context(paths.serving(there, server)),
            "bare": closing.enter_context(_bare(there, server)),
        }
        for way in WAYS:
            headers = {"Authorization": f"Bearer {_viewer(there)}"} if way == "ours" else {}
            order = {"do": "connect", "way": way, "url": where[way][0], "clients": clients}
            _ask(crowd, order | {"path": "/ws/pool/", "headers": headers})
        time.sleep(1)
        first = 0
        for number in range(-1, options.rounds):
            for way in WAYS if number % 2 else reversed(WAYS):
                # The first round warms what is compiled and cached at first use.
                seconds = 1 if number < 0 else options.seconds
                load = {"way": way, "events_per_s": per_s, "seconds": seconds, "first": first}
                report = _run(crowd, writer, load, where[way][1])
                if number >= 0:
                    seen[way].append(report)
            first += round(seconds * per_s)
    row = _summed(server, clients, per_s, seen)
    _say(row)
    return row


def _run(crowd: Worker, writer: Worker, load: dict[str, Any], pid: int) -> dict[str, Any]:
    before, began = cpu.seconds(pid), time.monotonic()
    count = _ask(writer, load)["count"]
    order = {"do": "collect", "way": load["way"], "count": count, "patience_s": PATIENCE_S}
    report = _ask(crowd, order)
    return report | {"cpu_share": (cpu.seconds(pid) - before) / (time.monotonic() - began)}


def _ask(worker: Worker, order: dict[str, Any]) -> dict[str, Any]:
    worker.say(json.dumps(order))
    return worker.answer()


def _viewer(there: stage.Stage) -> str:
    """Return a token that sees everything: an orchestrator's own stream takes another way."""
    made = stage._python(
        there.env,
        "-c",
        "import django; django.setup()\n"
        "from agentpool.registry import services\n"
        "from agentpool.registry.states import Scope\n"
        "print(services.token(scope=Scope.VIEWER, name='b', expires_in_s=None, actor='b').secret)",
    )
    return made.splitlines()[-1]


def _summed(server: str, clients: int, per_s: float, seen: dict[str, list[dict[str, Any]]]) -> Row:
    def median(way: str, name: str) -> float:
        return round(statistics.median(report[name] or 1e9 for report in seen[way]), 2)

    pairs = zip(seen["ours"], seen["bare"], strict=True)
    return {
        "server": server,
        "clients": clients,
        "events_per_s": per_s,
        "p50_ms": median("ours", "p50_ms"),
        "p99_ms": median("ours", "p99_ms"),
        "delivered": min(report["delivered"] for report in seen["ours"]),
        "in_order": all(report["in_order"] for report in seen["ours"]),
        "reference_p50_ms": median("bare", "p50_ms"),
        "reference_p99_ms": median("bare", "p99_ms"),
        "reference_delivered": min(report["delivered"] for report in seen["bare"]),
        "ratio": round(statistics.median((o["p99_ms"] or 1e9) / b["p99_ms"] for o, b in pairs), 3),
        "cpu_share": median("ours", "cpu_share"),
        "reference_cpu_share": median("bare", "cpu_share"),
        "rounds": [
            {way: {n: seen[way][i][n] for n in ("p50_ms", "p99_ms")} for way in WAYS}
            for i in range(len(seen["ours"]))
        ],
    }


# -- tell ----------------------------------------------------------------------------------------


def _say(row: Row) -> None:
    text = "{server} {clients} x {events_per_s:g}: p99 {p99_ms} ms, bare {reference_p99_ms} ms"
    print(text.format(**row), file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    table = Table(title="commit to socket, ms", caption=f"took {report['took_s']} s")
    names = (
        "server clients events/s p50 p99 delivered in_order bare_p50 bare_p99 p99/bare cpu bare_cpu"
    )
    for number, name in enumerate(names.split()):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in report["rows"]:
        cells = [row["server"], f"{row['clients']:,}", f"{row['events_per_s']:g}"]
        cells += [f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms")]
        cells += [f"{row['delivered']:.3f}", str(row["in_order"])]
        cells += [f"{row[name]:.1f}" for name in ("reference_p50_ms", "reference_p99_ms")]
        cells += [f"{row[name]:.2f}" for name in ("ratio", "cpu_share", "reference_cpu_share")]
        table.add_row(*cells)
    Console(width=120).print(table)


def _report(rows: list[Row], options: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "push",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "rounds_each": options.rounds,
        "seconds": options.seconds,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
