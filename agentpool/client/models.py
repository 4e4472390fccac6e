"""Typed, frozen views of what the API answers; fields that are not known here stay in `raw`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qs, urlsplit

T = TypeVar("T")
Json = Mapping[str, Any]


def read(kind: type[T], raw: Json) -> T:
    """
    Return `raw` as a `kind`: unknown fields are ignored, absent or null ones keep their default.

    Raises: ValueError, the answer is no object, or lacks a field that has no default.
    """
    if not isinstance(raw, Mapping):
        raise ValueError(f"expected a {kind.__name__}, got {type(raw).__name__}")
    values: dict[str, Any] = {}
    for each in fields(kind):  # type: ignore[arg-type]
        if each.name == "raw":
            values["raw"] = raw
        elif raw.get(each.name) is not None:
            values[each.name] = _value(each, raw[each.name])
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"incomplete {kind.__name__}: {error}") from error


def _value(each: Field[Any], value: Any) -> Any:
    """Fields named `at` or `..._at` are times; those with a kind are such objects, or lists."""
    if kind := each.metadata.get("kind"):
        if isinstance(value, list):
            return tuple(read(kind, one) for one in value)
        return read(kind, value)
    is_time = each.name == "at" or each.name.endswith("_at")
    return datetime.fromisoformat(value) if is_time else value


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """Some rows of a list; `next` is the cursor of the following page (None: this is the last)."""

    items: Sequence[T]
    next: str | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Performance:
    """What an agent's finished leases say about it; times in seconds."""

    leases: int = 0
    success_rate: float | None = None
    mean_s: float | None = None
    p95_s: float | None = None
    tokens: int = 0
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agent:
    """A registered worker. `credential` is set only in the answer to its registration."""

    id: str
    agent_id: str
    agent_type: str
    name: str = ""
    status: str = ""
    health: str = ""
    health_note: str = ""
    schedulable: bool = False
    current_project: str | None = None
    projects: Sequence[str] = ()
    capabilities: Sequence[str] = ()
    tools: Sequence[str] = ()
    labels: Mapping[str, Any] = field(default_factory=dict)
    max_concurrent: int = 1
    active_leases: int = 0
    load: float = 0.0
    memory_mb: int = 0
    cpu_cores: float = 0.0
    token_budget: int = 0
    disk_space_mb: int = 0
    used: Json = field(default_factory=dict)
    security_level: str = ""
    isolation_levels: Sequence[str] = ()
    provider: str = ""
    endpoint: str = ""
    host: str = ""
    version: str = ""
    incarnation: int = 0
    credential: str | None = field(default=None, repr=False)
    heartbeat_interval_s: float | None = None
    last_heartbeat_at: datetime | None = None
    heartbeat_age_s: float | None = None
    performance: Performance | None = field(default=None, metadata={"kind": Performance})
    created_at: datetime | None = None
    updated_at: datetime | None = None
    generation: int | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRef:
    """The agent of a lease: its external id and where an orchestrator reaches it."""

    agent_id: str
    endpoint: str = ""
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """The right to use one slot of one agent until `expires_at`."""

    id: str
    agent: AgentRef | None = field(default=None, metadata={"kind": AgentRef})
    request_id: str | None = None
    attempt: int = 1
    project: str = ""
    cycle_id: str | None = None
    phase: str | None = None
    status: str = ""
    fencing_token: int = 0
    grant: Json = field(default_factory=dict)
    offered_at: datetime | None = None
    acked_at: datetime | None = None
    acquired_at: datetime | None = None
    expires_at: datetime | None = None
    expires_in_s: float | None = None
    hard_end_at: datetime | None = None
    released_at: datetime | None = None
    waited_s: float | None = None
    outcome: str | None = None
    decision: Json | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Somebody's wish for an agent, waiting or answered."""

    id: str
    agent_type: str = ""
    project: str = ""
    cycle_id: str | None = None
    phase: str | None = None
    story_type: str | None = None
    tags: Sequence[str] = ()
    paths: Sequence[str] = ()
    priority: int = 50
    requirements: Json = field(default_factory=dict)
    status: str = ""
    reason: str | None = None
    attempts: int = 0
    outcome: str | None = None
    error: str | None = None
    result: Json | None = None
    lease: Lease | None = field(default=None, metadata={"kind": Lease})
    created_at: datetime | None = None
    granted_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    waited_s: float | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)

    @property
    def is_final(self) -> bool:
        """Whether its status can't change any more."""
        return self.status in FINAL_REQUEST_STATUSES


# The same words as the server's state table; a test holds the two together.
FINAL_REQUEST_STATUSES = frozenset({"finished", "failed", "timed_out", "cancelled", "refused"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the event stream; `seq` grows and is where to resume from."""

    seq: int
    kind: str
    at: datetime | None = None
    agent_id: str | None = None
    agent_type: str | None = None
    project: str | None = None
    request_id: str | None = None
    lease_id: str | None = None
    actor: str | None = None
    detail: Json = field(default_factory=dict)
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogChunk:
    """A piece of what the work printed."""

    seq: int
    stream: str = "stdout"
    text: str = ""
    at: datetime | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogPage:
    """Log chunks; `next` is the seq to ask after, `complete` says that nothing will follow."""

    chunks: Sequence[LogChunk] = field(default=(), metadata={"kind": LogChunk})
    next: int = 0
    complete: bool = False
    dropped_bytes: int = 0
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class EventPage:
    """Events in order; `next` is the seq to ask after."""

    events: Sequence[Event] = field(default=(), metadata={"kind": Event})
    next: int = 0
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """The answer to a heartbeat: when the next is due, what to do, how long each lease holds."""

    next_heartbeat_s: float = 10.0
    commands: Sequence[Json] = ()
    leases: Sequence[Json] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Offers:
    """Leases offered to an agent, and commands for it."""

    offers: Sequence[Json] = ()
    commands: Sequence[Json] = ()
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An API or enrolment token; `token` itself is shown once, when it is made."""

    id: str = ""
    name: str = ""
    scope: str = ""
    token: str | None = field(default=None, repr=False)
    created_at: datetime | None = None
    last_used_at: datetime | None = None
    expires_at: datetime | None = None
    raw: Json = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The agents of one type with their policy."""

    agent_type: str
    name: str = ""
    raw: Json = field(default_factory=dict, repr=False, compare=False)


def as_json(raw: Any) -> Json:
    """Return an answer that has no type of its own as the mapping it is."""
    return raw if isinstance(raw, Mapping) else {"items": raw} if raw is not None else {}


def reader(kind: type[T]) -> Callable[[Any], T]:
    """Return the function that reads an answer as a `kind`."""
    return lambda raw: read(kind, raw)


def page_reader(kind: type[T]) -> Callable[[Any], Page[T]]:
    """Return the function that reads an answer as a page of `kind`."""
    return lambda raw: _page(kind, raw)


def _page(kind: type[T], raw: Any) -> Page[T]:
    body: Json = raw if isinstance(raw, Mapping) else {"items": raw}
    rows = next((value for value in body.values() if isinstance(value, list)), [])
    items = tuple(read(kind, row) for row in rows)
    return Page(items=items, next=_cursor(body.get("next")), raw=body)


def _cursor(value: object) -> str | None:
    """Return the cursor, also when the server gives the next page as a whole address."""
    if not isinstance(value, str) or not value:
        return None
    query = parse_qs(urlsplit(value).query)
    return next((query[key][0] for key in ("next", "cursor") if key in query), value)
