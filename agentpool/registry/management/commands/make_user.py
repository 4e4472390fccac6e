"""`manage.py make_user`: let a person sign in, as viewer, operator or admin."""

import getpass
import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from agentpool.registry import roles
from agentpool.registry.errors import Refusal


class Command(BaseCommand):
    help = "Make a person of a group; asks for the password, or prints a generated one once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the name, the group, and where the password comes from."""
        parser.add_argument("username")
        parser.add_argument("--group", choices=roles.GROUPS, default=roles.VIEWER)
        parser.add_argument("--generate", action="store_true", help="make the password up")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        """Make the person; a terminal is asked for the password, anything else gets a new one."""
        asks = sys.stdin.isatty() and not (options["generate"] or options["json"])
        chosen = _asked() if asks else None
        roles.settle()
        name, group = options["username"], options["group"]
        try:
            password = roles.make_user(name, group=group, password=chosen)
        except Refusal as refusal:
            raise CommandError(refusal.detail) from refusal
        if options["json"]:
            made = {"username": name, "group": group, "password": password}
            self.stdout.write(json.dumps(made))
        elif chosen:
            self.stdout.write(f"{name} may sign in as {group}.")
        else:
            self.stdout.write(
                f"{name} may sign in as {group}. Password, shown this once: {password}"
            )


def _asked() -> str | None:
    first = getpass.getpass("Password (empty: one is made): ")
    if first and getpass.getpass("Again: ") != first:
        raise CommandError("The two are not the same.")
    return first or None
