"""`manage.py check_invariants`: hold the promises of the tables against their rows."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentpool.registry import queries


class Command(BaseCommand):
    help = (
        "Compare counters with leases, requests with leases, keys with holders; exit 1 if broken."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --json."""
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print each broken promise with its rows."""
        broken = queries.broken_invariants()
        if options["json"]:
            self.stdout.write(json.dumps(broken))
        elif not broken:
            self.stdout.write(f"All {len(queries.INVARIANTS)} invariants hold.")
        if broken:
            raise CommandError(
                "; ".join(f"{name}: {', '.join(rows[:5])}" for name, rows in broken.items())
            )
