"""The doors of the actions: what may be done, what will happen, and the doing of it."""

from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any
from urllib.parse import urlencode

from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme

from agentpool.console.actions import ACTIONS, KINDS, Action, Results, offered, perform, rows_of
from agentpool.console.actions.base import Row, Trial
from agentpool.console.pages import PAGES
from agentpool.console.signin import signed_in
from agentpool.registry.errors import Refusal
from agentpool.registry.rest import principal_of_user

ROWS_NAMED = 12


def operators_only(view: Any) -> Any:
    """Let people who may operate through; others get 403, strangers the login."""

    @signed_in
    @wraps(view)
    def door(request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not principal_of_user(request.user).is_operator:
            raise PermissionDenied("Only operators may change something here.")
        answer: HttpResponse = view(request, **kwargs)
        return answer

    return door


@operators_only
def choose(request: HttpRequest) -> HttpResponse:
    """Show what may be done to the rows that are named."""
    given = request.POST if request.method == "POST" else request.GET
    for kind in KINDS.values():
        if rows := rows_of(kind, given.getlist(kind.name)):
            query = urlencode([(kind.name, kind.key(row)) for row in rows])
            names = [kind.told(row) for row in rows]
            return _shown(
                request,
                "choose",
                {
                    "title": names[0] if len(rows) == 1 else f"{len(rows)} {kind.plural}",
                    "offered": [
                        (action, next(iter(action.tells(rows)))) for action in offered(kind, rows)
                    ],
                    "query": query,
                },
            )
    return _nothing(request, any(given.getlist(kind.name) for kind in KINDS.values()))


@operators_only
def act(request: HttpRequest, name: str) -> HttpResponse:
    """
    Ask whether an action shall be done, saying in numbers what it does; on POST, do it.

    A POST with `ask` asks, too: a list names more rows than fit into an address. One with `try`
    says what would come of what was typed, and asks again.
    """
    action = ACTIONS.get(name)
    if action is None:
        raise Http404(f"There is no action {name}.")
    given = request.POST if request.method == "POST" else request.GET
    rows = rows_of(action.on, given.getlist(action.on.name)) if action.on else []
    if action.on and not rows:
        return _nothing(request, bool(given.getlist(action.on.name)))
    if action.on and len(rows) > 1 and not action.is_for_many:
        title = f"{action.label}: one {action.on.name} at a time, not {len(rows)}"
        return _shown(request, "choose", {"title": title, "offered": []}, status=400)
    if request.method != "POST" or "ask" in request.POST:
        able = [row for row in rows if action.allows(row)]
        return _asked(request, action, able or rows, left_out=len(rows) - len(able or rows))
    # Postgres keeps no NUL in a text, and nobody types one.
    values = {key: str(value).replace("\x00", "") for key, value in request.POST.items()}
    if "try" in values and action.tries is not None and len(rows) == 1:
        return _tried(request, action, rows, values)
    seen = dict(text.rpartition("=")[::2] for text in request.POST.getlist("seen"))
    actor = principal_of_user(request.user).name
    results = perform(action, rows, seen=seen, values=values, actor=actor)
    if len(results.outcomes) == 1 and results.failed:
        done = results.failed[0].done
        return _asked(
            request, action, rows, problem=done.sentence, faults=done.faults, typed=values
        )
    return _told(request, results, values)


def _nothing(request: HttpRequest, is_gone: bool) -> HttpResponse:
    """Say that no row is chosen, or that those chosen have been removed meanwhile."""
    title = "It is not there any more" if is_gone else "Nothing is chosen"
    return _shown(request, "choose", {"title": title, "is_gone": is_gone, "offered": []})


def _tried(
    request: HttpRequest, action: Action, rows: Sequence[Row], values: dict[str, str]
) -> HttpResponse:
    """Say what would come of what was typed; nothing is changed."""
    if action.tries is None:
        raise Http404(f"{action.name} can't be tried.")
    try:
        trial = action.tries(rows[0], values)
    except Refusal as refusal:
        faults = dict(refusal.errors)
        return _asked(request, action, rows, problem=refusal.detail, faults=faults, typed=values)
    return _asked(request, action, rows, typed=values, trial=trial)


def _asked(
    request: HttpRequest,
    action: Action,
    rows: Sequence[Row],
    *,
    left_out: int = 0,
    problem: str = "",
    faults: Mapping[str, str] | None = None,
    typed: dict[str, str] | None = None,
    trial: Trial | None = None,
) -> HttpResponse:
    kind = action.on
    if kind is not None and problem:
        rows = rows_of(kind, [kind.key(row) for row in rows])
    fields = [
        (
            field,
            (typed or {}).get(field.name, "" if field.value is None else field.value),
            (faults or {}).get(field.name, ""),
        )
        for field in action.fields(rows)
    ]
    context = {
        "action": action,
        "kind": kind,
        "title": _title(action, rows),
        "consequences": action.tells(rows) if kind is None or rows else [],
        "rows": [
            (kind.key(row), kind.told(row), kind.state(row), kind.seen(row)) for row in rows if kind
        ],
        "rows_named": ROWS_NAMED,
        "rows_hidden": len(rows) - ROWS_NAMED,
        "left_out": left_out,
        "fields": fields,
        "problem": problem,
        "trial": trial,
        "can_try": action.tries is not None,
        "back": _back(request),
    }
    status = 409 if problem and not getattr(request, "htmx", False) else 200
    return _shown(request, "confirm", context, status=status)


def _title(action: Action, rows: Sequence[Row]) -> str:
    if action.on is None:
        return action.label
    if len(rows) == 1:
        return f"{action.label}: {action.on.told(rows[0])}"
    return f"{action.label} {len(rows)} {action.on.plural}"


def _told(request: HttpRequest, results: Results, values: dict[str, str]) -> HttpResponse:
    undo = ACTIONS.get(results.action.undo)
    context = {
        "title": results.action.label,
        "results": results,
        "kind": results.action.on,
        "undo": undo if results.done else None,
        "rows_named": ROWS_NAMED,
        "rows_hidden": len(results.done) - ROWS_NAMED,
        "back": _back(request),
    }
    answer = _shown(request, "result", context)
    if getattr(request, "htmx", False) and not results.secrets:
        answer["HX-Retarget"] = "#messages"
        answer["HX-Reswap"] = "afterbegin"
        answer["HX-Trigger"] = "agentpool:done"
    return answer


def _back(request: HttpRequest) -> str:
    """Return the page of ours that the person came from."""
    given = request.POST.get("back") or request.headers.get("Referer", "")
    hosts = {request.get_host()}
    is_ours = url_has_allowed_host_and_scheme(given, hosts, require_https=request.is_secure())
    return given if given and is_ours and "/do" not in given else reverse("overview")


def _shown(
    request: HttpRequest, name: str, context: dict[str, Any], status: int = 200
) -> HttpResponse:
    """Show a part in the open dialog, or as a page of its own where there is no JavaScript."""
    is_part = bool(getattr(request, "htmx", False))
    template = f"console/_{name}.html" if is_part else "console/do.html"
    shown = {
        **context,
        "part": f"console/_{name}.html",
        "is_part": is_part,
        "menu": [each for each in PAGES.values() if each.menu],
    }
    return render(request, template, shown, status=status)
