"""Calls about pools, tokens, events, scaling and resources."""

from dataclasses import replace

from agentpool.client import models
from agentpool.client.calls import base
from agentpool.client.calls.base import Call, create, delete, get, part, post, present
from agentpool.client.models import Json


def pools() -> Call[models.Page[models.Pool]]:
    """Return the pools."""
    return get("/pools", parse=models.page_reader(models.Pool))


def pool(agent_type: str) -> Call[models.Pool]:
    """Return one pool."""
    return get(f"/pools/{part(agent_type)}", parse=models.reader(models.Pool))


def create_pool(*, agent_type: str, settings: Json | None = None) -> Call[models.Pool]:
    """Make a pool for a type of agents."""
    body = {"agent_type": agent_type, **(settings or {})}
    return create("/pools", body, parse=models.reader(models.Pool))


def change_pool(agent_type: str, *, changes: Json) -> Call[models.Pool]:
    """Change the settings of a pool."""
    return Call(
        method="PATCH",
        path=f"{base.BASE}/pools/{part(agent_type)}",
        parse=models.reader(models.Pool),
        body=dict(changes),
    )


def enrolment_token(
    agent_type: str, *, uses: int = 1, expires_in_s: float | None = None
) -> Call[models.Token]:
    """Make a token with which `uses` agents may enrol within `expires_in_s` (None: a day)."""
    body = present({"uses": uses, "expires_in_s": expires_in_s})
    path = f"/pools/{part(agent_type)}/enrolment-tokens"
    return create(path, body, parse=models.reader(models.Token))


def profiles() -> Call[Json]:
    """Return the security profiles of all types."""
    return get("/security/profiles", parse=models.as_json)


def profile(agent_type: str) -> Call[Json]:
    """Return the security profile of a type."""
    return get(f"/security/profiles/{part(agent_type)}", parse=models.as_json)


def change_profile(agent_type: str, *, changes: Json) -> Call[Json]:
    """Change a security profile; its version rises."""
    return Call(
        method="PATCH",
        path=f"{base.BASE}/security/profiles/{part(agent_type)}",
        parse=models.as_json,
        body=dict(changes),
    )


def tokens() -> Call[models.Page[models.Token]]:
    """Return the API tokens, without their secret part."""
    return get("/tokens", parse=models.page_reader(models.Token))


def create_token(*, name: str, scope: str, expires_in_s: float | None = None) -> Call[models.Token]:
    """Make an API token of a scope: viewer, orchestrator or operator."""
    body = present({"name": name, "scope": scope, "expires_in_s": expires_in_s})
    return create("/tokens", body, parse=models.reader(models.Token))


def revoke_token(token_id: str) -> Call[Json]:
    """Revoke a token."""
    return delete(f"/tokens/{part(token_id)}")


def whoami() -> Call[Json]:
    """Return the caller's name and scope."""
    return get("/tokens/whoami", parse=models.as_json)


def events(
    *, after: int | None = None, wait_s: float = 0, limit: int = 200
) -> Call[models.EventPage]:
    """Return the events after seq `after` in order, waiting up to `wait_s` for the first."""
    params = present({"after": after, "wait": wait_s or None, "limit": limit})
    parse = models.reader(models.EventPage)
    return get("/events", parse=parse, params=params, hold_s=wait_s)


def metrics_summary(
    *,
    agent_type: str | None = None,
    since: str | None = None,
    until: str | None = None,
    step_s: float | None = None,
) -> Call[Json]:
    """Return the pool metrics per type and in total, or with `since` their series."""
    named = {"agent_type": agent_type, "since": since, "until": until, "step_s": step_s}
    params = present(named)
    return get("/metrics/summary", parse=models.as_json, params=params)


def metrics_health() -> Call[Json]:
    """Return each agent's health with its reasons."""
    return get("/metrics/health", parse=models.as_json)


def scaling_recommendation(*, agent_type: str | None = None) -> Call[Json]:
    """Return what scaling would do now about one type, or each, and why."""
    params = present({"agent_type": agent_type})
    return get("/scaling/recommendation", parse=models.as_json, params=params)


def scale(*, agent_type: str, action: str, count: int, reason: str = "") -> Call[Json]:
    """Start or stop agents: `scale_up` or `scale_down` by `count`, or `set` to it."""
    body = {"agent_type": agent_type, "action": action, "count": count, "reason": reason}
    return create("/scaling/execute", body, parse=models.as_json)


def scaling_history(*, agent_type: str | None = None, limit: int | None = None) -> Call[Json]:
    """Return the changes of size, newest first."""
    params = present({"agent_type": agent_type, "limit": limit})
    return get("/scaling/history", parse=models.as_json, params=params)


def scaling_decisions(*, agent_type: str | None = None, limit: int | None = None) -> Call[Json]:
    """Return what was decided about sizes, newest first, with inputs and bounds."""
    params = present({"agent_type": agent_type, "limit": limit})
    return get("/scaling/decisions", parse=models.as_json, params=params)


def scaling_policies() -> Call[Json]:
    """Return the scaling policy of each type."""
    return get("/scaling/policy", parse=models.as_json)


