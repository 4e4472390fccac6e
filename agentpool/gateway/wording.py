"""How messages are read and written: JSON text, with REST's forms of times and numbers."""

import json
import math
import re
from typing import Any, NoReturn

from rest_framework.utils.encoders import JSONEncoder

from agentpool.registry.errors import Invalid

_encoder = JSONEncoder()
_REQUEST_ID = re.compile(r'"request_id": "([0-9a-f-]{36})"')


def encoded(value: Any) -> str:
    """Return a value as JSON, as REST would write it."""
    if not value and (value == [] or value == {}):
        return "[]" if value == [] else "{}"
    return _encoder.encode(value)


def request_of(lease: str) -> str:
    """Return the id of the request that a lease in JSON is of, without reading it all."""
    found = _REQUEST_ID.search(lease)
    if found is None:
        raise ValueError("A lease names its request.")
    return found[1]


def parsed(text: str | None, *, most_bytes: int) -> dict[str, Any]:
    """
    Return a message.

    Raises: Invalid, it is no JSON object, or too long.
    """
    if text is None:
        raise Invalid("Messages are JSON text.")
    if len(text) > most_bytes:
        raise Invalid(f"A message has at most {most_bytes:,} bytes.")
    try:
        message = _decoder.decode(text)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"The message is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise Invalid("A message is a JSON object.")
    return message


def _no_number(word: str) -> NoReturn:
    """Refuse what Python reads and JSON doesn't have: told back, nobody else could read it."""
    raise ValueError(f"{word} is no number.")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError("A number is out of range.")
    return number


# One for all messages: json.loads makes a new one for each call that says how to read numbers.
_decoder = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)
