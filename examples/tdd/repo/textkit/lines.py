"""Lines: wrap a text to a width, indent it, number it."""


def wrap(text: str, *, width: int) -> list[str]:
    """
    Return the text as lines of at most `width` characters, broken between words.

    Raises: ValueError, the width is below 1.
    """
    if width < 1:
        raise ValueError(f"width must be at least 1, got {width}")
    lines: list[str] = []
    current = ""
    for word in text.split():
        joined = f"{current} {word}" if current else word
        if len(joined) <= width or not current:
            current = joined
        else:
            lines.append(current)
            current = word
    return [*lines, current] if current else lines


def indent(text: str, *, prefix: str = "    ") -> str:
    """Return the text with a prefix before each line that is not blank."""
    return "\n".join(prefix + line if line.strip() else line for line in text.split("\n"))


def number_lines(text: str, *, start: int = 1) -> str:
    """Return the text with right-aligned line numbers before each line."""
    lines = text.split("\n")
    width = len(str(start + len(lines) - 1))
    return "\n".join(f"{number:>{width}}  {line}" for number, line in enumerate(lines, start))
