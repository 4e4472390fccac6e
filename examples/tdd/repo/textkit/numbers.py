"""Numbers as people write them: ordinals, thousands, Roman numerals."""

ROMAN = (
    (1000, "M"),
    (900, "CM"),
    (500, "D"),
    (400, "CD"),
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)


def ordinal(number: int) -> str:
    """Return a number with its English suffix: 1 > "1st", 2 > "2nd"."""
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(abs(number) % 10, "th")
    return f"{number}{suffix}"


def to_roman(number: int) -> str:
    """
    Return a number from 1 to 3999 as a Roman numeral.

    Raises: ValueError, the number has no Roman numeral.
    """
    if not 1 <= number <= 3999:
        raise ValueError(f"Roman numerals go from 1 to 3999, got {number}")
    parts = []
    for value, numeral in ROMAN:
        times, number = divmod(number, value)
        parts.append(numeral * times)
    return "".join(parts)


def thousands(number: int, *, separator: str = ",") -> str:
    """Return a whole number with its digits in groups of three: 1234567 > "1,234,567"."""
    digits = str(number)
    groups: list[str] = []
    while digits:
        groups.insert(0, digits[-3:])
        digits = digits[:-3]
    return separator.join(groups)
