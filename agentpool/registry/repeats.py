"""Gives a creating call that comes again under its key the first answer, through whichever door."""

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.fernet import Fernet, InvalidToken
from django.db import transaction
from rest_framework.utils.encoders import JSONEncoder

from agentpool.registry import events
from agentpool.registry.errors import Invalid, InvalidReuse, Refusal
from agentpool.registry.models import IdempotencyKey

MAX_KEY_LENGTH = 200


@dataclass(frozen=True)
class Answer:
    """What a call was answered: REST's status, the body, and the headers worth keeping."""

    status: int
    body: Any
    headers: Mapping[str, str] = field(default_factory=dict)


def once(
    *, principal: str, key: Any, said: bytes, seal: bytes, make: Callable[[], Answer]
) -> Answer:
    """
    Return the answer to a call, which is made at most once for each key of a principal.

    Key, change and answer are one transaction; a second caller with the key waits for the first.
    said: the call's `digest`; seal: of `seal_of`, the caller's. Locks the key's row.
    Raises: Invalid, it is no key; InvalidReuse, the key came before with another body or token.
    """
    if not isinstance(key, str) or not key.isprintable() or not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise Invalid(
            f"Idempotency-Key must be 1 to {MAX_KEY_LENGTH} printable characters.",
            errors=[("idempotency_key", "Not such a key.")],
        )
    try:
        return _made_once(principal, key, said, seal, make)
    except Refusal as refusal:
        events.tell_refused(refusal)
        raise


def _made_once(
    principal: str, key: str, said: bytes, seal: bytes, make: Callable[[], Answer]
) -> Answer:
    with transaction.atomic():
        row, created = IdempotencyKey.objects.get_or_create(
            principal=principal, key=key, defaults={"digest": said}
        )
        if not created and bytes(row.digest) != said:
            raise InvalidReuse("This Idempotency-Key came before with another body.")
        if not created:
            return Answer(row.status or 200, _opened(row, seal), row.headers)
        made = make()
        row.status, row.headers = made.status, dict(made.headers)
        # An answer may hold a secret that is shown once, and secrets are never stored in clear:
        # only who sends the same token again can open it.
        row.sealed_body = Fernet(seal).encrypt(json.dumps(made.body, cls=JSONEncoder).encode())
        row.save(update_fields=["status", "sealed_body", "headers"])
    return made


def _opened(row: IdempotencyKey, seal: bytes) -> Any:
    try:
        return json.loads(Fernet(seal).decrypt(bytes(row.sealed_body or b"")))
    except InvalidToken as error:
        # As an agent that has a new credential since.
        raise InvalidReuse("This Idempotency-Key came before with another token.") from error


def seal_of(authorization: str) -> bytes:
    """Return the key that seals answers for whoever sends this Authorization header."""
    key = hmac.digest(authorization.encode(), b"agentpool idempotency", "sha256")
    return base64.urlsafe_b64encode(key)


def digest(method: str, path: str, data: Any) -> bytes:
    """
    Return what tells one call from another: REST's method and path, and the body.

    How long its caller waits for the answer (`wait_s`) changes nothing of what is asked for.
    """
    if isinstance(data, Mapping) and "wait_s" in data:
        data = {**data, "wait_s": 0}
    body = json.dumps(data, sort_keys=True, default=str)
    return hashlib.sha256(f"{method} {path} {body}".encode()).digest()
