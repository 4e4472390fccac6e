"""`manage.py list_users`: who may sign in, and as what."""

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from agentpool.registry import roles


class Command(BaseCommand):
    help = "List the people who may sign in, with their groups."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare --json."""
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print one line a person."""
        people = roles.people()
        if options["json"]:
            self.stdout.write(json.dumps(people, default=str))
            return
        for each in people:
            words = ["superuser"] if each["superuser"] else []
            words += each["groups"] + ([] if each["active"] else ["inactive"])
            seen = each["last_login"]
            since = f"last sign-in {seen:%Y-%m-%d %H:%M} UTC" if seen else "never signed in"
            self.stdout.write(f"{each['username']:<24} {', '.join(words) or '-':<24} {since}")
