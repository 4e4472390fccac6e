"""How many agents of a pool are at work, as learning counts them: once in a while, not each time."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("registry", "0014_learning_blocks")]

    operations = [
        migrations.AddField("poollearning", "agents", models.IntegerField(default=0)),
        migrations.AddField("poollearning", "counted_at", models.DateTimeField(null=True)),
    ]