def set_scaling_policy(*, policy: Json) -> Call[Json]:
    """Set the scaling policy of a type; it is validated as a whole."""
    return post("/scaling/policy", dict(policy), parse=models.as_json)


def start_scaling(*, agent_type: str | None = None) -> Call[Json]:
    """Switch scaling to the mode it had before it was stopped."""
    return post("/scaling/start", present({"agent_type": agent_type}), parse=models.as_json)


def stop_scaling(*, agent_type: str | None = None) -> Call[Json]:
    """Switch scaling off."""
    return post("/scaling/stop", present({"agent_type": agent_type}), parse=models.as_json)


def announce_work(*, event: Json) -> Call[Json]:
    """Announce work to come, so that agents can be started ahead of it."""
    return create("/scaling/events", dict(event), parse=models.as_json)


def resources() -> Call[Json]:
    """Return total and used resources, by type and project, and the limits."""
    return get("/resources", parse=models.as_json)


def learning(agent_type: str | None = None, *, days: int = 14) -> Call[Json]:
    """Return what was learnt of each pool, or of one with its kinds of work and agents."""
    path = f"/learning/{part(agent_type)}" if agent_type else "/learning"
    return get(path, params={"days": days}, parse=models.as_json)


def agent_learning(agent_id: str) -> Call[Json]:
    """Return what is expected of an agent at each kind of work, and how suspicious it is."""
    return get(f"/{part(agent_id)}/learning", parse=models.as_json)


def resource_limits() -> Call[Json]:
    """Return the limits on the installation, pools and projects, with what is used of each."""
    return get("/resources/limits", parse=models.as_json)


def remove_resource_limit(
    limit_id: str, *, generation: int | None = None, reason: str = ""
) -> Call[Json]:
    """Remove a limit; with `generation` only when nobody changed it since."""
    headers = {} if generation is None else {"If-Match": f'"g{generation}"'}
    params = {"reason": reason} if reason else {}
    return replace(delete(f"/resources/limits/{part(limit_id)}", params=params), headers=headers)


def set_resource_limits(*, limits: Json) -> Call[Json]:
    """Create or change, as a whole, the limit of a `level` and `name`."""
    return post("/resources/limits", dict(limits), parse=models.as_json, repeatable=True)


def rebalance(*, dry_run: bool = False, agent_type: str | None = None) -> Call[Json]:
    """Rebalance what the leases reserve; a dry run only tells what it would do."""
    return Call(
        method="POST",
        path=f"{base.BASE}/resources/rebalance",
        parse=models.as_json,
        params={"dry_run": "true"} if dry_run else {},
        body=present({"agent_type": agent_type}),
    )


def rebalance_history(
    *, agent_type: str | None = None, status: str | None = None, limit: int | None = None
) -> Call[Json]:
    """Return the changes of grants, newest first, with what became of them."""
    params = present({"agent_type": agent_type, "status": status, "limit": limit})
    return get("/resources/rebalance/history", parse=models.as_json, params=params)


def rebalance_policies() -> Call[Json]:
    """Return whether the grants of each type change by themselves, and by which rules."""
    return get("/resources/rebalance/policy", parse=models.as_json)


def set_rebalance_policy(*, policy: Json) -> Call[Json]:
    """Set `mode` and `settings` of an `agent_type`; they are judged as a whole."""
    return post("/resources/rebalance/policy", dict(policy), parse=models.as_json, repeatable=True)


def optimize(*, agent_type: str | None = None) -> Call[Json]:
    """Look for issues now; pools in mode auto also act on them."""
    return post("/optimize", present({"agent_type": agent_type}), parse=models.as_json)


def optimize_history(
    *, agent_type: str | None = None, status: str | None = None, limit: int | None = None
) -> Call[Json]:
    """Return what was proposed, newest first, with what was expected and what came of it."""
    params = present({"agent_type": agent_type, "status": status, "limit": limit})
    return get("/optimize/history", parse=models.as_json, params=params)


def apply_optimization(proposal_id: str, *, note: str = "") -> Call[Json]:
    """Carry out an open proposal."""
    return post(f"/optimize/{part(proposal_id)}/apply", {"note": note}, parse=models.as_json)


def dismiss_optimization(proposal_id: str, *, note: str = "") -> Call[Json]:
    """Close an open proposal; it is not made again for a day."""
    return post(f"/optimize/{part(proposal_id)}/dismiss", {"note": note}, parse=models.as_json)


def optimize_policies() -> Call[Json]:
    """Return whether proposals of each type are carried out alone, and by which rules."""
    return get("/optimize/policy", parse=models.as_json)


def set_optimize_policy(*, policy: Json) -> Call[Json]:
    """Set `mode` and `settings` of an `agent_type`; they are judged as a whole."""
    return post("/optimize/policy", dict(policy), parse=models.as_json, repeatable=True)


def readiness() -> Call[Json]:
    """Return whether database, jobs and relay are alive; raises `Unavailable` when one is not."""
    return Call(method="GET", path="/readyz", parse=models.as_json)
