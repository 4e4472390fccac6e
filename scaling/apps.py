"""The scaling app: how many agents there should be."""

from django.apps import AppConfig


class ScalingConfig(AppConfig):
    """Behaviour over the registry's tables; it has none of its own."""

    name = "scaling"
