"""
What each scaling policy costs on traces, against a clairvoyant and against tuned rivals.

    .venv/bin/python bench/scaling.py TRACE.csv … [--part NAME …] [--json FILE]

Parts: `shipped` (every policy as it ships), `tuned` (each rival's knob found in hindsight: the
cheapest setting with at most 1 % of the requests over the SLO, for each trace, and the one setting
that reaches it on all of them), `fast` (start-up of 10 s), `slow` (of 300 s), `holdout` (made
traces, and the given ones changed, that nothing was chosen on), `holdout_warm` (a tuned rival on
them), `chosen` (those that constants were chosen on), `storms` (random and recurring ones),
`speed` (a week, one decision with a year of history), `erlang` (M/M/c). Without --part: all up to
`slow`, `speed` and `erlang`.

Told are agent-hours over the clairvoyant's, and % of the requests over the SLO, after a warm-up of
7 days. Start-up 60 s, tick 30 s, SLO 30 s.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import hindsight  # noqa: E402
import holdouts  # noqa: E402

from scaling import decisions, policies, report, simulation, sizing, traces  # noqa: E402
from scaling.clairvoyant import clairvoyant  # noqa: E402
from scaling.decisions import PoolState  # noqa: E402
from scaling.demand import Demand  # noqa: E402
from scaling.history import History  # noqa: E402
from scaling.policies import Rule  # noqa: E402
from scaling.traces import DAY_S, Job, Shape, Trace  # noqa: E402

WARMUP_S = 7 * DAY_S
LATE_PCT = 1.0
SHIPPED = ("predictive", "warm", "utilization", "queue", "classic", "classic:as_written=1")
# A rival's knob: how it is written, and the settings between which it is looked for, cheapest
# first (ten agents for each that works is where it ends). Whole agents for warm.
KNOBS: dict[str, tuple[str, Sequence[float]]] = {
    "warm": ("warm:k={:g}", (0, 60)),
    "queue": ("queue:target_per_agent={:g}", (1.0, 0.1)),
    "utilization": ("utilization:target_utilization={:g}", (1.0, 0.1)),
}
STEPS = 9
RIVALS = tuple(KNOBS)
Found = TypeVar("Found")
# Parts that make their own traces.
MADE = ("chosen", "storms", "erlang")
SELDOM = ("holdout", "holdout_warm", "chosen", "storms")


@dataclass(frozen=True)
class Measured:
    """One policy on one trace; `part` says which question it answers."""

    part: str
    trace: str
    policy: str
    agent_hours: float
    clairvoyant_hours: float
    ratio: float
    over_slo_pct: float
    wait_mean_s: float
    wait_p99_s: float
    utilization: float
    launches_per_day: float
    actions_per_day: float
    seconds: float

    @property
    def is_reached(self) -> bool:
        """Whether at most the allowed share was late."""
        return self.over_slo_pct <= LATE_PCT


def main() -> int:
    """Measure what was asked for, print tables, write JSON; return the exit code."""
    options = _options()
    given = [_read(path) for path in options.traces]
    rows: list[Measured] = []
    figures: dict[str, Any] = {}
    for part in options.part or [name for name in PARTS if name not in SELDOM]:
        PARTS[part](given, rows, figures)
    print(json.dumps(figures, indent=2))
    if options.json:
        options.json.write_text(json.dumps(_result(rows, figures), indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("traces", nargs="*", type=Path, help="CSV files: arrival_s, duration_s")
    parser.add_argument("--part", action="append", choices=list(PARTS), help="once or often")
    parser.add_argument("--json", type=Path, help="write rows and figures here")
    options = parser.parse_args()
    if not options.traces and not set(options.part or PARTS) <= set(MADE):
        parser.error(f"name at least one trace; only these parts make their own: {', '.join(MADE)}")
    return options


def _read(path: Path) -> Trace:
    with path.open(encoding="utf-8", newline="") as file:
        return traces.read(file, name=path.stem)


def measure(part: str, trace: Trace, text: str, **common: float) -> Measured:
    """Replay one trace under one policy."""
    policy = policies.parse(text, **common)
    began = time.perf_counter()
    done = simulation.replay(trace, policy=policy, warmup_s=WARMUP_S)
    seconds = time.perf_counter() - began
    best = clairvoyant(trace, startup_s=policy.startup_s, slo_s=policy.slo_s, warmup_s=WARMUP_S)
    row = asdict(report.row(done, policy=text, best=best))
    kept = {name: row[name] for name in Measured.__dataclass_fields__ if name in row}
    return Measured(part=part, seconds=seconds, **kept)


# -- parts -----------------------------------------------------------------------------------------


def shipped(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """Every policy with its own defaults."""
    found = [measure("shipped", trace, text) for text in SHIPPED for trace in given]
    rows.extend(found)
    _print("As shipped", found)
    ours = [row for row in found if row.policy == "predictive"]
    figures["predictive"] = {row.trace: [row.ratio, row.over_slo_pct] for row in ours}
    figures["predictive_geometric_mean"] = _geometric(row.ratio for row in ours)


def tuned(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """The rivals' knobs in hindsight, for each trace and one for all; needs `shipped`."""
    ours = {row.trace: row for row in rows if row.part == "shipped" and row.policy == "predictive"}
    if not ours:
        shipped(given, rows, figures)
        ours = {r.trace: r for r in rows if r.part == "shipped" and r.policy == "predictive"}
    mean = _geometric(row.ratio for row in ours.values())
    for rival in RIVALS:
        settings = {trace.name: _hindsight(rival, trace) for trace in given}
        best = [row for _, row in settings.values()]
        # The one setting that does on every trace is the most careful of them.
        careful = min if rival != "warm" else max
        knob = careful(knob for knob, _ in settings.values())
        text = KNOBS[rival][0].format(knob)
        one = [measure("one setting", trace, text) for trace in given]
        rows.extend([*best, *one])
        _print(f"{rival}: tuned for each trace; then one setting for all", [*best, *one])
        figures[f"below_{rival}_tuned"] = 1 - mean / _geometric(row.ratio for row in best)
        figures[f"below_{rival}_one_setting"] = 1 - mean / _geometric(row.ratio for row in one)
        figures[f"{rival}_reached"] = {row.trace: row.is_reached for row in best}
        figures[f"over_{rival}_tuned"] = {
            row.trace: ours[row.trace].ratio / row.ratio - 1 for row in best
        }


