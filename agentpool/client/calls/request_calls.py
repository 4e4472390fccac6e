"""Calls about requests: asking for agents."""

from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from agentpool.client import models
from agentpool.client.calls import fields
from agentpool.client.calls.base import BASE, Call, by_gateway, create, delete, get, part, present
from agentpool.client.models import Json


def request(
    *,
    agent_type: str,
    project: str,
    wait_s: float = 0,
    idempotency_key: str | None = None,
    **wish: Unpack[fields.Wish],
) -> Call[models.Request]:
    """Ask for an agent; the request holds its lease when one is granted within `wait_s` (<= 60)."""
    body = {"agent_type": agent_type, "project": project, "wait_s": wait_s, **wish}
    call = create("/requests", body, parse=_answered, key=idempotency_key, hold_s=wait_s)
    return by_gateway(call, "acquire", idempotency_key=call.headers["Idempotency-Key"])


def request_batch(
    *,
    requests: Sequence[fields.BatchedWish],
    gang: bool = False,
    idempotency_key: str | None = None,
) -> Call[Json]:
    """Ask for several agents in one transaction; `gang` grants all of them or none."""
    body = {"requests": list(requests), "gang": gang}
    return create("/requests/batch", body, parse=models.as_json, key=idempotency_key)


def requests(**only: Unpack[fields.RequestFilter]) -> Call[models.Page[models.Request]]:
    """Return a page of requests."""
    return get("/requests", parse=models.page_reader(models.Request), params=only)


def get_request(
    request_id: str, *, wait_s: float = 0, seen: str | None = None
) -> Call[models.Request]:
    """Return a request; with `wait_s` (<= 60) as soon as its status differs from `seen`."""
    params = present({"wait": wait_s or None, "seen": seen})
    path = f"/requests/{part(request_id)}"
    call = get(path, parse=models.reader(models.Request), params=params, hold_s=wait_s)
    return by_gateway(call, "wait", request_id=request_id, wait_s=wait_s, seen=seen)


def set_priority(request_id: str, *, priority: int, note: str = "") -> Call[models.Request]:
    """Change the priority (0-100) of a request that waits."""
    body = present({"priority": priority, "note": note or None})
    return Call(
        method="PATCH",
        path=f"{BASE}/requests/{part(request_id)}",
        parse=models.reader(models.Request),
        body=body,
    )


def cancel_request(request_id: str, *, reason: str = "") -> Call[Json]:
    """Cancel a request; its lease, if any, ends too."""
    call = delete(f"/requests/{part(request_id)}", params={"reason": reason} if reason else {})
    return by_gateway(call, "cancel", request_id=request_id, reason=reason or None)


def explain(request_id: str) -> Call[Json]:
    """Return why this agent was chosen, or why the request still waits."""
    call = get(f"/requests/{part(request_id)}/explain", parse=models.as_json)
    return by_gateway(call, "explain", request_id=request_id)


def _answered(raw: Any) -> models.Request:
    """Read the answer: the lease of a request that was granted at once, or the request itself."""
    if isinstance(raw, Mapping) and "fencing_token" in raw:
        known = {name: raw.get(name) for name in ("agent_type", "project", "cycle_id", "phase")}
        attempt = {"attempts": raw.get("attempt"), "waited_s": raw.get("waited_s")}
        request = {"id": raw.get("request_id"), "status": "granted", "lease": raw}
        return models.read(models.Request, {**known, **attempt, **request})
    return models.read(models.Request, raw)
