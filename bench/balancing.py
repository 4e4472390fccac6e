"""
What each balancing strategy achieves in a world of agents with hidden, drifting skills.

    .venv/bin/python bench/balancing.py [--world NAME] [--strategy NAME ...] [--json FILE]
        [--picture FILE.svg]

The world, the oracle and the judging are those of bench/yardsticks/balancing_world.py; the
strategies are the product's own (balancing/scoring.py). Twelve agents with three slots serve 2,000
tasks, each tried until it succeeds. Told is the mean time from arrival to success, waiting and
retries included, above a greedy oracle that knows the hidden skills. Lower is better.
"""

import argparse
import json
import math
import os
import platform
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench" / "yardsticks")]

import balancing_world as yardstick  # noqa: E402

from balancing import estimate, kalman, scoring  # noqa: E402
from balancing.belief import Lesson, Model  # noqa: E402
from balancing.outlook import Average, Cell  # noqa: E402
from balancing.scoring import Candidate, Work  # noqa: E402

REFERENCE = "seed_least_loaded"
NAMES = [*scoring.STRATEGIES, REFERENCE]
# The world has no amounts: every task takes the share of one slot, and uses half of it.
ASK = Work(memory_mb=1024, cpu_cores=1, token_budget=50_000, disk_space_mb=500)
EFFICIENCY = 0.5
LEARNING = ("workload_aware", "predictive", "learnt")


@dataclass(frozen=True)
class Row:
    """One episode: seconds from arrival to success, and how much they are above the oracle's."""

    world: str
    strategy: str
    seed: int
    load: float
    mean_s: float
    oracle_s: float
    over_oracle_pct: float
    first300_s: float
    oracle_first300_s: float
    first300_pct: float
    last_third_s: float
    oracle_last_third_s: float
    last_third_pct: float
    attempts_per_task: float


class Product:
    """One of the product's strategies, kept as the pool keeps it: loads, records, warmth."""

    def __init__(self, strategy: str, seed: int) -> None:
        self.strategy = strategy
        self.random = random.Random(seed)
        self.model = Model()
        # What the product writes down for the claim: of agents at kinds of work, and of kinds.
        self.cells: dict[tuple[str, str | None], Cell] = {}
        self.averages: dict[str, Average] = {}
        self.skills: dict[int, Sequence[bool]] = {}
        self.last_token = [0] * yardstick.AGENTS
        self.ended: dict[tuple[int, int], float] = {}
        self.tokens = 0

    def place(
        self,
        kind: int,
        free: Sequence[int],
        loads: Sequence[int],
        project: int,
        tags: Sequence[bool],
        now: float,
    ) -> int:
        """Return the best of the free agents; a kind of task is a story type and a tag."""
        drawn = [int(agent) for agent in free]
        if self.strategy == "best_of_k":
            drawn = self.random.sample(drawn, min(scoring.BEST_OF, len(drawn)))
        tag = f"kind-{kind}"
        self.skills[kind] = tags
        candidates = [
            self._candidate(
                agent, int(loads[agent]), kind, project, {tag} if tags[agent] else (), now
            )
            for agent in drawn
        ]
        work = replace(ASK, tags=frozenset({tag}))
        if self.strategy in LEARNING and tag not in self.averages:
            known = tag if tag in self.model.kinds else None
            self.averages[tag] = estimate.average(self.model, known)
        average = self.averages.get(tag)
        best, _ = scoring.rank(self.strategy, candidates, work, average)[0]
        agent = int(best.agent_id)
        self.tokens += 1
        self.last_token[agent] = self.tokens
        return agent

    def learn(
        self, agent: int, kind: int, project: int, duration_s: float, ok: bool, now: float
    ) -> None:
        """Take up the end of an attempt; write down what changed, as the product's job does."""
        self.ended[agent, project] = now
        if self.strategy not in LEARNING:
            return
        name, tag = f"{agent:02}", f"kind-{kind}"
        lesson = Lesson(
            agent=name,
            kind=tag,
            at=now,
            log_s=math.log(duration_s),
            successes=float(ok),
            match=scoring.match({tag} if self.skills[kind][agent] else (), {tag}),
            efficiency=EFFICIENCY,
        )
        kalman.learn(self.model, lesson, agents=yardstick.AGENTS)
        skill = self.model.skills[name]
        for each, cell in estimate.cells(self.model, skill).items():
            self.cells[name, each] = cell
        self.averages.clear()  # each is made anew when somebody asks

    def _candidate(
        self, agent: int, load: int, kind: int, project: int, skills: Any, now: float
    ) -> Candidate:
        slots, name = yardstick.SLOTS, f"{agent:02}"
        return Candidate(
            agent_id=name,
            load=load,
            max_concurrent=slots,
            memory_mb=slots * ASK.memory_mb,
            cpu_cores=slots * ASK.cpu_cores,
            token_budget=slots * ASK.token_budget,
            disk_space_mb=slots * ASK.disk_space_mb,
            used_memory_mb=load * ASK.memory_mb,
            used_cpu_cores=load * ASK.cpu_cores,
            used_token_budget=load * ASK.token_budget,
            used_disk_space_mb=load * ASK.disk_space_mb,
            capabilities=frozenset(skills),
            last_token=self.last_token[agent],
            warmth=self._warmth(agent, project, now),
            cell=self.cells.get((name, f"kind-{kind}")) or self.cells.get((name, None)),
        )

    def _warmth(self, agent: int, project: int, now: float) -> float:
        if (agent, project) not in self.ended:
            return 0.0
        age_s = now - self.ended[agent, project]
        return scoring.warmth(
            same_cycle=False, path_overlap=0, age_s=age_s, half_life_s=scoring.WARM_HALF_LIFE_S
        )


