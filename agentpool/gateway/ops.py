"""
What a message on the gateway means: each op is one call of the service that REST calls, too.

Synchronous: the socket runs them in threads, but for acquire and release, which it hands to the
batcher. They raise Refusal, which the socket answers.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from rest_framework import serializers as drf

from agentpool.gateway.batcher import Call
from agentpool.registry import credentials, rest
from agentpool.registry import queries as registry_queries
from agentpool.registry.errors import Forbidden, Invalid, NotFound, Unauthenticated
from agentpool.registry.models import Agent
from agentpool.registry.rest import Principal
from agentpool.registry.states import Outcome, Scope
from balancing import api, intake, queries, serializers
from balancing.services import heartbeats, leases, requests
from balancing.services.exchange import Wish

Message = Mapping[str, Any]
Reply = dict[str, Any]


class Session:
    """Who speaks on one connection: agents that said hello, and perhaps an orchestrator."""

    def __init__(self) -> None:
        self.agents: dict[str, Principal] = {}
        self.orchestrator: Principal | None = None

    def agent(self, message: Message) -> Agent:
        """
        Return the agent that a message speaks for, fresh from the database.

        Raises: Unauthenticated, it has not said hello here.
        """
        name = message.get("agent_id") or (next(iter(self.agents)) if len(self.agents) == 1 else "")
        if name not in self.agents:
            raise Unauthenticated(f"{name or 'No agent'} has not said hello on this connection.")
        agent = registry_queries.agent_row(name)
        bound = self.agents[name].credential
        if bound is not None and bound.incarnation != agent.incarnation:
            raise Unauthenticated(f"A newer incarnation of {name} has registered.")
        _still_good(self.agents[name])
        return agent


def hello(session: Session, message: Message) -> Reply:
    """Bind the agent (or orchestrator) of a token to this connection."""
    token = message.get("token")
    if not isinstance(token, str):
        raise Invalid("hello needs a token.", errors=[("token", "This field is required.")])
    principal = rest.principal_of(token)
    if principal.agent is None:
        session.orchestrator = principal
        return {"name": principal.name, "scope": principal.scope}
    agent = principal.agent
    session.agents[agent.agent_id] = principal
    # Hello is a sign of life: the offer that woke the agent must not find it unreachable.
    body = _checked(serializers.HeartbeatBody, {"incarnation": agent.incarnation})
    answer = api.heartbeat_answer(agent, body)
    offers = api.offers_answer(agent)
    return {
        "agent_id": agent.agent_id,
        "incarnation": agent.incarnation,
        "heartbeat_interval_s": answer["next_heartbeat_s"],
        "offers": offers["offers"],
        "commands": offers["commands"],
        "leases": [serializers.lease_json(lease) for lease in _live_leases(agent)],
    }


def heartbeat(session: Session, message: Message) -> Reply:
    """Hear an agent."""
    agent = session.agent(message)
    body = _checked(serializers.HeartbeatBody, message)
    return api.heartbeat_answer(agent, body)


def ack(session: Session, message: Message) -> Reply:
    """Take an offer."""
    lease_id, body = _fenced(session, message, serializers.Fenced)
    lease = leases.acknowledge(lease_id, token=body["fencing_token"])
    return {"lease": serializers.lease_json(lease)}


def renew(session: Session, message: Message) -> Reply:
    """Keep a lease."""
    lease_id, body = _fenced(session, message, serializers.Fenced)
    return {"lease": serializers.lease_json(leases.renew(lease_id, token=body["fencing_token"]))}


def usage(session: Session, message: Message) -> Reply:
    """Note what the work uses and how far it is."""
    lease_id, body = _fenced(session, message, serializers.UsageReport)
    lease = leases.report_usage(
        lease_id,
        token=body["fencing_token"],
        usage=body.get("usage") or {},
        progress=body.get("progress") or {},
    )
    return {"lease": serializers.lease_json(lease)}


def log(session: Session, message: Message) -> Reply:
    """Append what the work printed."""
    lease_id, body = _fenced(session, message, serializers.LogChunks)
    return api.write_log(lease_id, body["fencing_token"], body["chunks"])


def acquire(session: Session, message: Message) -> Call:
    """Ask for an agent; the batcher answers with the lease, None: the request waits."""
    principal = _orchestrator(session, fresh=False)
    return Call(intake.wish(_body(message), requested_by=principal.name), _credential(principal))


def release(session: Session, message: Message) -> Call:
    """End a lease, as its agent or as whoever asked for it; the batcher answers with its end."""
    lease_id = _uuid(message, "lease_id")
    principal = _holder(session, message, lease_id)
    body = intake.read(serializers.ReleaseLease, _body(message))
    token, outcome = body.pop("fencing_token"), Outcome(body.pop("outcome"))
    wish = leases.closing(
        lease_id,
        token=token,
        outcome=outcome,
        actor=principal.name,
        asker=principal.name if principal.scope is Scope.ORCHESTRATOR else None,
        agent=principal.agent.id if principal.agent else None,
        **body,
    )
    return Call(wish, _credential(principal))


def shown(call: Call, lease: str | None) -> Reply:
    """Return the reply to an acquire or a release."""
    reply: Reply = {"lease": json.loads(lease)} if lease else {}
    if isinstance(call.wish, Wish):
        reply["request_id"] = str(call.wish.id)
    return reply


def waiting(request_id: str) -> Reply:
    """Return a request that waits, as its asker is told."""
    return {"request_id": request_id, "request": api.request_body(UUID(request_id))}


def cancel(session: Session, message: Message) -> Reply:
    """Give a request up."""
    principal = _orchestrator(session)
    row = queries.request(_uuid(message, "request_id"))
    if not principal.is_operator and row.requested_by != principal.name:
        raise NotFound(f"There is no request {row.id} of yours.")
    requests.cancel_request(row.id, actor=principal.name)
    return {"request": api.request_body(row.id)}


OPS: Mapping[str, Callable[[Session, Message], Reply]] = {
    "hello": hello,
    "heartbeat": heartbeat,
    "ack": ack,
    "renew": renew,
    "usage": usage,
    "log": log,
    "cancel": cancel,
}
# These only say what is asked for, without a look at the database; the batcher does it.
BATCHED: Mapping[str, Callable[[Session, Message], Call]] = {
    "acquire": acquire,
    "release": release,
}

# What the frame of a message carries beside the op's own fields.
_FRAME = frozenset({"id", "op", "agent_id", "lease_id"})


def open_of(agent_id: str) -> Reply:
    """Return the offers and commands that an agent has not answered yet."""
    return api.offers_answer(registry_queries.agent_by(agent_id=agent_id))


def offer_of(lease_id: str) -> Reply | None:
    """Return an offer to push, None: it is not open any more."""
    lease = queries.leases().filter(id=lease_id, status="offered").first()
    return serializers.offer_json(lease) if lease else None


def commands_of(agent_id: str) -> list[dict[str, Any]]:
    """Return what an agent's status asks of it now."""
    return heartbeats.commands_for(registry_queries.agent_by(agent_id=agent_id))


