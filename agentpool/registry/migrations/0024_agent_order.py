from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("registry", "0023_class_order")]

    operations = [migrations.RemoveIndex("agent", "agent_newest")]