class Reference:
    """The least loaded agent, ties by lot: the yardstick's own example, in the same run."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    def place(self, kind: int, free: Any, loads: Any, project: int, tags: Any, now: float) -> int:
        """Return one of the least loaded agents."""
        return int(free[int(np.argmin(loads[free] + self.rng.random(len(free)) * 0.5))])

    def learn(self, *outcome: Any) -> None:
        """Learn nothing."""


def main() -> int:
    """Play all episodes, print a table a world, write the rows; return the exit code."""
    options = _options()
    seeds = range(options.seed, options.seed + options.seeds)
    worlds = [options.world] if options.world else list(yardstick.WORLDS)
    strategies = list(dict.fromkeys([*(options.strategy or scoring.STRATEGIES), REFERENCE]))
    play = partial(_play, strategies=strategies, load=options.load)
    console, rows = Console(), []
    with ProcessPoolExecutor() as processes:
        for world in worlds:
            with console.status(
                f"playing {world}: {len(strategies)} strategies, {len(seeds)} seeds"
            ):
                played = processes.map(play, [world] * len(seeds), seeds)
                of_world = [row for several in played for row in several]
            rows += of_world
    console.print(_table(rows))
    if options.picture:
        options.picture.write_text(_picture(rows))
    if options.json:
        options.json.write_text(json.dumps(_report(rows), indent=2) + "\n")
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
        choices=NAMES,
        metavar="NAME",
        help=f"which strategies: {', '.join(NAMES)}. All unless some are named; "
        f"{REFERENCE} is always played",
    )
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the table here, as SVG")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here")
    return parser.parse_args()


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _load(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise argparse.ArgumentTypeError("between 0 and 1")
    return value


def _play(world: str, seed: int, *, strategies: list[str], load: float) -> list[Row]:
    """Play all strategies in one world, and the oracle once."""
    oracle = yardstick.run(yardstick.Oracle(), world, seed, load)
    return [
        _row(world, name, seed, load, yardstick.run(_made(name)(seed), world, seed, load), oracle)
        for name in strategies
    ]


def _made(name: str) -> Callable[[int], Any]:
    return Reference if name == REFERENCE else partial(Product, name)


def _row(world: str, name: str, seed: int, load: float, got: Any, oracle: Any) -> Row:
    return Row(
        world=world,
        strategy=name,
        seed=seed,
        load=load,
        mean_s=got.mean_s,
        oracle_s=oracle.mean_s,
        over_oracle_pct=_above([got.mean_s], [oracle.mean_s]),
        first300_s=got.first300_s,
        oracle_first300_s=oracle.first300_s,
        first300_pct=_above([got.first300_s], [oracle.first300_s]),
        last_third_s=got.last_third_s,
        oracle_last_third_s=oracle.last_third_s,
        last_third_pct=_above([got.last_third_s], [oracle.last_third_s]),
        attempts_per_task=got.attempts_per_task,
    )


def _above(ours_s: list[float], oracle_s: list[float]) -> float:
    return 100 * (fmean(ours_s) / fmean(oracle_s) - 1)


def _table(rows: list[Row]) -> Table:
    """Return the means over seeds, formed as the yardstick's `judge` does, with two errors."""
    seeds = len({row.seed for row in rows})
    title = f"load {rows[0].load:g}, {seeds} seeds; % above the oracle, +- two standard errors"
    table = Table(title=title, title_justify="left")
    table.add_column("world", no_wrap=True)
    table.add_column("strategy", no_wrap=True)
    for head in ("mean s", "all %", "+-", "first 300 %", "last third %", "attempts"):
        table.add_column(head, justify="right")
    for (world, name), several in _grouped(rows).items():
        table.add_row(world, name, *_means(several), end_section=name == REFERENCE)
    return table


