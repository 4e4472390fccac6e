"""
Acquire and release through every door, held against the least that Postgres can do (pgbench).

    .venv/bin/python bench/claim.py [--agents 1000,10000,100000] [--rounds 5] [--json FILE]

All paths run one after the other in each round, forwards and backwards by turns, on one server,
with the same 32 clients; numbers are medians over the rounds, `of_pgbench` the median of the
rounds' own ratios.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from claim_parts import extras, stage  # noqa: E402
from claim_parts.paths import Paths, Stretch, Way  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

PATHS = {
    "pgbench": Way("pgbench"),
    "service": Way("service"),
    "rest-daphne": Way("rest", "daphne"),
    "rest-granian": Way("rest", "granian_wsgi"),
    "fast-daphne": Way("fast", "daphne"),
    "fast-granian": Way("fast", "granian_asgi"),
}
BESIDE = (
    *("limits_cost", "limits_cost_full", "waiters_cost", "waiters_cost_most_agents"),
    *("impossible_ms", "loss_1k_to_100k"),
)
# A server's own cost does not depend on the number of agents: one size shows it.
SMALLEST_ONLY = ("service", "rest-daphne", "fast-daphne")
# Each connection of a server compiles the SQL functions once; that is no part of a cycle.
WARM_S = 1
Key = tuple[int, str, str]


def main() -> int:
    """Measure, print, and return 1 when a path had errors."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    beside: dict[str, float | None] = {}
    with stage.stage() as there:
        rows = [row for agents in options.agents for row in _size(there, agents, options, beside)]
        if "fast-granian" in options.paths:
            beside["impossible_ms"] = extras.impossible_ms(there)  # the largest fleet is there
    beside["loss_1k_to_100k"] = _loss(rows)
    report = _report(rows, options) | beside | {"took_s": round(time.monotonic() - began, 1)}
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 1 if any(row["errors"] for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    names: Callable[[str], list[str]] = lambda text: text.split(",")  # noqa: E731
    sizes: Callable[[str], list[int]] = lambda text: sorted(map(int, text.split(",")))  # noqa: E731
    parser.add_argument("--agents", type=sizes, default=[1000, 10_000, 100_000])
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="length of each run")
    parser.add_argument("--paths", type=names, default=list(PATHS), help=", ".join(PATHS))
    parser.add_argument("--strategies", type=names, default=["least_loaded", "default"])
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


# -- measure -------------------------------------------------------------------------------------


def _size(
    there: stage.Stage,
    agents: int,
    options: argparse.Namespace,
    beside: dict[str, float | None],
) -> list[dict[str, Any]]:
    """Return the rows of one number of agents; with the fewest, what is measured `beside`."""
    stage.seed(there, agents=agents)
    start = stage.counts(there)
    names = [n for n in options.paths if agents == options.agents[0] or n not in SMALLEST_ONLY]
    paths = Paths(there, clients=options.clients)
    seen: dict[Key, list[Stretch]] = defaultdict(list)
    with paths.closing:
        paths.open([PATHS[name] for name in names])
        paths.learn_connecting()
        cells = [(name, strategy) for name in names for strategy in _strategies(name, options)]
        for name, strategy in cells:
            paths.run(PATHS[name], strategy=strategy, seconds=WARM_S)
        for number in range(options.rounds):
            # Every other round backwards: what a server is asked first after a rest is slower.
            for name, strategy in cells if number % 2 else reversed(cells):
                ran = paths.run(PATHS[name], strategy=strategy, seconds=options.seconds)
                ran.errors |= stage.left_over(there, start)
                seen[agents, name, strategy].append(ran)
            _progress(agents, number, seen)
        if agents == options.agents[0] and "fast-granian" in names:
            beside |= extras.measured(there, paths)
        elif agents == options.agents[-1] and "fast-granian" in names:
            beside["waiters_cost_most_agents"] = extras.waiters_cost(there, paths)
    return [_row(key, runs, seen, options) for key, runs in seen.items()]


