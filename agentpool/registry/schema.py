"""What the OpenAPI document says beyond the views: callers, errors, and our own kinds of fields."""

from typing import Any

from django.conf import settings
from django.urls.converters import get_converters
from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.utils import OpenApiParameter

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "code", "detail", "errors"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}
_IDEMPOTENCY_KEY = OpenApiParameter(
    "Idempotency-Key",
    location=OpenApiParameter.HEADER,
    description="The same key with the same body brings the first answer again.",
)


class ProblemSchema(AutoSchema):
    """Every operation may answer with a problem; paths name the form of their parameters."""

    def get_operation(self, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        """Return the operation with the problem answer added."""
        operation: dict[str, Any] | None = super().get_operation(*args, **kwargs)
        if operation is not None:
            operation["responses"]["default"] = {
                "description": "The call was refused; `code` says why and never changes meaning.",
                "content": {"application/problem+json": {"schema": _PROBLEM}},
            }
        return operation

    def get_operation_id(self) -> str:
        """Return the operation's name; the GET of a whole list ends in _list."""
        name: str = super().get_operation_id()
        is_page = self.method == "GET" and not self.path.endswith("}") and self._shows_pages()
        return name.removesuffix("_retrieve") + "_list" if is_page else name

    def get_override_parameters(self) -> list[Any]:
        """Return the parameters that no view has to name itself."""
        handler = getattr(self.view, self.method.lower())
        return [_IDEMPOTENCY_KEY] if getattr(handler, "is_idempotent", False) else []

    def _shows_pages(self) -> bool:
        answers: Any = self.get_response_serializers()
        body = answers.get(200) if isinstance(answers, dict) else None
        return isinstance(body, dict) and "results" in body.get("properties", {})

    def _resolve_path_parameters(self, variables: list[str]) -> list[dict[str, Any]]:
        parameters: list[dict[str, Any]] = super()._resolve_path_parameters(  # type: ignore[no-untyped-call]
            variables
        )
        for parameter in parameters:
            converter = get_converters().get(parameter["name"])
            if converter is not None:  # ours are named as what they convert
                parameter["schema"]["pattern"] = f"^{converter.regex}$"
        return parameters


class BearerScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells clients about the bearer token."""

    target_class = "agentpool.registry.rest.BearerAuthentication"
    name = "bearer"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        """Return the scheme."""
        return {"type": "http", "scheme": "bearer"}


class SessionScheme(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """Tells of the browser's login."""

    target_class = "agentpool.registry.rest.SessionAuthentication"
    name = "session"

    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, str]:
        """Return the scheme."""
        return {"type": "apiKey", "in": "cookie", "name": settings.SESSION_COOKIE_NAME}


class LevelField(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """An ordered enum goes over the wire by the names of its members."""

    target_class = "agentpool.registry.fields.Level"

    def get_name(self) -> str:
        """Return the component's name."""
        return str(self.target.enum.__name__)

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the names."""
        return {"type": "string", "enum": [member.name.lower() for member in self.target.enum]}


class ObjectField(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """A JSON object is an object, not just anything."""

    target_class = "agentpool.registry.fields.Object"

    def map_serializer_field(self, auto_schema: AutoSchema, direction: Any) -> dict[str, Any]:
        """Return the type."""
        nullable = ["object", "null"] if self.target.allow_null else "object"
        return {"type": nullable, "additionalProperties": True}
