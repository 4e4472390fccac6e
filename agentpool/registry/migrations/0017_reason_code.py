"""The code of why a request waits, beside its words."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0016_learning_bytes")]

    operations = [
        migrations.AddField("request", "reason_code", models.TextField(blank=True, default="")),
    ]