def _hindsight(rival: str, trace: Trace) -> tuple[float, Measured]:
    """Return the cheapest setting that reaches the SLO (else the most careful), and its row."""
    form, bounds = KNOBS[rival]
    rows: dict[float, Measured] = {}

    def late_of(knob: float) -> float:
        rows[knob] = measure("tuned", trace, form.format(knob))
        return rows[knob].over_slo_pct / 100

    aim = LATE_PCT / 100
    if rival == "warm":
        knob: float = hindsight.whole(late_of, most=int(bounds[-1]), aim=aim)
    else:
        cheap, careful = bounds
        knob = hindsight.bisected(late_of, cheap=cheap, careful=careful, steps=STEPS, aim=aim)
    return knob, rows[knob]


def fast(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """A start-up of ten seconds, as a warm standby has it."""
    _startup(given, rows, figures, "startup_10", 10.0)


def slow(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """A start-up of five minutes."""
    _startup(given, rows, figures, "startup_300", 300.0)


def _startup(
    given: Sequence[Trace],
    rows: list[Measured],
    figures: dict[str, Any],
    part: str,
    startup_s: float,
) -> None:
    found = [measure(part, trace, "predictive", startup_s=startup_s) for trace in given]
    rows.extend(found)
    _print(f"Start-up {startup_s:g} s", found)
    figures[part] = {row.trace: [row.ratio, row.over_slo_pct] for row in found}


def holdout(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """Traces that nothing was chosen on."""
    half = holdouts.REPORT
    _family("holdout", [*holdouts.changed(given, half), *holdouts.made(half)], rows, figures)


def holdout_warm(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """The strongest rival on the hold-outs, tuned in hindsight for each; needs `holdout`."""
    ours = {row.trace: row for row in rows if row.part == "holdout"}
    if not ours:
        holdout(given, rows, figures)
        ours = {row.trace: row for row in rows if row.part == "holdout"}
    half = holdouts.REPORT
    family = [*holdouts.changed(given, half), *holdouts.made(half)]
    found = [row for _, row in _each(_warm_tuned, family)]
    rows.extend(found)
    _print("Hold-out: warm tuned in hindsight", found)
    figures["holdout_below_warm_tuned"] = 1 - _geometric(
        ours[warm.trace].ratio / warm.ratio for warm in found
    )


def chosen(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """Such traces as the constants were chosen on."""
    half = holdouts.CHOOSE
    _family("chosen", [*holdouts.changed(given, half), *holdouts.made(half)], rows, figures)


def storms(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """Made traces with storms that nothing was chosen on."""
    _family("storms", list(holdouts.stormy(holdouts.REPORT)), rows, figures)


def _family(
    part: str, family: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]
) -> None:
    found = _each(partial(_predictive, part), family)
    rows.extend(found)
    _print(f"{part}: predictive as shipped", found)
    late = [row.over_slo_pct for row in found]
    figures[part] = {
        "traces": len(found),
        "geometric_mean": _geometric(row.ratio for row in found),
        "late_mean": float(np.mean(late)),
        "late_most": max(late),
        "above_the_slo": {row.trace: row.over_slo_pct for row in found if not row.is_reached},
    }


def _predictive(part: str, trace: Trace) -> Measured:
    return measure(part, trace, "predictive")


def _warm_tuned(trace: Trace) -> tuple[float, Measured]:
    return _hindsight("warm", trace)


def _each(do: Callable[[Trace], Found], family: Sequence[Trace]) -> list[Found]:
    """Return what comes of each trace, in their order; by as many processes as there are cores."""
    longest_first = sorted(range(len(family)), key=lambda n: -len(family[n].jobs))
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        running = {n: workers.submit(do, family[n]) for n in longest_first}
        return [running[n].result() for n in range(len(family))]


def speed(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """How long a week takes for each trace, and one decision after a year."""
    seconds = {}
    for trace in given:
        week = traces.made(trace.name, [job for job in trace.jobs if job.arrival_s < WARMUP_S])
        began = time.perf_counter()
        simulation.replay(week, policy=policies.parse("predictive"), warmup_s=0)
        seconds[trace.name] = time.perf_counter() - began
    figures["week_s"] = seconds
    figures.update(_year())


def _year() -> dict[str, float]:
    """Return what one live decision costs after a year: read the state, decide, store it."""
    policy = policies.usual(Rule.PREDICTIVE)
    demand = simulation.demand_for(policy)
    for job in traces.synthetic(name="year", shape=Shape(days=365, busy=2), seed=1).jobs:
        demand.arrived(job.arrival_s)
        demand.began(job.arrival_s)
        demand.judged(at=job.arrival_s, arrived_at=job.arrival_s, is_late=False)
        demand.ended(job.arrival_s, began_at=job.arrival_s)
    text, now, took = json.dumps(demand.state()), 365 * DAY_S, []
    for second in range(50):
        began = time.perf_counter()
        live = Demand.restored(json.loads(text))
        live.arrived(now + 30 * second)
        decisions.decide(
            policy=policy,
            pool=PoolState(30, 20, 2, 1),
            demand=live,
            history=History(),
            now=now + 30 * second,
        )
        live.predict(now + 30 * second)
        text = json.dumps(live.state())
        took.append(1000 * (time.perf_counter() - began))
    return {
        "decision_p50_ms": float(np.median(took)),
        "decision_max_ms": max(took),
        "state_kb": len(text) / 1024,
    }


def erlang(given: Sequence[Trace], rows: list[Measured], figures: dict[str, Any]) -> None:
    """The simulator's mean wait in M/M/2 at half load against Erlang's formula."""
    random, slots, rate, service_s, count = np.random.default_rng(5), 2, 0.01, 100.0, 1_000_000
    at = np.cumsum(random.exponential(1 / rate, count)).tolist()
    lasts = random.exponential(service_s, count).tolist()
    policy = policies.parse(f"static:size={slots},min_size={slots},tick_s=1e9,startup_s=0")
    done = simulation.replay(traces.made("m/m/2", map(Job, at, lasts)), policy=policy, warmup_s=0)
    expected = sizing.erlang_c_wait_s(slots=slots, rate=rate, service_s=service_s)
    figures["erlang_c"] = {
        "jobs": count,
        "simulated_s": float(done.waits_s.mean()),
        "formula_s": expected,
        "off": float(done.waits_s.mean()) / expected - 1,
    }


PARTS: dict[str, Callable[[Sequence[Trace], list[Measured], dict[str, Any]], None]] = {
    "shipped": shipped,
    "tuned": tuned,
    "fast": fast,
    "slow": slow,
    "holdout": holdout,
    "holdout_warm": holdout_warm,
    "chosen": chosen,
    "storms": storms,
    "speed": speed,
    "erlang": erlang,
}


# -- results ---------------------------------------------------------------------------------------


def _geometric(ratios: Iterable[float]) -> float:
    return math.exp(float(np.mean([math.log(ratio) for ratio in ratios])))


def _print(title: str, rows: Sequence[Measured]) -> None:
    table = Table(title=title, title_justify="left")
    for name in ("trace", "policy"):
        table.add_column(name)
    for name in ("agent-h", "x best", "% late", "mean s", "p99 s", "launches/d", "actions/d", "s"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.trace,
            row.policy,
            f"{row.agent_hours:,.1f}",
            f"{row.ratio:.3f}",
            f"{row.over_slo_pct:.2f}",
            f"{row.wait_mean_s:.2f}",
            f"{row.wait_p99_s:.1f}",
            f"{row.launches_per_day:.0f}",
            f"{row.actions_per_day:.0f}",
            f"{row.seconds:.1f}",
        )
    console = Console()
    (console if console.is_terminal else Console(width=140)).print(table)


def _result(rows: Sequence[Measured], figures: dict[str, Any]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True
    )
    return {
        "bench": "scaling",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}",
        "figures": figures,
        "rows": [asdict(row) for row in rows],
    }


if __name__ == "__main__":
    sys.exit(main())
