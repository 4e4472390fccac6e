"""
What a message on the gateway means: each op is one call of the service that REST calls, too.

Synchronous: the socket runs them in threads, but for hello, acquire and release, which are
gathered, and for plain heartbeats, which are coalesced. They raise Refusal, which is answered.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db.models import Q
from rest_framework import serializers as drf

from agentpool.gateway.session import Message, Session, Speaker
from agentpool.registry import credentials, repeats
from agentpool.registry import queries as registry_queries
from agentpool.registry.api import checked
from agentpool.registry.errors import Forbidden, Invalid, NotFound, Refusal, Unauthenticated
from agentpool.registry.models import Lease, Request
from agentpool.registry.models.agent import AGENT_ID
from agentpool.registry.rest import MAX_BODY_BYTES as MAX_BODY_BYTES
from agentpool.registry.rest import Answer
from agentpool.registry.states import LeaseStatus, Outcome, RequestStatus, Scope
from balancing import (
    agents_api,
    explain,
    intake,
    leases_api,
    queries,
    reports,
    requests_api,
    serializers,
    showing,
)
from balancing.services import heartbeats, leases, requests
from balancing.services.exchange import Call, Wish

Reply = dict[str, Any]


# -- agents --------------------------------------------------------------------------------------


def heartbeat(session: Session, message: Message) -> Reply:
    """Hear an agent at once, alone; what is beyond doubt does not come here but is coalesced."""
    operator = session.orchestrator
    if operator is not None and operator.is_operator and "agent_id" in message:
        credentials.check(operator.credential)
        agent = registry_queries.agent_row(_agent_id(message))
    else:
        speaker = session.agent(message)
        credentials.check(speaker.credential)
        agent = registry_queries.agent_row(speaker.name)
    return agents_api.heartbeat_answer(agent, intake.heartbeat(body_of(message)))


def ack(session: Session, message: Message) -> Reply:
    """Take an offer."""
    lease_id, _, body = _fenced(session, message, reports.Fenced)
    return _shown(leases.acknowledge(lease_id, token=body["fencing_token"]))


def log(session: Session, message: Message) -> Reply:
    """Append what the work printed."""
    lease_id, _, body = _fenced(session, message, reports.LogChunks)
    return leases_api.write_log(lease_id, body["fencing_token"], body["chunks"])


# -- whoever holds a lease -----------------------------------------------------------------------


def renew(session: Session, message: Message) -> Reply:
    """Keep a lease."""
    lease_id, _, body = _fenced(session, message, reports.Fenced)
    return _shown(leases.renew(lease_id, token=body["fencing_token"]))


def usage(session: Session, message: Message) -> Reply:
    """Note what the work uses and how far it is."""
    lease_id, _, body = _fenced(session, message, reports.UsageReport)
    lease = leases.report_usage(
        lease_id,
        token=body["fencing_token"],
        usage=body.get("usage") or {},
        progress=body.get("progress") or {},
    )
    return _shown(lease)


def park(session: Session, message: Message) -> Reply:
    """Free a lease's slot while its work waits."""
    lease_id, who, body = _fenced(session, message, reports.ParkLease)
    token, reason = body["fencing_token"], body["reason"]
    return _shown(leases.park(lease_id, token=token, reason=reason, actor=who.name))


def resume(session: Session, message: Message) -> Reply:
    """Let parked work go on; the answer has the new fencing token."""
    lease_id, who, body = _fenced(session, message, reports.Fenced)
    return _shown(leases.resume(lease_id, token=body["fencing_token"], actor=who.name))


def resize(session: Session, message: Message) -> Reply:
    """Change what a lease reserves."""
    lease_id, who, body = _fenced(session, message, reports.ResizeLease)
    token = body.pop("fencing_token")
    return _shown(leases.resize(lease_id, token=token, amounts=body, actor=who.name))


def release(session: Session, message: Message) -> Call:
    """End a lease, as its agent or as whoever asked for it; the batcher answers with its end."""
    lease_id = _uuid(message, "lease_id")
    who = _ender(session, message, lease_id)
    body = intake.read(reports.ReleaseLease, body_of(message))
    token, outcome = body.pop("fencing_token"), Outcome(body.pop("outcome"))
    wish = leases.closing(
        lease_id,
        token=token,
        outcome=outcome,
        actor=who.name,
        asker=who.name if who.scope is Scope.ORCHESTRATOR else None,
        agent=who.agent,
        **body,
    )
    return Call(wish, who.credential)


# -- orchestrators -------------------------------------------------------------------------------


def acquire(session: Session, message: Message) -> Call:
    """Ask for an agent; the batcher answers with the lease, None: the request waits."""
    who = session.asker()
    return Call(intake.wish(body_of(message), requested_by=who.name), who.credential)


