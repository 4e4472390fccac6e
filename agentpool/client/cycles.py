"""
Runs a batch: many cycles at once, the phases of each in order, every phase a request with payload.

The control plane may be away for minutes: requests carry an Idempotency-Key, polls are repeated.
"""

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agentpool.client import batch as batches
from agentpool.client import calls, errors, exchange, models, summary
from agentpool.client.async_api import AsyncClient

# How long the runner goes on asking a control plane that does not answer, in seconds.
PATIENCE_S = 300.0
_CANCEL_S = 5.0
_BUSY_OUTCOMES = frozenset({"failure", "timeout"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """
    Something happened to a phase of a cycle.

    `kind`: asked, waiting, running (an agent has it), retrying, passed, failed.
    """

    kind: str
    cycle: str
    phase: str
    agent_id: str | None = None
    lease_id: str | None = None
    note: str = ""


Observer = Callable[[Progress], None]


@dataclass(slots=True)
class _Record:
    """What one run has seen so far."""

    runs: list[summary.PhaseRun] = field(default_factory=list)
    spans: list[summary.Span] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    """The things that stay the same through one run of a batch."""

    batch: batches.Batch
    repository: str | None
    client: AsyncClient
    observe: Observer
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    record: _Record = field(default_factory=_Record)


def repository_address(repository: str | None, *, base: Path | None = None) -> str | None:
    """Return the repository for agents: addresses as they are, paths made absolute."""
    if repository is None or "://" in repository or _is_scp_like(repository):
        return repository
    return str((base or Path.cwd()).joinpath(repository).resolve())


def check_repository(batch: batches.Batch, repository: str | None) -> None:
    """Raise BatchInvalid when a phase needs a repository and none is given."""
    if repository is not None:
        return
    mistakes = [
        batches.Mistake(f"phase[{index}]", "needs a repository: [batch] repository, or --repo")
        for index, phase in enumerate(batch.phases)
        if phase.ref is not None or any("{repo}" in text for text in batches.templates(phase))
    ]
    if mistakes:
        raise batches.BatchInvalid(mistakes)


async def run(
    *,
    batch: batches.Batch,
    client: AsyncClient,
    repository: str | None = None,
    observe: Observer = lambda _: None,
) -> summary.Summary:
    """
    Run all cycles and return the numbers.

    Args:
        batch: what to run.
        client: how the control plane is reached; left open.
        repository: path or address that wins over the one in the batch.
        observe: called in the event loop for everything that happens; must not block.
    Raises: BatchInvalid, a repository is needed; CancelledError, once the open requests are
    cancelled. Errors of single phases end their cycle, never the run.

    """
    address = repository_address(repository or batch.repository)
    check_repository(batch, address)
    one = _Run(batch=batch, repository=address, client=client, observe=observe)
    started = time.monotonic()
    gate = asyncio.Semaphore(batch.parallel)
    async with asyncio.TaskGroup() as tasks:
        for cycle in batch.cycles:
            tasks.create_task(_cycle(one, cycle, gate))
    return summary.summarize(
        cycles=len(batch.cycles),
        phases=[phase.name for phase in batch.phases],
        runs=one.record.runs,
        spans=one.record.spans,
        wall_s=time.monotonic() - started,
    )


def request_fields(
    *, batch: batches.Batch, cycle: batches.Cycle, phase: batches.Phase, repository: str | None
) -> dict[str, Any]:
    """Return the fields of the request for one phase of one cycle, templates filled in."""
    words = batches.words_of(batch=batch, cycle=cycle, phase=phase, repository=repository)
    payload: dict[str, Any] = {
        "command": [batches.fill(text, words) for text in phase.command],
        "env": {name: batches.fill(text, words) for name, text in phase.env.items()},
        "secrets": list(phase.secrets),
    }
    if phase.ref is not None:
        payload["workspace"] = {"git": repository, "ref": batches.fill(phase.ref, words)}
    fields = {
        "agent_type": phase.agent_type,
        "project": batch.project,
        "cycle_id": cycle.id,
        "phase": phase.name,
        "tags": list(cycle.tags),
        "paths": list(cycle.paths),
        "priority": phase.priority,
        "requirements": dict(phase.requirements),
        "lock_keys": [batches.fill(text, words) for text in phase.lock_keys],
        "ttl_s": phase.ttl_s,
        "duration_limit_s": phase.timeout_s,
        "payload": payload,
    }
    return fields if cycle.story_type is None else {**fields, "story_type": cycle.story_type}


async def _cycle(one: _Run, cycle: batches.Cycle, gate: asyncio.Semaphore) -> None:
    async with gate:
        asked: set[str] = set()
        for phase in one.batch.phases:
            outcome = await _phase(one, cycle, phase, asked)
            one.record.runs.append(outcome)
            if not outcome.passed:
                break
        await _collect_spans(one, cycle, asked)


async def _phase(
    one: _Run, cycle: batches.Cycle, phase: batches.Phase, asked: set[str]
) -> summary.PhaseRun:
    """Try a phase until it passed, the tries are used up, or trying again has no sense."""
    attempts = 0
    for number in range(1, one.batch.retries + 2):
        outcome, may_retry = await _try(one, cycle, phase, number, asked)
        attempts += outcome.attempts
        outcome = replace(outcome, tries=number, attempts=attempts)
        if outcome.passed or not may_retry or number > one.batch.retries:
            break
        _tell(one, "retrying", outcome)
    _tell(one, "passed" if outcome.passed else "failed", outcome)
    return outcome


async def _try(
    one: _Run, cycle: batches.Cycle, phase: batches.Phase, number: int, asked: set[str]
) -> tuple[summary.PhaseRun, bool]:
    """Return how one try ended, and whether another one may help."""
    blank = summary.PhaseRun(cycle=cycle.id, phase=phase.name, passed=False)
    _tell(one, "asked", blank)
    fields = request_fields(batch=one.batch, cycle=cycle, phase=phase, repository=one.repository)
    key = f"{one.id}:{cycle.id}:{phase.name}:{number}"
    try:
        answered = await _asked(one, calls.request(**fields, idempotency_key=key))
        asked.add(answered.id)
        _tell(one, _kind(answered.status), _read(blank, answered))
        final = await _followed(one, answered, blank)
    except errors.ApiError as error:
        return replace(blank, outcome=error.code, error=str(error)), False
    return _read(blank, final), _may_help(final)


async def _asked(one: _Run, call: calls.Call[models.Request]) -> models.Request:
    """Return what was asked for; when the run ends meanwhile, wait for the answer to cancel it."""
    asking = asyncio.create_task(_send(one, call))
    try:
        return await asyncio.shield(asking)
    except asyncio.CancelledError:
        with contextlib.suppress(errors.ApiError, TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                await one.client.send(calls.cancel_request((await asking).id))
        raise


async def _followed(one: _Run, answered: models.Request, blank: summary.PhaseRun) -> models.Request:
    """Return the request once it is final, telling what happens to it meanwhile."""
    request_id, seen = answered.id, answered.status
    try:
        while True:
            talk = exchange.wait_request(
                request_id, seen=seen, wait_s=exchange.POLL_S, patience_s=PATIENCE_S
            )
            request = await one.client.converse(talk)
            if request.is_final:
                return request
            if request.status != seen:
                _tell(one, _kind(request.status), _read(blank, request))
            seen = request.status
    except asyncio.CancelledError:
        with contextlib.suppress(errors.ApiError, TimeoutError):
            async with asyncio.timeout(_CANCEL_S):
                await one.client.send(calls.cancel_request(request_id))
        raise


async def _collect_spans(one: _Run, cycle: batches.Cycle, asked: set[str]) -> None:
    """Note from when to when each lease of the cycle ran, also those that were lost."""
    call = calls.leases(project=one.batch.project, cycle_id=cycle.id, limit=500)
    with contextlib.suppress(errors.ApiError):
        page = await _send(one, call)
        own = [lease for lease in page.items if lease.request_id in asked]
        one.record.spans.extend(_spans(own))
        one.record.runs[:] = _with_times(one.record.runs, cycle.id, own)


def _spans(leases: Sequence[models.Lease]) -> Iterator[summary.Span]:
    for lease in leases:
        start, end = lease.acquired_at, lease.released_at or datetime.now(UTC)
        if start is not None and lease.agent is not None:
            yield summary.Span(agent_id=lease.agent.agent_id, start=start, end=end)


def _with_times(
    runs: Sequence[summary.PhaseRun], cycle_id: str, leases: Sequence[models.Lease]
) -> list[summary.PhaseRun]:
    """Fill in what a final request may not tell: agent and time of its last lease."""
    last: dict[str, models.Lease] = {}
    for lease in sorted(leases, key=lambda each: each.fencing_token):
        last[lease.phase or ""] = lease
    return [
        _with_time(run, last[run.phase]) if run.cycle == cycle_id and run.phase in last else run
        for run in runs
    ]


def _with_time(run: summary.PhaseRun, lease: models.Lease) -> summary.PhaseRun:
    span = next(_spans([lease]), None)
    return replace(
        run,
        lease_id=lease.id,
        agent_id=run.agent_id if span is None else span.agent_id,
        ran_s=run.ran_s if span is None else (span.end - span.start).total_seconds(),
    )


def _read(blank: summary.PhaseRun, request: models.Request) -> summary.PhaseRun:
    lease = request.lease
    return replace(
        blank,
        passed=request.status == "finished" and request.outcome == "success",
        attempts=max(1, request.attempts),
        waited_s=request.waited_s,
        lease_id=lease.id if lease else None,
        agent_id=lease.agent.agent_id if lease and lease.agent else None,
        outcome=request.outcome or request.status,
        error=request.error or request.reason or "",
    )


def _may_help(request: models.Request) -> bool:
    """Whether another try may end better: the work failed, or lost its agents too often."""
    return request.status == "failed" or (request.outcome or "") in _BUSY_OUTCOMES


def _kind(status: str) -> str:
    return "running" if status == "granted" else "waiting"


def _tell(one: _Run, kind: str, run: summary.PhaseRun) -> None:
    one.observe(
        Progress(
            kind=kind,
            cycle=run.cycle,
            phase=run.phase,
            agent_id=run.agent_id,
            lease_id=run.lease_id,
            note=run.error,
        )
    )


async def _send(one: _Run, call: calls.Call[Any]) -> Any:
    return await one.client.converse(exchange.exchange(call, patience_s=PATIENCE_S))


def _is_scp_like(address: str) -> bool:
    """Whether git would read `host:path` as a machine and a path, not as a file."""
    host, colon, _ = address.partition(":")
    return bool(colon) and "/" not in host
