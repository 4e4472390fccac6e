"""Draws replays: demand, sizes, and who waits, below each other on one axis of time."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from scaling.simulation import Replay
from scaling.sizing import Floats
from scaling.traces import DAY_S, Trace

mpl.use("Agg")
from matplotlib import pyplot as plt

INCHES_WIDE, INCHES_HIGH = 12, 3
POINTS = 4000


def draw(path: Path, *, trace: Trace, replays: Mapping[str, Replay]) -> None:
    """Save one picture (PNG by the name's end): arrivals on top, then a panel a policy."""
    figure, panels = plt.subplots(
        1 + len(replays),
        1,
        sharex=True,
        squeeze=False,
        figsize=(INCHES_WIDE, INCHES_HIGH * (1 + len(replays))),
    )
    _arrivals(panels[0, 0], trace)
    for panel, (text, replay) in zip(panels[1:, 0], replays.items(), strict=True):
        _sizes(panel, text, replay)
    panels[-1, 0].set_xlabel("days from the start")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _arrivals(panel: Axes, trace: Trace) -> None:
    at = np.array([job.arrival_s for job in trace.jobs]) / DAY_S
    counts, edges = np.histogram(at, bins=max(24, int(trace.span_s / 3600)))
    panel.stairs(counts, edges, fill=True, color="#9db4c0")
    panel.set_ylabel("arrivals an hour")
    panel.set_title(trace.name, loc="left")


def _sizes(panel: Axes, text: str, replay: Replay) -> None:
    times = np.array([change.t_s for change in replay.timeline]) / DAY_S
    for name, colour in (("paid", "#253237"), ("busy", "#5c9ead"), ("waiting", "#c0392b")):
        values = np.array([getattr(change, name) for change in replay.timeline])
        panel.plot(*_envelope(times, values), label=name, color=colour, linewidth=0.8)
    panel.axvline(replay.warmup_s / DAY_S, color="#888888", linestyle=":", linewidth=1)
    panel.set_ylabel("agents, jobs")
    panel.set_title(text, loc="left")
    panel.legend(loc="upper left", ncols=3, frameon=False)


def _envelope(times: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Thin a long step line, keeping each piece's highest value: a storm must stay visible."""
    if len(times) <= POINTS:
        return times, values
    pieces = np.array_split(np.arange(len(times)), POINTS)
    kept = np.array([piece[np.argmax(values[piece])] for piece in pieces])
    return times[kept], values[kept]