def acquire_once(session: Session, message: Message) -> Reply:
    """Ask for an agent under a key: whoever asks again, also through REST, gets the same answer."""
    who = session.asker()
    credentials.check(who.credential)
    wish = body_of(message)
    key = wish.pop("idempotency_key")
    kept = repeats.once(
        principal=who.name,
        key=key,
        said=repeats.digest("POST", REQUESTS, wish),
        seal=who.seal,
        make=lambda: _made(
            requests_api.ask(wish, requested_by=who.name, credential=who.credential)
        ),
    )
    if kept.status == GRANTED:
        return {"lease": kept.body, "request_id": kept.body["request_id"]}
    return {"request_id": kept.body["id"], "request": kept.body}


def asked_after(session: Session, message: Message) -> tuple[Speaker, UUID]:
    """Return who asks after a request, and which one, without a look at the database."""
    return session.asker(reads=True), _uuid(message, "request_id")


def cancel(session: Session, message: Message) -> Reply:
    """Give a request up."""
    row, who = _asked(session, message)
    body = checked(serializers.Reason(data=body_of(message)))
    requests.cancel_request(row.id, actor=who.name, reason=body["reason"] or "cancelled")
    return {"request": requests_api.request_body(row.id)}


def explanation(session: Session, message: Message) -> Reply:
    """Say why a request got its agent, or why it waits."""
    row, _ = _asked(session, message, reads=True)
    return {"explanation": showing.explanation_json(explain.explain(row))}


Op = Callable[[Session, Message], Reply]
OPS: Mapping[str, Op] = {
    "heartbeat": heartbeat,
    "ack": ack,
    "renew": renew,
    "usage": usage,
    "log": log,
    "park": park,
    "resume": resume,
    "resize": resize,
    "cancel": cancel,
    "explain": explanation,
}
# These only say what is asked for, without a look at the database; the batcher does it.
BATCHED: Mapping[str, Callable[[Session, Message], Call]] = {
    "acquire": acquire,
    "release": release,
}
NAMES = ("hello", *OPS, *BATCHED, "wait")


def asked_for(call: Call) -> str:
    """Return the id of the request that an acquire made."""
    if not isinstance(call.wish, Wish):
        raise TypeError("a release asks for nothing")
    return str(call.wish.id)


def shown(call: Call, lease: str) -> str:
    """Return the reply to an acquire or a release: fields in JSON, the lease as it came."""
    if isinstance(call.wish, Wish):
        return f'"lease": {lease}, "request_id": "{call.wish.id}"'
    return f'"lease": {lease}'


# -- what is pushed ------------------------------------------------------------------------------


def waiting(request_id: str) -> Reply:
    """Return a request that waits, as its asker is told."""
    return {"request_id": request_id, "request": requests_api.request_body(UUID(request_id))}


def open_of(speaker: Speaker) -> Reply:
    """Return the offers and commands that an agent has not answered yet; raises Unauthenticated."""
    credentials.check(speaker.credential)
    return agents_api.offers_answer(registry_queries.agent_by(agent_id=speaker.name))


def offer_of(lease_id: str, speaker: Speaker) -> Reply | None:
    """
    Return an offer to push, None: it is not open any more.

    Raises: Unauthenticated, the agent's credential is good no more: what it may be told to do is
    for whoever has the new one.
    """
    lease = queries.leases().filter(id=lease_id, status=LeaseStatus.OFFERED).first()
    if lease is None:
        return None
    credentials.check(speaker.credential)
    return showing.offer_json(lease)


def commands_of(agent_id: str) -> list[dict[str, Any]]:
    """Return what an agent's status asks of it now."""
    return heartbeats.commands_for(registry_queries.agent_by(agent_id=agent_id))


def moved_on(told: Mapping[str, int]) -> list[str]:
    """Return which of these requests have another lease than that of the attempt told, or none."""
    rows = Request.objects.filter(id__in=told).values_list("id", "status", "attempts")
    known = {str(id): attempts for id, status, attempts in rows if status == RequestStatus.GRANTED}
    return [id for id, attempt in told.items() if known.get(id) != attempt]


def answer_of(request_id: str, asker: Speaker) -> Reply | None:
    """
    Return what became of a request, to push: its lease, or its end; None: it waits.

    Raises: Unauthenticated, the token of whoever asked is good no more.
    """
    credentials.check(asker.credential)
    lease = queries.live_lease_of(UUID(request_id))
    if lease:
        told = showing.lease_json(lease)
        return {"push": "granted", "request_id": request_id, "lease": told}
    # Granted: its lease has ended already, and what comes of that is not known yet.
    is_open = Q(status__in=[RequestStatus.WAITING, RequestStatus.GRANTED])
    if not Request.objects.filter(~is_open, id=request_id).exists():
        return None
    body = requests_api.request_body(UUID(request_id))
    return {"push": "ended", "request_id": request_id, "request": body}