def _grouped(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each world and strategy, the best first, the reference last."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.world, row.strategy), []).append(row)
    worlds = list(dict.fromkeys(row.world for row in rows))
    order = sorted(
        found,
        key=lambda pair: (
            worlds.index(pair[0]),
            pair[1] == REFERENCE,
            fmean(row.over_oracle_pct for row in found[pair]),
        ),
    )
    return {pair: found[pair] for pair in order}


def _means(rows: list[Row]) -> list[str]:
    first = _above([r.first300_s for r in rows], [r.oracle_first300_s for r in rows])
    last = _above([r.last_third_s for r in rows], [r.oracle_last_third_s for r in rows])
    return [
        f"{fmean(r.mean_s for r in rows):.0f}",
        f"{fmean(r.over_oracle_pct for r in rows):.1f}",
        f"{_error(rows):.1f}",
        f"{first:.1f}",
        f"{last:.1f}",
        f"{fmean(r.attempts_per_task for r in rows):.2f}",
    ]


def _error(rows: list[Row]) -> float:
    """Return two standard errors of the mean over seeds."""
    several = [row.over_oracle_pct for row in rows]
    return 2 * stdev(several) / math.sqrt(len(several)) if len(several) > 1 else 0.0


def _picture(rows: list[Row]) -> str:
    """Return the table as bars with their errors, one block a world."""
    groups = _grouped(rows)
    most = max(fmean(r.over_oracle_pct for r in several) for several in groups.values()) * 1.1
    width, left, height = 860, 250, 22
    lines, world = [], ""
    for n, ((at, name), several) in enumerate(groups.items()):
        mean, error, y = fmean(r.over_oracle_pct for r in several), _error(several), 30 + n * height
        scale = (width - left - 60) / max(most, 1)
        end = left + max(0.0, mean) * scale
        if at != world:
            lines.append(f'<text x="8" y="{y + 14}" font-weight="bold">{at}</text>')
            world = at
        fill = "#0f766e" if name == "learnt" else "#94a3b8"
        lines.append(
            f'<text x="{left - 8}" y="{y + 14}" text-anchor="end">{name}</text>'
            f'<rect x="{left}" y="{y + 3}" width="{end - left:.1f}" height="14" fill="{fill}"/>'
            f'<line x1="{end - error * scale:.1f}" x2="{end + error * scale:.1f}" y1="{y + 10}"'
            f' y2="{y + 10}" stroke="#0f172a"/>'
            f'<text x="{end + error * scale + 6:.1f}" y="{y + 14}">{mean:.1f} %</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {40 + len(groups) * height}"'
        ' font-family="sans-serif" font-size="12" fill="#0f172a"><rect width="100%" height="100%"'
        ' fill="#fff"/><text x="8" y="18">Mean time to success above the oracle, %, with two'
        " standard errors</text>" + "".join(lines) + "</svg>\n"
    )


def _report(rows: list[Row]) -> dict[str, object]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "balancing",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
