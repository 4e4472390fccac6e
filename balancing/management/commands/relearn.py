"""`manage.py relearn`: learn anew from all outcomes that are kept, and from the days' sums."""

import sys
import time
from typing import Any

from django.core.management.base import BaseCommand
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from balancing import memory
from balancing.services import learning


class Command(BaseCommand):
    """Learn anew."""

    help = (
        "Forget what was learnt of agents and learn it anew from the outcomes that are kept, and"
        " from the days' sums of those that are not. Until it ends all claims read what was known."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Learn, with a bar on a terminal."""
        begin, total = time.monotonic(), memory.count()
        columns = (TextColumn("learning"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        done = 0
        with Progress(*columns, console=Console(file=sys.stderr)) as progress:
            task = progress.add_task("learning", total=total)
            for count in learning.relearn():
                done += count
                progress.update(task, completed=done)
        took_s = time.monotonic() - begin
        self.stdout.write(f"Learnt anew from {done} leases in {took_s:.1f} s.")
