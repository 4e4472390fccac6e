"""`manage.py pulse`: relay events and enqueue the jobs that are due soon."""

import signal
import threading
from typing import Any

from django.core.management.base import BaseCommand
from django_q.tasks import async_task

from agentpool.live import pulse


class Command(BaseCommand):
    help = "Relay the outbox and enqueue due jobs; one process at a time leads, others stand by."
    # `up` has run them with the migrations; here they would load pages that nobody asks of it.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Run until SIGTERM or SIGINT."""
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        pulse.run(enqueue=async_task, stopping=stop.is_set)
