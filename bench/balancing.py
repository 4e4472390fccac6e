"""
What each balancing strategy achieves in a world of agents with hidden, drifting skills.

    .venv/bin/python bench/balancing.py [--world NAME] [--strategy NAME ...] [--json FILE]
        [--picture FILE.svg]

The world, the oracle and the judging are those of bench/yardsticks/balancing_world.py; the
strategies are the product's own (balancing/scoring.py). Twelve agents with three slots serve 2,000
tasks, each tried until it succeeds. Told is the mean time from arrival to success, waiting and
retries included, above a greedy oracle that knows the hidden skills. Lower is better.

All worlds, strategies and seeds take ten minutes of a processor. With --json each world and seed is
written as soon as it was played; the same command goes on from there, unless the code has changed.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench"), str(ROOT / "bench" / "yardsticks")]

import balancing_world as yardstick  # noqa: E402
from balancing_parts import players, results  # noqa: E402
from balancing_parts.results import Row  # noqa: E402

from balancing import scoring  # noqa: E402

# Whatever decides what a strategy does; rows of other code are not mixed with new ones.
_CODE = ("balancing/*.py", "bench/balancing.py", "bench/balancing_parts/*.py")
Job = tuple[str, int, list[str], float]


def main() -> int:
    """Play all episodes, print a table, write rows and picture; return the exit code."""
    options = _options()
    kept = _kept(options)
    rows = [row for row in kept if _is_asked(row, options)]
    for several in _played(_missing(rows, options), options.processes):
        rows += several
        kept += several
        if options.json:
            options.json.write_text(json.dumps(_report(kept), indent=2) + "\n")
    console = Console()
    if not console.is_terminal:
        console.width = 120  # a file has room for all columns
    console.print(results.table(rows))
    if options.picture:
        options.picture.write_text(results.picture(rows))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--world",
        choices=yardstick.WORLDS,
        help="calibrated: the spread of real coding agents; specialised: agents differ more by "
        "kind of task; steady: calibrated without drift. All three unless one is named",
    )
    parser.add_argument("--seed", type=int, default=0, help="the first seed (default: 0)")
    parser.add_argument(
        "--seeds",
        type=_positive,
        default=24,
        help="how many seeds, from the first on (default: 24)",
    )
    parser.add_argument(
        "--load", type=_load, default=0.5, help="offered work / capacity, 0-1 (default: 0.5)"
    )
    parser.add_argument(
        "--strategy",
        nargs="+",
        action="extend",
        choices=players.NAMES,
        metavar="NAME",
        help=f"which strategies: {', '.join(players.NAMES)}. All unless some are named; "
        f"{players.REFERENCE} is always played",
    )
    parser.add_argument(
        "--processes",
        type=_positive,
        default=min(2, os.cpu_count() or 1),
        help="that play at the same time (default: 2 at most)",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table here, as SVG")
    parser.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="write the rows here, and go on from what is there",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _load(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError("between 0 and 1")
    return value


# -- what is asked, and what there is already ------------------------------------------------------


def _strategies(options: argparse.Namespace) -> list[str]:
    return list(dict.fromkeys([*(options.strategy or scoring.STRATEGIES), players.REFERENCE]))


def _worlds(options: argparse.Namespace) -> list[str]:
    return [options.world] if options.world else list(yardstick.WORLDS)


def _is_asked(row: Row, options: argparse.Namespace) -> bool:
    seeds = range(options.seed, options.seed + options.seeds)
    is_here = row.world in _worlds(options) and row.seed in seeds and row.load == options.load
    return is_here and row.strategy in _strategies(options)


def _missing(rows: Iterable[Row], options: argparse.Namespace) -> list[Job]:
    there = {(row.world, row.seed, row.strategy) for row in rows}
    jobs = []
    for world in _worlds(options):
        for seed in range(options.seed, options.seed + options.seeds):
            left = [name for name in _strategies(options) if (world, seed, name) not in there]
            if left:
                jobs.append((world, seed, left, options.load))
    return jobs


def _kept(options: argparse.Namespace) -> list[Row]:
    if not options.json or not options.json.exists():
        return []
    report = json.loads(options.json.read_text())
    return [Row(**row) for row in report["rows"]] if report.get("code") == _code() else []


def _code() -> str:
    """Return a digest of what decides the results."""
    files = sorted(file for pattern in _CODE for file in ROOT.glob(pattern))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


def _report(rows: list[Row]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "balancing",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "code": _code(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "rows": [asdict(row) for row in rows],
    }


# -- playing ---------------------------------------------------------------------------------------


def _played(jobs: list[Job], processes: int) -> Iterator[list[Row]]:
    """Yield the rows of each world and seed as soon as they were played."""
    with ProcessPoolExecutor(processes) as pool:
        running = [pool.submit(_play, *job) for job in jobs]
        console = Console(stderr=True)
        for done in track(as_completed(running), "playing", total=len(jobs), console=console):
            yield done.result()


def _play(world: str, seed: int, strategies: list[str], load: float) -> list[Row]:
    """Play some strategies in one world, and the oracle once."""
    oracle = yardstick.run(yardstick.Oracle(), world, seed, load)
    return [
        results.row(
            world,
            name,
            seed,
            load,
            yardstick.run(players.made(name)(seed), world, seed, load),
            oracle,
        )
        for name in strategies
    ]


if __name__ == "__main__":
    sys.exit(main())
