"""Calls about leases: holding, reporting and ending them."""

from collections.abc import Sequence
from typing import Unpack

from agentpool.client import models
from agentpool.client.calls import fields
from agentpool.client.calls.base import Call, by_gateway, get, part, post, present
from agentpool.client.models import Json


def leases(**only: Unpack[fields.LeaseFilter]) -> Call[models.Page[models.Lease]]:
    """Return a page of leases."""
    return get("/leases", parse=models.page_reader(models.Lease), params=only)


def get_lease(lease_id: str) -> Call[models.Lease]:
    """Return a lease."""
    return get(f"/leases/{part(lease_id)}", parse=models.reader(models.Lease))


def lease_log(lease_id: str, *, after: int = 0, wait_s: float = 0) -> Call[models.LogPage]:
    """Return what the work printed after seq `after`, waiting up to `wait_s` for more."""
    params = {"after": after, "wait": wait_s}
    path = f"/leases/{part(lease_id)}/log"
    return get(path, parse=models.reader(models.LogPage), params=params, hold_s=wait_s)


def renew(lease_id: str, *, fencing_token: int) -> Call[models.Lease]:
    """Hold the lease for another term."""
    return _on_lease(lease_id, "renew", fencing_token, repeatable=True)


def ack(lease_id: str, *, fencing_token: int) -> Call[models.Lease]:
    """Accept an offered lease."""
    return _on_lease(lease_id, "ack", fencing_token, repeatable=True)


def park(lease_id: str, *, fencing_token: int, reason: str = "") -> Call[models.Lease]:
    """Give the slot back while waiting for a person or a rate limit; the lease stays."""
    return _on_lease(lease_id, "park", fencing_token, {"reason": reason})


def resume(lease_id: str, *, fencing_token: int) -> Call[models.Lease]:
    """Take a slot again for a parked lease; the answer holds a new fencing token."""
    return _on_lease(lease_id, "resume", fencing_token)


def resize(
    lease_id: str,
    *,
    fencing_token: int,
    memory_mb: int | None = None,
    cpu_cores: float | None = None,
    token_budget: int | None = None,
    disk_space_mb: int | None = None,
) -> Call[models.Lease]:
    """Change what the lease reserves; None: that stays as it is."""
    amounts = {
        "memory_mb": memory_mb,
        "cpu_cores": cpu_cores,
        "token_budget": token_budget,
        "disk_space_mb": disk_space_mb,
    }
    return _on_lease(lease_id, "resize", fencing_token, present(amounts), repeatable=True)


def report_usage(
    lease_id: str,
    *,
    fencing_token: int,
    usage: fields.Usage,
    progress: fields.Progress | None = None,
) -> Call[models.Lease]:
    """Report what the work used so far."""
    body = present({"usage": dict(usage), "progress": progress})
    return _on_lease(lease_id, "usage", fencing_token, body, repeatable=True)


def append_log(lease_id: str, *, fencing_token: int, chunks: Sequence[Json]) -> Call[Json]:
    """Append `{stream, text}` chunks to the log of the lease."""
    body = {"fencing_token": fencing_token, "chunks": list(chunks)}
    call = post(f"/leases/{part(lease_id)}/log", body, parse=models.as_json)
    return by_gateway(call, "log", lease_id=lease_id)


def report_security(
    lease_id: str,
    *,
    fencing_token: int,
    enforcement: Json | None = None,
    incidents: Sequence[Json] = (),
) -> Call[Json]:
    """Say how a lease's work is isolated, and what its sandbox has refused."""
    body = present({"enforcement": enforcement, "incidents": list(incidents) or None})
    body["fencing_token"] = fencing_token
    return post(f"/leases/{part(lease_id)}/security", body, parse=models.as_json)


def release(
    lease_id: str,
    *,
    fencing_token: int,
    outcome: str = "success",
    retry: bool = False,
    error: str | None = None,
    usage: fields.Usage | None = None,
    result: Json | None = None,
) -> Call[models.Lease]:
    """End the lease; `retry` puts its request back into the queue without blame."""
    body = present({"outcome": outcome, "error": error, "usage": usage, "result": result})
    if retry:
        body["retry"] = True
    return _on_lease(lease_id, "release", fencing_token, body, repeatable=True)


def _on_lease(
    lease_id: str,
    action: str,
    fencing_token: int,
    body: Json | None = None,
    *,
    repeatable: bool = False,
) -> Call[models.Lease]:
    path = f"/leases/{part(lease_id)}/{action}"
    fields = {"fencing_token": fencing_token, **(body or {})}
    call = post(path, fields, parse=models.reader(models.Lease), repeatable=repeatable)
    return by_gateway(call, action, lease_id=lease_id)
