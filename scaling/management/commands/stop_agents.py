"""`manage.py stop_agents`: end the runtimes that scaling started."""

from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from scaling import services


class Command(BaseCommand):
    help = "End every runtime that scaling started, and return its leases."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --within."""
        parser.add_argument("--within", type=float, default=4.0, help="seconds before SIGKILL")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print how many were ended."""
        self.stdout.write(f"{services.stop_all(within_s=options['within'])} runtimes ended.")
