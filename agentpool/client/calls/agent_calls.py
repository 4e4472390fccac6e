"""Calls about agents: what they say of themselves, and what operators do with them."""

from collections.abc import Sequence
from typing import Any, Unpack

from agentpool.client import models
from agentpool.client.calls import base, fields
from agentpool.client.calls.base import Call, by_gateway, create, delete, get, part, post, present
from agentpool.client.models import Json


def agents(**only: Unpack[fields.AgentFilter]) -> Call[models.Page[models.Agent]]:
    """Return a page of agents."""
    return get("", parse=models.page_reader(models.Agent), params=only)


def agent(agent_id: str) -> Call[models.Agent]:
    """Return the agent of that external id."""
    return get(f"/agent-id/{part(agent_id)}", parse=models.reader(models.Agent))


def agent_row(pool_id: str) -> Call[models.Agent]:
    """Return the agent of that row id."""
    return get(f"/{part(pool_id)}", parse=models.reader(models.Agent))


def register_agent(
    *, agent_id: str, agent_type: str, **about: Unpack[fields.Registration]
) -> Call[models.Agent]:
    """Register an agent, or raise the incarnation of a known one; the credential comes once."""
    body = {"agent_id": agent_id, "agent_type": agent_type, **about}
    return create("", body, parse=models.reader(models.Agent))


def change_agent(
    pool_id: str, *, generation: int | None = None, changes: Json
) -> Call[models.Agent]:
    """Change fields of an agent; with `generation` only when nobody changed it since."""
    headers = {} if generation is None else {"If-Match": f'"g{generation}"'}
    return Call(
        method="PATCH",
        path=f"{base.BASE}/{part(pool_id)}",
        parse=models.reader(models.Agent),
        body=dict(changes),
        headers=headers,
    )


def retire_agent(pool_id: str, *, force: bool = False, reason: str = "") -> Call[Json]:
    """Retire an agent: at once without leases, else after draining; `force` cancels the leases."""
    params = {"force": "true"} if force else {}
    return delete(f"/{part(pool_id)}", params={**params, **({"reason": reason} if reason else {})})


def rotate_credential(agent_id: str, *, note: str = "") -> Call[Json]:
    """Make an agent's credential anew; it comes once, the old one is void at once."""
    return create(f"/{part(agent_id)}/rotate-credential", {"note": note}, parse=models.as_json)


def check_health() -> Call[Json]:
    """Judge the silence of all agents now; return how many changed."""
    return post("/health/check", {}, parse=models.as_json)


def set_status(
    agent_id: str, *, status: str, reason: str = "", deadline_s: float | None = None
) -> Call[models.Agent]:
    """
    Move an agent to another status, such as `draining` or `idle`.

    `deadline_s`: what still runs so many seconds after the beginning of a drain is cancelled.
    """
    body = present({"status": status, "reason": reason, "deadline_s": deadline_s})
    return post(f"/{part(agent_id)}/status", body, parse=models.reader(models.Agent))


def set_health(
    agent_id: str, *, health: str, note: str = "", until: str | None = None
) -> Call[models.Agent]:
    """Judge an agent: good, maintenance (no new work) or quarantined; `until` is ISO-8601."""
    body = present({"health": health, "note": note, "until": until})
    return post(f"/{part(agent_id)}/health", body, parse=models.reader(models.Agent))


def heartbeat(
    agent_id: str,
    *,
    incarnation: int,
    leases: Sequence[fields.LeaseReport] = (),
    throttled: Sequence[Json] = (),
    draining: bool = False,
) -> Call[models.Heartbeat]:
    """Say that the agent lives and what its leases do; renews them."""
    body: dict[str, Any] = {"incarnation": incarnation, "leases": list(leases)}
    if throttled:
        body["throttled"] = list(throttled)
    if draining:
        body["draining"] = True
    path = f"/{part(agent_id)}/heartbeat"
    call = post(path, body, parse=models.reader(models.Heartbeat), repeatable=True)
    return by_gateway(call, "heartbeat", agent_id=agent_id)


def offers(agent_id: str, *, wait_s: float = 0) -> Call[models.Offers]:
    """Return what is offered to the agent, waiting up to `wait_s` for something to come."""
    return get(
        f"/{part(agent_id)}/offers",
        parse=models.reader(models.Offers),
        params={"wait": wait_s},
        hold_s=wait_s,
    )


def assign(*, agent_type: str, project: str, **wish: Unpack[fields.Wish]) -> Call[models.Lease]:
    """Get a lease now, or fail with `capacity_exhausted`."""
    body = {"agent_type": agent_type, "project": project, **wish}
    return create("/assign", body, parse=models.reader(models.Lease))


def release_agent(
    agent_id: str,
    *,
    lease_id: str | None = None,
    project: str | None = None,
    fencing_token: int | None = None,
    outcome: str = "success",
    error: str | None = None,
) -> Call[Json]:
    """End leases of an agent: the named one, those of a project, or all."""
    body = present(
        {
            "lease_id": lease_id,
            "project": project,
            "fencing_token": fencing_token,
            "outcome": outcome,
            "error": error,
        }
    )
    return post(f"/{part(agent_id)}/release", body, parse=models.as_json)
