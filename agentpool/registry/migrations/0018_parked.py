"""For how long a lease was parked: time in which nobody worked."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0017_reason_code")]

    operations = [
        migrations.AddField("lease", "parked_at", models.DateTimeField(null=True, blank=True)),
        migrations.AddField("lease", "parked_s", models.FloatField(null=True, blank=True)),
    ]
