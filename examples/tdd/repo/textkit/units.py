"""Units: sizes in bytes and durations in seconds, from and to text."""

import re

BYTE_UNITS = ("B", "KB", "MB", "GB", "TB", "PB")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def human_bytes(count: int) -> str:
    """Return a size with one decimal in the largest unit that fits: 1536 > "1.5 KB"."""
    size = float(count)
    unit = 0
    while size >= 1024 and unit < len(BYTE_UNITS) - 1:
        size /= 1024
        unit += 1
    if unit == 0:
        return f"{count} B"
    return f"{size:.1f} {BYTE_UNITS[unit]}"


def parse_bytes(text: str) -> int:
    """
    Return the number of bytes of a size such as "1.5 MB".

    Raises: ValueError, not a size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGTP]?B)\s*", text.upper())
    if match is None:
        raise ValueError(f"not a size: {text!r}")
    factor: int = 1024 ** BYTE_UNITS.index(match[2])
    return round(float(match[1]) * factor)


def format_duration(seconds: int) -> str:
    """Return a duration by its two largest units: 3725 > "1h 2m"."""
    parts = []
    for unit, length in sorted(SECONDS.items(), key=lambda item: -item[1]):
        times, seconds = divmod(seconds, length)
        if times:
            parts.append(f"{times}{unit}")
    return " ".join(parts[:2]) or "0s"


def parse_duration(text: str) -> int:
    """
    Return the seconds of a duration such as "90s" or "5m".

    Raises: ValueError, not a duration.
    """
    match = re.fullmatch(r"\s*(\d+)\s*([smhd])\s*", text.lower())
    if match is None:
        raise ValueError(f"not a duration: {text!r}")
    return int(match[1]) * SECONDS[match[2]]
