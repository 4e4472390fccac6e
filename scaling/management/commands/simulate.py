"""`manage.py simulate`: replay a trace through scaling policies, and compare them."""

import json
from argparse import RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from scaling import policies, queries, report, simulation, traces
from scaling.clairvoyant import clairvoyant
from scaling.management.commands.make_trace import target
from scaling.policies import Policy
from scaling.report import Row
from scaling.simulation import Replay
from scaling.traces import DAY_S, Trace

COMPARED = ("predictive", "warm:k=3", "utilization", "queue", "classic")
WIDE = 140
EXAMPLES = """
examples:
  manage.py simulate trace.csv
  manage.py simulate trace.csv --policy predictive --policy warm:k=4,min_size=2 --plot size.png
  manage.py simulate --recorded 7d --kind code --warmup-days 1
"""


class Command(BaseCommand):
    help = "Replay a trace, or what was recorded here, through scaling policies; compare them."

    def create_parser(self, prog_name: str, subcommand: str, **kwargs: Any) -> CommandParser:
        """Return the parser, with examples below the help."""
        return super().create_parser(
            prog_name,
            subcommand,
            formatter_class=RawDescriptionHelpFormatter,
            epilog=EXAMPLES,
            **kwargs,
        )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("trace", nargs="?", type=Path, help="CSV: arrival_s, duration_s, kind")
        parser.add_argument("--recorded", metavar="7d", help="what this installation served lately")
        parser.add_argument("--kind", help="only jobs of this agent type; else all together")
        parser.add_argument(
            "--policy",
            action="append",
            metavar="NAME[:k=v,…]",
            help=f"repeatable; without it: {', '.join(COMPARED)}",
        )
        parser.add_argument(
            "--startup-s",
            type=float,
            default=60.0,
            help="seconds from launch to ready (default %(default)g)",
        )
        parser.add_argument(
            "--tick-s",
            type=float,
            default=30.0,
            help="most seconds between decisions (default %(default)g)",
        )
        parser.add_argument(
            "--slo-s",
            type=float,
            default=30.0,
            help="a longer wait, in seconds, is too late (default %(default)g)",
        )
        parser.add_argument(
            "--warmup-days",
            type=float,
            default=7.0,
            help="first days, not scored (default %(default)g)",
        )
        parser.add_argument("--json", type=target, metavar="FILE", help="write the rows as JSON")
        parser.add_argument(
            "--timeline",
            type=target,
            metavar="FILE",
            help="write sizes and queue as CSV, per change",
        )
        parser.add_argument(
            "--plot", type=target, metavar="FILE", help="draw sizes and queue as PNG"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Replay, print a table, write what was asked for."""
        trace = _trace(options)
        chosen = _policies(options)
        is_recorded = bool(options["timeline"] or options["plot"])
        replays = _replay(trace, chosen, options["warmup_days"] * DAY_S, is_recorded)
        rows = _rows(trace, replays, options)
        console = Console()
        # A pipe or a log is as wide as the table asks for.
        console = console if console.is_terminal else Console(width=WIDE)
        console.print(_table(rows))
        if options["json"]:
            text = json.dumps(report.as_json(rows), indent=2)
            options["json"].write_text(text + "\n", encoding="utf-8")
        if options["timeline"]:
            _write_timelines(options["timeline"], replays)
        if options["plot"]:
            _plot(options["plot"], trace, replays)


def _trace(options: dict[str, Any]) -> Trace:
    if (options["trace"] is None) == (options["recorded"] is None):
        raise CommandError("Give either a trace or --recorded.")
    try:
        if options["recorded"]:
            return queries.recorded(
                over_s=_seconds(options["recorded"]), agent_type=options["kind"] or ""
            )
        path: Path = options["trace"]
        with path.open(encoding="utf-8", newline="") as file:
            trace = traces.read(file, name=path.stem)
        return trace.only(options["kind"]) if options["kind"] else trace
    except (OSError, traces.TraceInvalid, UnicodeDecodeError) as error:
        raise CommandError(str(error)) from error


def _seconds(text: str) -> float:
    """Return `7d`, `12h`, `30m` or `90s` in seconds."""
    units = {"d": DAY_S, "h": 3600.0, "m": 60.0, "s": 1.0}
    try:
        seconds = float(text[:-1]) * units[text[-1]]
    except (ValueError, KeyError, IndexError) as error:
        raise CommandError(f"--recorded {text!r}: write 7d, 12h, 30m or 90s.") from error
    if not seconds > 0:
        raise CommandError(f"--recorded {text!r}: must be above 0.")
    return seconds


def _policies(options: dict[str, Any]) -> dict[str, Policy]:
    common = {name: options[name] for name in ("startup_s", "tick_s", "slo_s")}
    try:
        texts = options["policy"] or COMPARED
        return {text: policies.parse(text, **common) for text in texts}
    except policies.PolicyInvalid as error:
        raise CommandError(str(error)) from error


def _replay(
    trace: Trace, chosen: dict[str, Policy], warmup_s: float, is_recorded: bool
) -> dict[str, Replay]:
    replays = {}
    bar = Progress(
        TextColumn("{task.description:30.30}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        for text, policy in chosen.items():
            task = bar.add_task(text, total=1.0)
            replays[text] = simulation.replay(
                trace,
                policy=policy,
                warmup_s=warmup_s,
                is_recorded=is_recorded,
                progress=lambda share, task=task: bar.update(task, completed=share),  # type: ignore[misc]
            )
            bar.update(task, completed=1.0)
    return replays


def _rows(trace: Trace, replays: dict[str, Replay], options: dict[str, Any]) -> list[Row]:
    best = clairvoyant(
        trace,
        startup_s=options["startup_s"],
        slo_s=options["slo_s"],
        warmup_s=options["warmup_days"] * DAY_S,
    )
    try:
        return [report.row(replay, policy=text, best=best) for text, replay in replays.items()]
    except report.NothingScored as error:
        raise CommandError(f"{error}; try a smaller --warmup-days.") from error


def _table(rows: Sequence[Row]) -> Table:
    first = rows[0]
    table = Table(
        title=f"{first.trace}: {first.requests:,} requests; clairvoyant "
        f"{first.clairvoyant_hours:,.1f} agent-hours (never below "
        f"{first.clairvoyant_lower_hours:,.1f})",
        title_justify="left",
    )
    table.add_column("policy", overflow="fold")
    for name in ("agent-h", "x best", "% late", "mean s", "p95 s", "p99 s", "busy", "launches/d"):
        table.add_column(name, justify="right")
    table.add_column("actions/d", justify="right")
    has_standby = any(row.standby_hit_pct is not None for row in rows)
    if has_standby:
        table.add_column("standby hits", justify="right")
    for row in rows:
        table.add_row(
            row.policy,
            f"{row.agent_hours:,.1f}",
            f"{row.ratio:.3f}",
            f"{row.over_slo_pct:.2f}",
            f"{row.wait_mean_s:.2f}",
            f"{row.wait_p95_s:.1f}",
            f"{row.wait_p99_s:.1f}",
            f"{row.utilization:.0%}",
            f"{row.launches_per_day:.0f}",
            f"{row.actions_per_day:.0f}",
            *([_share(row.standby_hit_pct)] if has_standby else []),
        )
    return table


def _share(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.0f}%"


def _write_timelines(path: Path, replays: dict[str, Replay]) -> None:
    """Write one file, or with several policies one each: FILE-2.csv and so on."""
    for number, replay in enumerate(replays.values(), start=1):
        target = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        with target.open("w", encoding="utf-8", newline="") as file:
            report.write_timeline(replay.timeline, file)


def _plot(path: Path, trace: Trace, replays: dict[str, Replay]) -> None:
    try:
        from scaling import plots
    except ImportError as error:
        raise CommandError("--plot needs matplotlib: pip install 'agentpool[plot]'.") from error
    plots.draw(path, trace=trace, replays=replays)
