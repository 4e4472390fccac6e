"""Words: find them, count them, shorten a text to them, capitalise them."""

import re
from collections import Counter

# Letters and digits of any script; an apostrophe between letters belongs to the word.
WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words(text: str) -> list[str]:
    """Return the words of a text in their order, without punctuation."""
    return WORD.findall(text)


def word_counts(text: str) -> dict[str, int]:
    """Return how often each word occurs, regardless of case; the most frequent first."""
    return dict(Counter(word.casefold() for word in words(text)).most_common())


def truncate(text: str, *, limit: int, ellipsis: str = "…") -> str:
    """Return the text, shortened to a limit of characters and marked with an ellipsis."""
    if len(text) <= limit:
        return text
    return text[:limit].rstrip() + ellipsis


def initials(name: str) -> str:
    """Return the first letter of each word as capitals: "Ada King" > "AK"."""
    return "".join(word[0].upper() for word in words(name))


def title_case(text: str) -> str:
    """Return the text with each word capitalised, as in a heading."""
    return text.title()