def grant_of(request_id: str) -> Reply | None:
    """Return the live lease of a request to push, None: it has none."""
    lease = queries.live_lease_of(UUID(request_id))
    return serializers.lease_json(lease) if lease else None


def _body(message: Message) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name not in _FRAME}


def _checked(form: type[drf.Serializer[Any]], message: Message) -> dict[str, Any]:
    filled = form(data=_body(message))
    filled.is_valid(raise_exception=True)
    return dict(filled.validated_data)


def _fenced(
    session: Session, message: Message, form: type[drf.Serializer[Any]]
) -> tuple[UUID, dict[str, Any]]:
    principal = None if session.agents else _orchestrator(session)
    lease = queries.lease(_uuid(message, "lease_id"))
    if principal is None:
        if lease.agent.agent_id not in session.agents:
            raise Forbidden("An agent's credential is good for its own leases only.")
        session.agent({"agent_id": lease.agent.agent_id})
    elif not principal.is_operator and lease.request.requested_by != principal.name:
        raise NotFound(f"There is no lease {lease.id} of yours.")
    return lease.id, _checked(form, message)


def _uuid(message: Message, name: str) -> UUID:
    try:
        return UUID(str(message.get(name)))
    except ValueError as error:
        raise Invalid(f"{name} must be a UUID.", errors=[(name, "Not a UUID.")]) from error


def _orchestrator(session: Session, *, fresh: bool = True) -> Principal:
    """Return who speaks; fresh: hold its token against the database, else the batcher does."""
    principal = session.orchestrator
    if principal is None:
        raise Unauthenticated("Say hello with an orchestrator's token first.")
    if principal.scope not in (Scope.ORCHESTRATOR, Scope.OPERATOR):
        raise Forbidden(f"The scope {principal.scope} may not ask for agents.")
    if fresh:
        _still_good(principal)
    return principal


def _holder(session: Session, message: Message, lease_id: UUID) -> Principal:
    """Return the agent or orchestrator that ends a lease here; the claim checks that it may."""
    if not session.agents:
        return _orchestrator(session, fresh=False)
    name = message.get("agent_id") or (
        next(iter(session.agents)) if len(session.agents) == 1 else ""
    )
    if not name:
        # One connection speaks for many agents and does not say which: the lease does.
        name = queries.lease(lease_id).agent.agent_id
        if name not in session.agents:
            raise Forbidden("An agent's credential is good for its own leases only.")
    if name not in session.agents:
        raise Unauthenticated(f"{name} has not said hello on this connection.")
    return session.agents[name]


def _credential(principal: Principal) -> UUID | None:
    return principal.credential.id if principal.credential else None


def _still_good(principal: Principal) -> None:
    """This will refuse a token that was revoked after its hello."""
    if principal.credential is not None:
        credentials.check(principal.credential)


def _live_leases(agent: Agent) -> list[Any]:
    return list(queries.leases().filter(agent=agent, status__in=["offered", "active", "parked"]))
