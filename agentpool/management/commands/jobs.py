"""`manage.py jobs`: run the job cluster, its workers sharing what they load."""

import gc
from importlib import import_module
from typing import Any

from django.core.management.base import BaseCommand
from django_q.cluster import Cluster

from agentpool.live import due


class Command(BaseCommand):
    help = "Run Django-Q's cluster: what the pulse and the schedules enqueue."
    # `up` has run them with the migrations; here they would load the pages that nobody asks of it.
    requires_system_checks = ()

    def handle(self, *args: Any, **options: Any) -> None:
        """Load the jobs before the cluster forks, so that its processes share them; then run it."""
        for module in sorted({job.job.rpartition(".")[0] for job in due.jobs()}):
            import_module(module)
        import_module(
            "scaling.evaluation"
        )  # the core's arrays, which a job loads when it needs them
        gc.collect()
        gc.freeze()
        Cluster().start()
