"""`manage.py prepare`: bring the database to this version, and furnish it on the first start."""

import json
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import OperationalError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils.module_loading import import_string
from django_q.models import Schedule

from agentpool.registry import roles, services

# Six fields: Django-Q's cron with seconds. Its scheduler looks each 30 s.
SCHEDULES = {
    "health": ("balancing.jobs.check_health", "* * * * * */30"),
    "expire": ("balancing.jobs.expire", "* * * * * */30"),
    "samples": ("agentpool.registry.jobs.sample", "* * * * * */30"),
    "reconcile": ("scaling.jobs.reconcile", "* * * * * */30"),
    "fold": ("balancing.jobs.fold", "7 3 * * *"),
    "prune": ("agentpool.registry.jobs.prune", "17 3 * * *"),
}
# By its name: the registry knows nothing of the claim.
FUNCTIONS = "balancing.installing.install"


class Command(BaseCommand):
    help = "Migrate, schedule the jobs, and on the first start make pools, admin user and token."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --json."""
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it; harmless when there is nothing to do."""
        try:
            behind = _is_behind()
        except OperationalError as error:
            raise CommandError(f"The database does not answer: {error}") from error
        if behind:
            call_command("migrate", interactive=False, verbosity=0)
        import_string(FUNCTIONS)()
        for name, (function, cron) in SCHEDULES.items():
            Schedule.objects.update_or_create(
                name=name,
                defaults={"func": function, "schedule_type": Schedule.CRON, "cron": cron},
            )
        roles.settle()
        made = services.furnish()
        self.stdout.write(json.dumps(_report(made)) if options["json"] else _sentence(made))


def _is_behind() -> bool:
    executor = MigrationExecutor(connection)
    return bool(executor.migration_plan(executor.loader.graph.leaf_nodes()))


def _report(made: dict[str, Any] | None) -> dict[str, Any]:
    return {
        "first_start": made is not None,
        "admin": {k: made[k] for k in ("username", "password")} if made else None,
        "operator_token": made["operator_token"] if made else None,
    }


def _sentence(made: dict[str, Any] | None) -> str:
    if made is None:
        return "Ready."
    return (
        f"Ready. Admin user: {made['username']}, password: {made['password']}\n"
        f"Operator token: {made['operator_token']}\nBoth are shown this once."
    )
