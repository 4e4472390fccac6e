"""The project package as a Django app: system checks, nothing else."""

from django.apps import AppConfig


class AgentpoolConfig(AppConfig):
    """Registers the installation's system checks."""

    name = "agentpool"
    label = "agentpool"

    def ready(self) -> None:
        """Load the checks; Django runs them before a server starts."""
        from agentpool import checks  # noqa: F401  (importing registers them)
