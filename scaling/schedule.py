"""
Says which bounds a calendar sets: from each moment that a cron line names, for so long.

Pure. Times are seconds since the epoch (a trace without a date begins at 0, a Thursday, UTC).
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import croniter


class WindowInvalid(Exception):
    """A window of a schedule cannot be read."""


@dataclass(frozen=True)
class Window:
    """
    From each moment that `cron` names, for `for_s` seconds, at least `min_size` agents.

    max_size: None, the policy's own. zone: where the cron line's hours are meant.
    """

    cron: str
    for_s: float
    min_size: int
    max_size: int | None = None
    zone: str = "UTC"

    def __post_init__(self) -> None:
        if not croniter.is_valid(self.cron):
            raise WindowInvalid(f"{self.cron!r} is no cron line")
        if not self.for_s > 0:
            raise WindowInvalid("a window lasts longer than 0 s")
        if self.min_size < 0 or (self.max_size is not None and self.max_size < self.min_size):
            raise WindowInvalid("0 <= min_size <= max_size")
        try:
            ZoneInfo(self.zone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise WindowInvalid(f"there is no time zone {self.zone!r}") from error

    def is_open(self, now: float) -> bool:
        """Return whether the newest moment of the cron line is less than `for_s` ago."""
        # A moment is a whole second. A step ahead of this one: get_prev returns what lies strictly
        # before, and now itself counts; a step ahead of now could be beyond the next moment.
        here = datetime.fromtimestamp(math.floor(now), UTC).astimezone(ZoneInfo(self.zone))
        began = croniter(self.cron, here + timedelta(seconds=1)).get_prev(datetime)
        # Not `here - began`: that is what clocks show, and they are changed twice a year. An hour
        # that comes twice (fold) has its moments twice.
        moments = (began.replace(fold=fold).timestamp() for fold in (0, 1))
        return bool(now - max(at for at in moments if at <= now) < self.for_s)


def parse_window(text: str) -> Window:
    """
    Read `CRON/FOR_S/MIN[/MAX[/ZONE]]`, blanks of the cron line written as `_`.

    Raises: WindowInvalid.
    """
    tokens = text.strip().replace(" ", "_").split("/")
    cron = tokens.pop(0)
    # A step such as */5 has the sign of the separator: the cron line ends at its fifth field.
    while len(cron.split("_")) < 5 and tokens:
        cron = f"{cron}/{tokens.pop(0)}"
    if len(tokens) < 2:
        raise WindowInvalid("write CRON/FOR_S/MIN[/MAX[/ZONE]]")
    for_s, least, most, *zone = [*tokens, ""]
    try:
        return Window(
            cron=cron.replace("_", " "),
            for_s=float(for_s),
            min_size=int(least),
            max_size=int(most) if most else None,
            zone="/".join(zone).rstrip("/") or "UTC",
        )
    except ValueError as error:
        raise WindowInvalid(str(error)) from error


def bounds(
    windows: tuple[Window, ...], *, min_size: int, max_size: int, now: float
) -> tuple[int, int]:
    """Return (min, max) at a moment: the largest of the open minima, the smallest of the maxima."""
    for window in windows:
        if window.is_open(now):
            min_size = max(min_size, window.min_size)
            if window.max_size is not None:
                max_size = min(max_size, window.max_size)
    return min(min_size, max_size), max_size
