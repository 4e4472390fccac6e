"""A drain may have a deadline."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0002_storage")]

    operations = [
        migrations.AddField("agent", "drain_by", models.DateTimeField(null=True, blank=True)),
    ]
