"""What was learnt is kept as blocks of numbers: base64 of them, in place of lists of decimals."""

import base64
import struct
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

from django.db import migrations

Rows = Sequence[Sequence[float]]


def _text(rows: Iterable[Sequence[float]]) -> str:
    numbers = list(chain.from_iterable(rows))
    return base64.b64encode(struct.pack(f"<{len(numbers)}d", *numbers)).decode()


def _shared(means: Sequence[float], covariance: Rows) -> str:
    return _text([*row, mean] for row, mean in zip(covariance, means, strict=True))


def _own(base: Sequence[float], slopes: Rows, covariance: Rows) -> str:
    # Slopes of kinds of work that came later were left out: they are 0.
    width = max(map(len, slopes))
    padded = ([*slope, *[0.0] * (width - len(slope))] for slope in slopes)
    rows = zip(covariance, padded, base, strict=True)
    return _text([*row, *slope, value] for row, slope, value in rows)


def _pack(apps: Any, schema_editor: Any) -> None:
    for row in apps.get_model("registry", "PoolLearning").objects.all():
        row.model["shared"] = [_shared(*each) for each in row.model["shared"]]
        row.save(update_fields=["model"])
    for row in apps.get_model("registry", "AgentLearning").objects.iterator():
        row.skill["own"] = [_own(*each) for each in row.skill["own"]]
        row.save(update_fields=["skill"])


def _forget(apps: Any, schema_editor: Any) -> None:
    """Leave it to `relearn`: the outcomes are still there."""
    for name in ("PoolLearning", "AgentLearning", "Outlook"):
        apps.get_model("registry", name).objects.all().delete()


class Migration(migrations.Migration):
    dependencies = [("registry", "0013_standby")]

    operations = [migrations.RunPython(_pack, _forget)]
