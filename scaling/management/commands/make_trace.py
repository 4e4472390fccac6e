"""`manage.py make_trace`: write a synthetic trace, to try policies on."""

import argparse
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from scaling import traces
from scaling.traces import Shape, TraceInvalid

ABOUT = {
    "days": "how long it is",
    "busy": "mean busy agents",
    "daily": "how far nights lie below the mean, 0 to 1",
    "weekend": "how far weekends lie below the mean, 0 to 1",
    "bursts": "how uneven the rate is, as its variance; 0: not at all",
    "storms_per_week": "batches that arrive nearly at once",
    "storm_jobs": "jobs of such a batch",
    "storm_s": "seconds in which a batch arrives",
    "level_shift": "the second half's rate over the first's",
    "on_off_h": "hours of work, then as many of silence; 0: never silent",
    "mean_s": "mean service time",
    "tail": "spread of the service time (sigma of its logarithm)",
}


def target(text: str) -> Path:
    """Return the path of a file to write; refuses one whose folder is not there."""
    if not (path := Path(text)).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}")
    return path


class Command(BaseCommand):
    help = "Write a synthetic trace: seeded; daily and weekly season, bursts, batch storms."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("file", nargs="?", type=target, help="where to; without it: to stdout")
        parser.add_argument("--seed", type=int, default=1, help="the same seed, the same trace")
        for each in fields(Shape):
            if each.name == "kinds" or each.default is MISSING:
                continue
            parser.add_argument(
                f"--{each.name.replace('_', '-')}",
                type=float,
                default=each.default,
                help=f"{ABOUT[each.name]} (default {each.default:g})",
            )
        parser.add_argument(
            "--kinds", default="code,qa,design,data", help="agent types, each half the one before"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the trace and say what it holds."""
        told = {each.name: options[each.name] for each in fields(Shape)}
        told["kinds"] = tuple(filter(None, options["kinds"].split(",")))
        path: Path | None = options["file"]
        try:
            shape = Shape(**told)
            name = path.stem if path else "synthetic"
            trace = traces.synthetic(name=name, shape=shape, seed=options["seed"])
        except (TraceInvalid, ValueError) as error:
            raise CommandError(str(error)) from error
        if path is None:
            traces.write(trace, sys.stdout)
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            traces.write(trace, file)
        self.stdout.write(
            f"{path}: {len(trace.jobs):,} jobs in {trace.span_s / traces.DAY_S:.1f} days, "
            f"{trace.work_s / max(trace.span_s, 1):.2f} busy agents on average."
        )