def statuses_of(asked: Sequence[tuple[Speaker, UUID]]) -> list[str | Refusal]:
    """
    Return the statuses of requests that are asked after; who asks for their own keeps them waiting.

    A refusal where the asker's token is good no more, or the request is not there for it.
    """
    good = credentials.good({who.credential for who, _ in asked})
    ids = {id for who, id in asked if who.credential in good}
    rows = Request.objects.filter(id__in=ids).only("id", "status", "requested_by")
    known = {row.id: row for row in rows}
    wanted = {
        id
        for who, id in asked
        if id in known and known[id].requested_by == who.name and who.credential in good
    }
    requests.keep_waiting(sorted(wanted))
    return [_status_for(who, id, known.get(id), who.credential in good) for who, id in asked]


def shown_requests(ids: Sequence[UUID]) -> list[Reply | Refusal]:
    """Return requests as they are shown; many may want the same one at the same moment."""
    made = {id: _shown_request(id) for id in set(ids)}
    return [made[id] for id in ids]


def _shown_request(id: UUID) -> Reply | Refusal:
    try:
        return {"request": requests_api.request_body(id)}
    except NotFound as refusal:
        return refusal


def _status_for(who: Speaker, id: UUID, row: Request | None, is_good: bool) -> str | Refusal:
    if not is_good:
        return Unauthenticated("The token has been revoked or has expired.")
    is_own = row is not None and (
        who.scope is not Scope.ORCHESTRATOR or row.requested_by == who.name
    )
    return row.status if row and is_own else NotFound(f"There is no request {id} of yours.")


def keep_waiting(requests_of: Sequence[tuple[UUID, Sequence[UUID]]]) -> list[None]:
    """Keep requests waiting, each list under the credential whose connection is open."""
    good = credentials.good({credential for credential, _ in requests_of})
    ids = [id for credential, some in requests_of if credential in good for id in some]
    requests.keep_waiting(sorted(set(ids)))
    return [None] * len(requests_of)


# -- who and what --------------------------------------------------------------------------------

# What the frame of a message carries beside the op's own fields.
_FRAME = frozenset({"id", "op", "agent_id", "lease_id", "request_id"})
# Where REST asks for agents, and its status of a request that was granted at once.
REQUESTS, GRANTED = "/api/agent-pool/requests", 201
# A request's time to live when it says nothing, seconds.
TTL_S: float = serializers.NewRequest().fields["ttl_s"].default  # type: ignore[assignment]


def body_of(message: Message) -> dict[str, Any]:
    """Return an op's own fields."""
    return {name: value for name, value in message.items() if name not in _FRAME}


def _made(response: Answer) -> repeats.Answer:
    return repeats.Answer(response.status_code, response.data)


def _shown(lease: Lease) -> Reply:
    return {"lease": showing.lease_json(lease)}


def _fenced(
    session: Session, message: Message, form: type[drf.Serializer[Any]]
) -> tuple[UUID, Speaker, dict[str, Any]]:
    """Return the lease, who writes to it, and the checked body; raises as REST's door does."""
    who = None if session.agents else session.holder()
    lease = queries.lease(_uuid(message, "lease_id"))
    if who is None:
        who = session.bound(lease.agent.agent_id)
        if who is None or message.get("agent_id", who.name) != who.name:
            raise Forbidden("An agent's credential is good for its own leases only.")
    elif not who.is_operator and lease.request.requested_by != who.name:
        raise NotFound(f"There is no lease {lease.id} of yours.")
    credentials.check(who.credential)
    filled = form(data=body_of(message))
    filled.is_valid(raise_exception=True)
    return lease.id, who, dict(filled.validated_data)


def _ender(session: Session, message: Message, lease_id: UUID) -> Speaker:
    """Return the agent or orchestrator that ends a lease here; the claim checks that it may."""
    if not session.agents:
        return session.holder()
    if message.get("agent_id") is None and len(session.agents) > 1:
        # One connection speaks for many agents and does not say which: the lease does.
        who = session.bound(queries.lease(lease_id).agent.agent_id)
        if who is None:
            raise Forbidden("An agent's credential is good for its own leases only.")
        return who
    return session.agent(message)


def _asked(session: Session, message: Message, *, reads: bool = False) -> tuple[Request, Speaker]:
    who = session.asker(reads=reads)
    credentials.check(who.credential)
    row = queries.request(_uuid(message, "request_id"))
    if who.scope is Scope.ORCHESTRATOR and row.requested_by != who.name:
        raise NotFound(f"There is no request {row.id} of yours.")
    return row, who


def _agent_id(message: Message) -> str:
    """Return the external id that a message names; raises Invalid where REST has no such path."""
    name = message.get("agent_id")
    try:
        AGENT_ID(name if isinstance(name, str) else "")
    except ValidationError as error:
        said = str(error.message)
        raise Invalid(f"agent_id: {said}", errors=[("agent_id", said)]) from error
    return str(name)


def _uuid(message: Message, name: str) -> UUID:
    try:
        return UUID(str(message.get(name)))
    except ValueError as error:
        raise Invalid(f"{name} must be a UUID.", errors=[(name, "Not a UUID.")]) from error