def _strategies(name: str, options: argparse.Namespace) -> list[str]:
    return ["none"] if name == "pgbench" else options.strategies


def _row(
    key: Key, runs: list[Stretch], seen: dict[Key, list[Stretch]], options: argparse.Namespace
) -> dict[str, Any]:
    agents, name, strategy = key
    errors = {text: count for ran in runs for text, count in ran.errors.items()}
    row = {"path": PATHS[name].name, "server": PATHS[name].server, "strategy": strategy}
    row |= {"agents": agents, "clients": options.clients, "errors": errors}
    if errors:
        return row
    least = seen.get((agents, "pgbench", "none"), [])
    ratios = [ran.per_s / limit.per_s for ran, limit in zip(runs, least, strict=False)]
    parts = ("app", "pulse", "postgres")
    return row | {
        "cycles_per_s": _median(ran.per_s for ran in runs),
        "p50_ms": _median(_percentile(ran, 50) for ran in runs),
        "p99_ms": _median(_percentile(ran, 99) for ran in runs),
        "cpu_ms_per_cycle": _median(ran.ms_per_cycle(*parts) for ran in runs),
        **{f"{who}_ms": _median(ran.ms_per_cycle(who) for ran in runs) for who in parts},
        "generator_ms": _median(ran.ms_per_cycle("generator") for ran in runs),
        "of_pgbench": _median(ratios) if ratios else None,
    }


def _loss(rows: list[dict[str, Any]]) -> float | None:
    """Return the share of cycles that the fast path loses from the fewest to the most agents."""
    found = [
        row["cycles_per_s"]
        for row in rows
        if (row["path"], row["server"]) == ("fast", "granian_asgi")
        and row["strategy"] == "least_loaded"
        and not row["errors"]
    ]
    return round(1 - found[-1] / found[0], 4) if len(found) > 1 else None


def _median(values: Any) -> float:
    return round(statistics.median(list(values)), 4)


def _percentile(ran: Stretch, share: int) -> float:
    taken = sorted(ran.taken_us) or [0]
    return taken[min(len(taken) - 1, len(taken) * share // 100)] / 1000


# -- tell ----------------------------------------------------------------------------------------


def _progress(agents: int, number: int, seen: dict[Key, list[Stretch]]) -> None:
    said = " ".join(
        f"{name}/{strategy[:5]}={runs[-1].per_s:.0f}{'!' * bool(runs[-1].errors)}"
        for (size, name, strategy), runs in seen.items()
        if size == agents
    )
    print(f"{agents} agents, round {number + 1}: {said}", file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    table = Table(title="acquire + release", caption=f"took {report['took_s']} s")
    names = "agents path server strategy cycles/s p50 p99 ms/cycle app pulse postgres /pgbench"
    for number, name in enumerate(names.split()):
        table.add_column(name, justify="left" if 0 < number < 4 else "right")
    for row in report["rows"]:
        table.add_row(*_cells(row))
    Console(width=120).print(table)
    for name in BESIDE:
        if report.get(name) is not None:
            print(f"{name}: {report[name]:.3f}")
    for row in report["rows"]:
        for text, count in row["errors"].items():
            print(f"{row['path']} {row['server']} {row['strategy']}: {count} x {text}")


def _cells(row: dict[str, Any]) -> list[str]:
    head = [f"{row['agents']:,}", row["path"], row["server"], row["strategy"]]
    if row["errors"]:
        return [*head, "errors"]
    spent = [row[name] for name in ("cpu_ms_per_cycle", "app_ms", "pulse_ms", "postgres_ms")]
    share = f"{row['of_pgbench']:.3f}" if row["of_pgbench"] is not None else "–"
    times = [f"{row[name]:.1f}" for name in ("p50_ms", "p99_ms")]
    return [*head, f"{row['cycles_per_s']:,.0f}", *times, *(f"{ms:.2f}" for ms in spent), share]


def _report(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "claim",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "postgres": stage.SETTINGS,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
