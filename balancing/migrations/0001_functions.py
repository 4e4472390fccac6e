"""The claim protocol as SQL functions, one immutable file a version (docs/decisions/0003)."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql"
# In the order of their dependence.
FUNCTIONS = [
    "timing_1",
    "shape_1",
    "fits_1",
    "sticky_1",
    "keys_free_1",
    "pick_1",
    "grant_1",
    "acquire_1",
    "hand_over_1",
    "serveable_shapes_1",
    "serve_1",
    "close_1",
    "renew_1",
]


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_storage")]

    operations = [
        migrations.RunSQL(
            (SQL / f"{name}.sql").read_text(),
            f"DROP TYPE {name}" if name == "timing_1" else f"DROP FUNCTION {name}",
        )
        for name in FUNCTIONS
    ]
