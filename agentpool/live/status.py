"""Whether the parts of the control plane work: what /healthz and /readyz say."""

from typing import Any

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpRequest, JsonResponse

from agentpool.registry import queries


def healthz(request: HttpRequest) -> JsonResponse:
    """Answer that this process is up; asks nobody."""
    return JsonResponse({"ok": True})


def readyz(request: HttpRequest) -> JsonResponse:
    """Answer 200 when database, job cluster and relay work, else 503 naming which does not."""
    parts = _parts()
    ready = all(part["ok"] for part in parts.values())
    return JsonResponse({"ok": ready, **parts}, status=200 if ready else 503)


def _parts() -> dict[str, dict[str, Any]]:
    try:
        ages = {"jobs": queries.tick_age_s("jobs"), "relay": queries.tick_age_s("relay")}
    except DatabaseError as error:
        away = {"ok": False, "age_s": None, "detail": "unknown: the database is away"}
        detail = str(error).strip().splitlines()[0] if str(error).strip() else "away"
        return {"database": {"ok": False, "detail": detail}, "jobs": away, "relay": away}
    return {
        "database": {"ok": True, "detail": "answers"},
        **{name: _part(age) for name, age in ages.items()},
    }


def _part(age_s: float | None) -> dict[str, Any]:
    if age_s is None:
        return {"ok": False, "age_s": None, "detail": "never seen working"}
    ok = age_s < settings.STALE_S
    detail = f"last seen working {age_s:.1f} s ago"
    return {"ok": ok, "age_s": round(age_s, 3), "detail": detail}
