"""Django-Q's tables in the look of the others: schedules, what ran, what failed, what waits."""

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django_q.admin import FailAdmin as QFailAdmin
from django_q.admin import QueueAdmin as QQueueAdmin
from django_q.admin import ScheduleAdmin as QScheduleAdmin
from django_q.admin import TaskAdmin as QTaskAdmin
from django_q.models import Failure, OrmQ, Schedule, Success
from unfold.admin import ModelAdmin


class JobsPage(ModelAdmin):
    """A table of Django-Q; agentpool only says where it stands."""

    section = "jobs"
    icon = "schedule"
    is_technical = False
    list_per_page = 50

    def get_actions(self, request: HttpRequest) -> Any:
        """Return the actions; Django-Q's own ask for no permission, so they do here."""
        return super().get_actions(request) if self.has_change_permission(request) else {}


for model in (Schedule, Success, Failure, OrmQ):
    if admin.site.is_registered(model):
        admin.site.unregister(model)


@admin.register(Schedule)
class ScheduleAdmin(JobsPage, QScheduleAdmin):
    """When jobs run by themselves; `prepare` sets agentpool's own again at each start."""


@admin.register(Success)
class SuccessAdmin(JobsPage, QTaskAdmin):
    """Jobs that ran."""

    icon = "task_alt"


@admin.register(Failure)
class FailureAdmin(JobsPage, QFailAdmin):
    """Jobs that failed."""

    icon = "error"


@admin.register(OrmQ)
class QueueAdmin(JobsPage, QQueueAdmin):
    """Jobs that wait for a worker."""

    icon = "pending"
