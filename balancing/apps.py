"""The balancing app: which agent gets which work, and how much of everything."""

from django.apps import AppConfig


class BalancingConfig(AppConfig):
    """Behaviour over the registry's tables; it has none of its own."""

    name = "balancing"
