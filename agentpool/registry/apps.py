"""The registry app: all tables, and the facts about agents."""

from django.apps import AppConfig


class RegistryConfig(AppConfig):
    """The floor of the house."""

    name = "agentpool.registry"
    label = "registry"
    verbose_name = "agentpool"
    default_auto_field = "django.db.models.BigAutoField"
