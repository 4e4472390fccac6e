"""The project package as a Django app: system checks, and where the admin site is."""

from django.apps import AppConfig
from django.contrib.admin import apps as admin_apps


class AgentpoolConfig(AppConfig):
    """Registers the installation's system checks."""

    name = "agentpool"
    label = "agentpool"

    def ready(self) -> None:
        """Load the checks; Django runs them before a server starts."""
        from agentpool import checks  # noqa: F401  (importing registers them)


class AdminConfig(admin_apps.SimpleAdminConfig):
    """
    Django's admin, with a site that groups pages by the app that acts.

    Its pages are loaded with the URLs, not with the models: processes that serve nobody, the job
    cluster and the pulse, are a quarter smaller without them.
    """

    default_site = "agentpool.admin_site.PoolAdminSite"
