"""What was learnt is kept as bytes: a line of JSON with the kinds of work, then numbers."""

import base64
import json
import struct
from collections.abc import Iterable
from itertools import chain
from typing import Any

from django.db import migrations, models


def _model(told: dict[str, Any]) -> bytes:
    (agents, agent_count), (cells, cell_count) = told["agents"], told["cells"]
    numbers = [
        *(told["noise"], told["clock"], told["at"], told["leases"]),
        *(*agents, agent_count, *cells, cell_count),
        *told["leases_of"],
        *chain.from_iterable(told["usual"]),
    ]
    return _packed(told["kinds"], numbers, told["shared"])


def _skill(told: dict[str, Any]) -> bytes:
    numbers = [
        *(told["clock"], told["at"]),
        *told["leases"],
        *told["match"],
        *chain.from_iterable(told["counted"]),
        *chain.from_iterable(told["usual"]),
    ]
    return _packed(told["kinds"], numbers, told["own"])


def _packed(kinds: list[str], numbers: list[float], blocks: Iterable[str]) -> bytes:
    told = struct.pack(f"<{len(numbers)}d", *numbers)
    return b"".join((json.dumps(kinds).encode(), b"\n", told, *map(base64.b64decode, blocks)))


def _pack(apps: Any, schema_editor: Any) -> None:
    for row in apps.get_model("registry", "PoolLearning").objects.iterator():
        row.kept = _model(row.model)
        row.save(update_fields=["kept"])
    for row in apps.get_model("registry", "AgentLearning").objects.iterator():
        row.kept, row.leases = _skill(row.skill), row.skill["leases"][0]
        row.save(update_fields=["kept", "leases"])


def _forget(apps: Any, schema_editor: Any) -> None:
    """Leave it to `relearn`: the outcomes are still there."""
    for name in ("PoolLearning", "AgentLearning", "Outlook"):
        apps.get_model("registry", name).objects.all().delete()


def _becomes_bytes(model: str, field: str) -> list[Any]:
    return [
        migrations.RemoveField(model, field),
        migrations.RenameField(model, "kept", field),
        migrations.AlterField(model, field, models.BinaryField()),
    ]


class Migration(migrations.Migration):
    dependencies = [("registry", "0015_learning_counted")]

    operations = [
        migrations.AddField("poollearning", "kept", models.BinaryField(default=b"")),
        migrations.AddField("agentlearning", "kept", models.BinaryField(default=b"")),
        migrations.AddField("learningstate", "version", models.BigIntegerField(default=0)),
        migrations.AddField("agentlearning", "leases", models.BigIntegerField(default=0)),
        migrations.RunPython(_pack, migrations.RunPython.noop),
        *_becomes_bytes("poollearning", "model"),
        *_becomes_bytes("agentlearning", "skill"),
        # Numbers hardly shrink: that they are tried takes longer than to write them as they are.
        migrations.RunSQL(
            "ALTER TABLE pool_learning ALTER model SET STORAGE EXTERNAL;"
            " ALTER TABLE agent_learning ALTER skill SET STORAGE EXTERNAL",
            migrations.RunSQL.noop,
        ),
        migrations.RunPython(migrations.RunPython.noop, _forget),
    ]
