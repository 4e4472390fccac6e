"""Tables in plain text: aligned columns and Markdown."""

from collections.abc import Sequence

Row = Sequence[object]


def columns(rows: Sequence[Row], *, gap: str = "  ") -> str:
    """Return the rows as lines with aligned columns; numbers stand to the right."""
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    lines = []
    for row, texts in zip(rows, cells, strict=True):
        padded = [
            _pad(text, width=width, right=isinstance(value, int | float))
            for value, text, width in zip(row, texts, widths, strict=True)
        ]
        lines.append(gap.join(padded).rstrip())
    return "\n".join(lines)


def _pad(text: str, *, width: int, right: bool) -> str:
    return text.rjust(width) if right else text.ljust(width)


def markdown(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Return a Markdown table; a pipe inside a cell is escaped."""
    lines = [list(header), ["---"] * len(header), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )
