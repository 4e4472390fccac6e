"""
The frame of every REST door: who calls, what they may, how errors, pages and versions look.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import UUID

from django.conf import settings
from django.core.exceptions import PermissionDenied, RequestDataTooBig
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.urls import is_valid_path
from rest_framework import authentication, exceptions, parsers, permissions
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.request import Request as RestRequest
from rest_framework.response import Response

from agentpool.registry import credentials, repeats, roles
from agentpool.registry.errors import (
    Forbidden,
    Invalid,
    NotFound,
    Refusal,
    Unauthenticated,
    Unavailable,
)
from agentpool.registry.models import Agent, Credential
from agentpool.registry.states import Scope

if TYPE_CHECKING:  # importing it here would be a cycle: its settings name this module
    from rest_framework.views import APIView

PROBLEM_TYPE = "application/problem+json"
MAX_BODY_BYTES = 512 * 1024

READERS = frozenset({Scope.VIEWER, Scope.ORCHESTRATOR, Scope.OPERATOR})
OPERATORS = frozenset({Scope.OPERATOR})
ORCHESTRATORS = frozenset({Scope.ORCHESTRATOR, Scope.OPERATOR})
AGENTS = frozenset({Scope.AGENT, Scope.OPERATOR})
HOLDERS = frozenset({Scope.AGENT, Scope.ORCHESTRATOR, Scope.OPERATOR})


@dataclass(frozen=True)
class Principal:
    """Who calls: a scope, a name for the record, and the agent whose credential it is."""

    scope: Scope
    name: str
    agent: Agent | None = None
    credential: Credential | None = None
    is_authenticated: ClassVar[bool] = True

    @property
    def is_operator(self) -> bool:
        """Whether everything is allowed."""
        return self.scope is Scope.OPERATOR

    @property
    def credential_id(self) -> UUID | None:
        """The token's row id, None: no token, but a browser's session."""
        return self.credential.id if self.credential else None

    def may_act_as(self, agent: Agent) -> bool:
        """Whether the caller is that agent, or an operator."""
        return self.is_operator or (self.agent is not None and self.agent.id == agent.id)


class ApiRequest(RestRequest):
    """REST framework's request, whose caller is a Principal."""

    user: Principal  # type: ignore[assignment]


def principal_of(secret: str) -> Principal:
    """
    Return who a bearer secret stands for.

    Raises: Unauthenticated.
    """
    credential = credentials.find(secret)
    scope = Scope(credential.scope)
    name = credential.agent.agent_id if credential.agent else f"token:{credential.hint}"
    return Principal(scope=scope, name=name, agent=credential.agent, credential=credential)


class BearerAuthentication(authentication.BaseAuthentication):
    """
    `Authorization: Bearer <token>`.

    remembers: for doors that hold the credential against the database themselves, with their work.
    Who a token stands for never changes; whether it is still good is then for the door to ask.
    """

    def __init__(self, *, remembers: bool = False) -> None:
        self._remembers = remembers

    def authenticate(self, request: RestRequest) -> tuple[Principal, None] | None:
        """Return the token's principal, None without the header; raises Unauthenticated."""
        scheme, _, secret = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthenticated("The Authorization header must be: Bearer <token>.")
        named = secret.strip()
        return (_remembered_principal if self._remembers else principal_of)(named), None

    def authenticate_header(self, request: RestRequest) -> str:
        """Return what a 401 asks for."""
        return "Bearer"


_REMEMBERED_S, _MOST_REMEMBERED = 60.0, 10_000
_remembered: dict[bytes, tuple[float, Principal]] = {}


def _remembered_principal(secret: str) -> Principal:
    """Return who a secret stands for, or stood for a short time ago; raises Unauthenticated."""
    key = hashlib.sha256(secret.encode()).digest()
    known = _remembered.get(key)
    if known is not None and time.monotonic() - known[0] < _REMEMBERED_S:
        return known[1]
    found = principal_of(secret)
    if len(_remembered) >= _MOST_REMEMBERED:
        _remembered.clear()
    _remembered[key] = (time.monotonic(), found)
    return found


def remembering(is_meant: bool) -> list[authentication.BaseAuthentication]:
    """Return the ways to say who one is; is_meant: by a token that may be remembered."""
    return [BearerAuthentication(remembers=is_meant), SessionAuthentication()]


class SessionAuthentication(authentication.SessionAuthentication):
    """A browser's login: whoever holds `registry.operate` is an operator, others may look."""

    def authenticate(self, request: RestRequest) -> tuple[Principal, None] | None:
        """Return the user's principal, None without a session; POSTs need the CSRF token."""
        known = getattr(request._request, "user", None)
        if isinstance(known, Principal):
            return known, None  # a call that waits comes here again with the same request
        found = super().authenticate(request)
        return (principal_of_user(found[0]), None) if found else None


def principal_of_user(user: Any) -> Principal:
    """Return what a logged-in person may do."""
    scope = Scope.OPERATOR if roles.is_operator(user) else Scope.VIEWER
    return Principal(scope=scope, name=f"user:{user.get_username()}")


class Scoped(permissions.BasePermission):
    """Holds a view's table `scopes` (method > scopes) against the caller; readers by default."""

    def has_permission(self, request: RestRequest, view: APIView) -> bool:
        """Return True; raises Unauthenticated or Forbidden."""
        principal: Principal | None = request.user  # type: ignore[assignment]
        if principal is None:
            raise Unauthenticated("This needs a token: Authorization: Bearer <token>.")
        table: Mapping[str, frozenset[Scope]] = getattr(view, "scopes", {})
        method = "GET" if request.method in ("HEAD", "OPTIONS") else str(request.method)
        allowed = table.get(method, READERS if method == "GET" else OPERATORS)
        if principal.scope not in allowed:
            names = ", ".join(sorted(allowed))
            raise Forbidden(f"The scope {principal.scope} may not do this; it takes: {names}.")
        return True


class Ready(HttpResponse):
    """An answer that is JSON already, and needs no renderer."""

    def __init__(self, text: str, *, status: int = 200, headers: Any = None) -> None:
        super().__init__(
            text.encode(), status=status, headers=headers, content_type="application/json"
        )

    @property
    def data(self) -> Any:
        """Its value, for the few who look."""
        return json.loads(self.content)


Answer = Response | Ready


class OneForm(DefaultContentNegotiation):
    """Answers are JSON: who asks for that, or for anything, is spared the choice."""

    def select_renderer(
        self, request: RestRequest, renderers: Any, format_suffix: str | None = None
    ) -> Any:
        """Return the renderer and its media type; raises NotAcceptable, Http404."""
        asked = request.META.get("HTTP_ACCEPT", "*/*")
        is_plain = asked in ("*/*", "application/json") and not request.META.get("QUERY_STRING")
        if is_plain and len(renderers) == 1:
            return renderers[0], renderers[0].media_type
        return super().select_renderer(request, renderers, format_suffix)


class BoundedJSONParser(parsers.JSONParser):
    """JSON of at most 512 kB, an object or a list."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        """Return the parsed body; raises Invalid."""
        request = (parser_context or {}).get("request")
        length = int(request.META.get("CONTENT_LENGTH") or 0) if request else 0
        if length > MAX_BODY_BYTES:
            raise Invalid(f"The body has {length:,} bytes; at most {MAX_BODY_BYTES:,} are taken.")
        try:
            parsed = super().parse(stream, media_type, parser_context)
        except (exceptions.ParseError, RecursionError, UnicodeError) as error:
            raise Invalid(f"The body is not JSON: {error}") from error
        if not isinstance(parsed, dict | list):
            raise Invalid("The body must be a JSON object.")
        return parsed


# -- errors ------------------------------------------------------------------------------------


def problem(error: Exception, context: Mapping[str, Any]) -> Response | None:
    """Return the RFC 9457 answer of an error, None: not foreseen (it becomes a 500)."""
    refusal = _as_refusal(error)
    if refusal is None:
        return None
    status = refusal.status
    if isinstance(error, exceptions.APIException) and status == Invalid.status:
        status = error.status_code
    if isinstance(error, exceptions.ValidationError):
        status = 422
    headers = {}
    if refusal.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(refusal.retry_after_s)))
    if isinstance(refusal, Unauthenticated):
        headers["WWW-Authenticate"] = "Bearer"
    body = {**refusal.problem(), "status": status}
    return Response(body, status=status, headers=headers, content_type=PROBLEM_TYPE)


def _as_refusal(error: Exception) -> Refusal | None:
    match error:
        case Refusal():
            return error
        case exceptions.ValidationError():
            fields = list(_flatten(error.detail))
            what = "; ".join(f"{f}: {m}" if f else m for f, m in fields)
            return Invalid(what or "The input is not valid.", errors=fields)
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return Unauthenticated(str(error.detail))
        case exceptions.PermissionDenied() | PermissionDenied():
            return Forbidden(str(error) or "Not allowed.")
        case exceptions.NotFound() | Http404():
            return NotFound(str(error) or "There is nothing here.")
        case exceptions.APIException():
            return Invalid(str(error.detail))
        case RequestDataTooBig():
            return Invalid(f"The body has too many bytes; at most {MAX_BODY_BYTES:,} are taken.")
        case OperationalError() | InterfaceError():
            return Unavailable("The database is away for the moment; try again.", retry_after_s=2)
    return None


def _flatten(detail: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(detail, Mapping):
        for name, inner in detail.items():
            own = "" if name == "non_field_errors" else str(name)
            yield from _flatten(inner, ".".join(p for p in (path, own) if p))
    elif isinstance(detail, list | tuple):
        for index, inner in enumerate(detail):
            nested = isinstance(inner, Mapping)
            if not nested or inner:
                yield from _flatten(inner, f"{path}[{index}]" if nested else path)
    else:
        yield path, str(detail)


def plain_problem(refusal: Refusal, status: int | None = None) -> JsonResponse:
    """Return the same answer outside of REST framework's views."""
    body = dict(refusal.problem())
    body["status"] = status or refusal.status
    return JsonResponse(body, status=body["status"], content_type=PROBLEM_TYPE)


# -- versions, repeats ---------------------------------------------------------------------------


def etag(generation: int) -> str:
    """Return the ETag of a row's version."""
    return f'"g{generation}"'


def if_match(request: ApiRequest) -> int | None:
    """
    Return the version that If-Match asks for, None: any.

    Raises: Invalid.
    """
    header = request.headers.get("If-Match")
    if header is None or header.strip() == "*":
        return None
    found = re.fullmatch(r'(?:W/)?"g(\d{1,9})"', header.strip())
    if found is None:
        raise Invalid('If-Match must be an ETag that agentpool gave, like "g17".')
    return int(found.group(1))


def idempotent(handler: Callable[..., Answer]) -> Callable[..., Answer]:
    """
    Give a creating POST with an Idempotency-Key its first answer again (`repeats.once`).

    Raises: InvalidReuse, the key came before with another body.
    """

    @wraps(handler)
    def answer(view: APIView, request: ApiRequest, *args: Any, **kwargs: Any) -> Answer:
        key = request.META.get("HTTP_IDEMPOTENCY_KEY")
        if key is None:
            return handler(view, request, *args, **kwargs)
        got = repeats.once(
            principal=request.user.name,
            key=key,
            said=repeats.digest(str(request.method), request.path, request.data),
            seal=repeats.seal_of(request.headers.get("Authorization") or settings.SECRET_KEY),
            make=lambda: _kept(handler(view, request, *args, **kwargs)),
        )
        return Response(got.body, status=got.status, headers=dict(got.headers))

    answer.is_idempotent = True  # type: ignore[attr-defined]  # which the schema tells
    return answer


def _kept(response: Answer) -> repeats.Answer:
    headers = {k: v for k, v in response.headers.items() if k in ("Location", "ETag")}
    return repeats.Answer(response.status_code, response.data, headers)


def not_found(request: HttpRequest, exception: Exception) -> JsonResponse:
    """Return the answer for a path that leads nowhere, perhaps only for an id that is none."""
    if found := _NAMES_ONE.fullmatch(request.path):
        before, name, after = found.groups()
        if is_valid_path(f"{before}{UUID(int=0)}{after}"):
            return plain_problem(NotFound(f"{name} is no id: it is a UUID, given whole."))
    return plain_problem(NotFound(f"There is nothing at {request.path}."))


_NAMES_ONE = re.compile(r"(.*/(?:leases|requests|tokens|limits|optimize)/)([^/]+)(.*)")
