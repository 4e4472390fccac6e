"""
Tells a pool's demand what has happened since it was last told, from the rows that are there.

What is committed up to `LAG_S` ago is told, in the order of its time: a transaction that was begun
earlier and commits later than that is missed by what is learnt, never by what is decided, which
looks at the queue and the agents as they are.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db.models import F, Min

from agentpool.registry.models import Announcement, Credential, Lease, LeaseOutcome, Request
from agentpool.registry.models import ScalingState as State
from agentpool.registry.states import LIVE, Scope
from scaling.demand import Demand
from scaling.forecast import Announced
from scaling.policies import Policy

LAG_S = 1.0
# After a pause of this length (the installation was down) learning skips what lies before.
LONGEST_GAP = timedelta(days=8)
_STARTS_SEEN = 30
# Whoever has not registered so long after its start does not: it is ended by then.
_GIVEN_UP = timedelta(minutes=2)
_STARTUP_SHARE = 0.9

Moment = tuple[float, int, Any]
_ARRIVED, _BEGAN, _ENDED, _JUDGED = 0, 1, 2, 3


def tell(demand: Demand, state: State, *, policy: Policy, until: datetime) -> list[UUID]:
    """
    Tell the demand of one pool all that lies between `state.heard_until` and `until`.

    Returns the announcements that it was told of: whoever stores the demand marks them as heard.
    """
    since = state.heard_until or until - LONGEST_GAP
    since = max(since, until - LONGEST_GAP)
    for at, kind, detail in sorted(_moments(state.pool_id, since, until), key=_order):
        if kind == _ARRIVED:
            demand.arrived(at)
        elif kind == _BEGAN:
            demand.began(at)
        elif kind == _ENDED:
            demand.ended(at, began_at=detail[0], story_type=detail[1])
        else:
            demand.judged(at=at, arrived_at=at - detail, is_late=detail > policy.slo_s)
    state.heard_until = until
    # An end that was committed late lies in no span.
    live = Lease.objects.filter(pool_id=state.pool_id, status__in=LIVE)
    oldest = live.aggregate(at=Min("acquired_at"))["at"] or until
    demand.forget_begun_before(oldest.timestamp())
    return _tell_announced(demand, state)


def startup_s(agent_type: str, *, otherwise: float) -> float:
    """
    Return how long agents of a pool take from their launch until they can work, seconds.

    The 0.9 quantile of the newest launches; `otherwise` until there are any.
    """
    # An agent gets its first credential when it registers, another one whenever that is asked for.
    rows = Credential.objects.filter(
        scope=Scope.AGENT,
        agent__pool_id=agent_type,
        created_at__lte=F("agent__launch__started_at") + _GIVEN_UP,
        incarnation__lte=2,
    ).order_by("-created_at")
    columns = ("agent__launch__created_at", "created_at")
    took = sorted(
        (ready - asked).total_seconds()
        for asked, ready in rows.values_list(*columns)[:_STARTS_SEEN]
        if ready >= asked
    )
    return took[int(len(took) * _STARTUP_SHARE)] if took else otherwise


def _order(moment: Moment) -> tuple[float, int]:
    return moment[0], moment[1]


def _moments(agent_type: str, since: datetime, until: datetime) -> Iterator[Moment]:
    span = {"gt": since, "lte": until}
    asked = Request.objects.filter(pool_id=agent_type, **_within("created_at", span))
    for at in asked.order_by().values_list("created_at", flat=True).iterator():
        yield at.timestamp(), _ARRIVED, None
    began = Lease.objects.filter(pool_id=agent_type, **_within("acquired_at", span))
    for at, waited_s in began.order_by().values_list("acquired_at", "waited_s").iterator():
        yield at.timestamp(), _BEGAN, None
        yield at.timestamp(), _JUDGED, waited_s
    over = LeaseOutcome.objects.filter(pool_id=agent_type, **_within("ended_at", span))
    columns = ("ended_at", "lease__acquired_at", "story_type")
    for at, began_at, story_type in over.order_by().values_list(*columns).iterator():
        yield at.timestamp(), _ENDED, (began_at.timestamp(), story_type)


def _within(name: str, span: dict[str, datetime]) -> dict[str, datetime]:
    return {f"{name}__{test}": value for test, value in span.items()}


def _tell_announced(demand: Demand, state: State) -> list[UUID]:
    """Tell what was announced; what is over by now the demand forgets by itself."""
    rows = list(Announcement.objects.filter(pool_id=state.pool_id, heard_at__isnull=True))
    for row in rows:
        demand.announce(Announced(row.at.timestamp(), row.count, row.spread_s, row.name))
    return [row.id for row in rows]
