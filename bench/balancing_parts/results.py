"""What came of the episodes of `bench/balancing.py`: rows, their table, their picture."""

import math
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import balancing_world as yardstick
from rich.table import Table

from balancing_parts.players import REFERENCE

# What `learnt` is held against, beside the oracle: the seed's own strategy.
RIVAL = "workload_aware"


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


def row(world: str, name: str, seed: int, load: float, got: Any, oracle: Any) -> Row:
    """Return one episode held against the oracle's; both as the yardstick tells them."""
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


def table(rows: list[Row]) -> Table:
    """Return the means over seeds, formed as the yardstick's `judge` does, with two errors."""
    seeds = len({row.seed for row in rows})
    title = f"load {rows[0].load:g}, {seeds} seeds; % above the oracle, +- two standard errors"
    found = Table(title=title, title_justify="left")
    for head in ("world", "strategy"):
        found.add_column(head, no_wrap=True)
    for head in ("mean s", "all %", "+-", "first 300 %", "last 3rd %", "tries", f"below {RIVAL} %"):
        found.add_column(head, justify="right")
    groups = _grouped(rows)
    for (world, name), several in groups.items():
        below = _below(several, groups.get((world, RIVAL), []))
        found.add_row(world, name, *_means(several), below, end_section=name == REFERENCE)
    return found


def _below(rows: list[Row], rivals: list[Row]) -> str:
    """Return by how much the mean time is below that of the rival on the same seeds, %."""
    if not rivals:
        return "-"
    ours, theirs = (fmean(row.mean_s for row in each) for each in (rows, rivals))
    return f"{100 * (1 - ours / theirs):.1f}"


def _grouped(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Return the rows of each world and strategy, the best first, the reference last."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row.world, row.strategy), []).append(row)
    worlds = list(yardstick.WORLDS)
    order = sorted(
        found,
        key=lambda pair: (
            worlds.index(pair[0]),
            pair[1] == REFERENCE,
            _mean(found[pair]),
        ),
    )
    return {pair: found[pair] for pair in order}


def _means(rows: list[Row]) -> list[str]:
    last = _above([r.last_third_s for r in rows], [r.oracle_last_third_s for r in rows])
    return [
        f"{fmean(r.mean_s for r in rows):.0f}",
        f"{_mean(rows):.1f}",
        f"{_error(rows):.1f}",
        f"{_first(rows):.1f}",
        f"{last:.1f}",
        f"{fmean(r.attempts_per_task for r in rows):.2f}",
    ]


def _error(rows: list[Row]) -> float:
    """Return two standard errors of the mean over seeds."""
    several = [row.over_oracle_pct for row in rows]
    return 2 * stdev(several) / math.sqrt(len(several)) if len(several) > 1 else 0.0


# -- the picture -----------------------------------------------------------------------------------

WIDTH, LEFT, BAR, GAP = 860, 190, 22, 30


def picture(rows: list[Row]) -> str:
    """Return the table as bars with their errors, one block a world, and a dot: the first 300."""
    groups = _grouped(rows)
    most = max(max(_mean(each) + _error(each), _first(each)) for each in groups.values())
    scale, lines, y, world = (WIDTH - LEFT - 70) / max(most, 1), [], 26.0, ""
    for (at, name), several in groups.items():
        if at != world:
            y += GAP
            lines.append(f'<text x="8" y="{y - 4}" font-weight="bold">{at}</text>')
            world = at
        lines.append(_bar(name, several, y, scale))
        y += BAR
    seeds = sorted({row.seed for row in rows})
    title = (
        f"Mean time to success above the oracle, %; seeds {seeds[0]} to {seeds[-1]}, load"
        f" {rows[0].load:g}. Lines: two standard errors. Dots: the first 300 tasks"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 12:.0f}" role="img"'
        f' aria-label="{title}" font-family="sans-serif" font-size="12" fill="#0f172a">'
        f'<rect width="100%" height="100%" fill="#fff"/><text x="8" y="20">{title}</text>\n'
        + "\n".join(lines)
        + "</svg>\n"
    )


def _bar(name: str, rows: list[Row], y: float, scale: float) -> str:
    mean, error, first = _mean(rows), _error(rows), _first(rows)
    end, middle = LEFT + max(0.0, mean) * scale, y + 10
    fill = "#0f766e" if name == "learnt" else "#94a3b8"
    said = max(end + error * scale, LEFT + first * scale) + 8
    return (
        f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{name}</text>'
        f'<rect x="{LEFT}" y="{y + 3}" width="{end - LEFT:.1f}" height="14" fill="{fill}"/>'
        f'<line x1="{end - error * scale:.1f}" x2="{end + error * scale:.1f}" y1="{middle}"'
        f' y2="{middle}" stroke="#0f172a"/>'
        f'<circle cx="{LEFT + first * scale:.1f}" cy="{middle}" r="3" fill="#b45309"/>'
        f'<text x="{said:.1f}" y="{y + 14}">{mean:.1f} %</text>'
    )


def _mean(rows: list[Row]) -> float:
    return fmean(row.over_oracle_pct for row in rows)


def _first(rows: list[Row]) -> float:
    return _above([row.first300_s for row in rows], [row.oracle_first300_s for row in rows])
