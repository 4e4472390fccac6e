"""The batch runner against a scripted server, and the numbers it reports."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.client import AsyncClient, batch, cycles, summary
from agentpool.client.models import FINAL_REQUEST_STATUSES

pytestmark = pytest.mark.timeout(30)
START = datetime(2026, 1, 1, tzinfo=UTC)


def a_batch(*, phases: int = 1, retries: int = 0) -> batch.Batch:
    return batch.parse(
        {
            "batch": {"project": "shop", "retries": retries},
            "phase": [
                {"name": f"p{number}", "agent_type": "code", "command": ["echo", "{cycle}"]}
                for number in range(phases)
            ],
            "cycle": [{"id": "one"}],
        }
    )


def run(server: Any, found: batch.Batch) -> summary.Summary:
    async def go() -> summary.Summary:
        async with AsyncClient(url=server.url, token="t", patience_s=5) as client:
            return await cycles.run(batch=found, client=client)

    return asyncio.run(go())


def answer_request(server: Any, number: int, **final: Any) -> None:
    waiting = {"id": f"r{number}", "status": "waiting"}
    server.answer("POST /requests", waiting, status=202)
    server.answer(f"GET /requests/r{number}", {**waiting, "waited_s": number, **final})


def test_a_cycle_passes_when_each_phase_does(server: Any) -> None:
    for number in (1, 2):
        answer_request(server, number, status="finished", outcome="success")
    server.answer(
        "GET /leases",
        {
            "results": [
                {
                    "id": "l1",
                    "request_id": "r1",
                    "phase": "p0",
                    "fencing_token": 1,
                    "agent": {"agent_id": "bee"},
                    "acquired_at": START.isoformat(),
                    "released_at": (START + timedelta(seconds=4)).isoformat(),
                }
            ]
        },
    )

    done = run(server, a_batch(phases=2))

    assert (done.passed, done.failed, done.phases, done.retried) == (1, 0, 2, 0)
    assert (done.wait_p50_s, done.wait_p95_s) == (1, 2)
    assert done.by_phase[0].run_p50_s == 4
    assert (done.peak_parallel, done.agents_peak) == (1, 1)
    body = server.calls_of("POST /requests")[0].body
    assert body["payload"]["command"] == ["echo", "one"]
    assert body["cycle_id"] == "one"


def test_a_failed_phase_is_tried_again_with_a_key_of_its_own(server: Any) -> None:
    answer_request(server, 1, status="finished", outcome="failure", error="red")
    answer_request(server, 2, status="finished", outcome="success")

    done = run(server, a_batch(retries=1))

    keys = [each.headers["idempotency-key"] for each in server.calls_of("POST /requests")]
    assert (done.passed, done.retried) == (1, 1)
    assert len(set(keys)) == 2


def test_a_phase_that_stays_red_ends_its_cycle(server: Any) -> None:
    answer_request(server, 1, status="finished", outcome="failure", error="red")

    done = run(server, a_batch(phases=2))

    assert (done.passed, done.failed, done.phases) == (0, 1, 0)
    assert done.failures[0]["error"] == "red"
    assert len(server.calls_of("POST /requests")) == 1


def test_a_refusal_ends_the_cycle_without_another_try(server: Any) -> None:
    problem = {"code": "unsatisfiable", "detail": "no agent has 9 TB"}
    server.answer("POST /requests", problem, status=422)

    done = run(server, a_batch(retries=3))

    assert done.failures[0]["outcome"] == "unsatisfiable"
    assert len(server.calls_of("POST /requests")) == 1


def test_a_server_that_is_away_for_a_moment_is_asked_again(server: Any) -> None:
    server.answer("POST /requests", {"code": "unavailable"}, status=503)
    server.answer("POST /requests", {"id": "r1", "status": "waiting"}, status=202)
    server.answer("GET /requests/r1", {"code": "unavailable"}, status=503)
    server.answer("GET /requests/r1", {"id": "r1", "status": "finished", "outcome": "success"})

    assert run(server, a_batch()).passed == 1


def test_a_run_that_is_interrupted_cancels_what_is_open(server: Any) -> None:
    server.answer("POST /requests", {"id": "r1", "status": "waiting"}, status=202)
    server.answer("GET /requests/r1", {"id": "r1", "status": "waiting"})
    server.answer("DELETE /requests/r1", {"id": "r1", "status": "cancelled"})

    async def go() -> None:
        async with AsyncClient(url=server.url, token="t") as client:
            async with asyncio.timeout(0.5):
                await cycles.run(batch=a_batch(), client=client)

    with pytest.raises(TimeoutError):
        asyncio.run(go())

    assert server.calls_of("DELETE /requests/r1")


def test_a_run_that_is_interrupted_cancels_what_it_is_asking_for(server: Any) -> None:
    server.delays["POST /requests"] = 0.6
    server.answer("POST /requests", {"id": "r1", "status": "waiting"}, status=202)
    server.answer("DELETE /requests/r1", {"id": "r1", "status": "cancelled"})

    async def go() -> None:
        async with AsyncClient(url=server.url, token="t") as client, asyncio.timeout(0.3):
            await cycles.run(batch=a_batch(), client=client)

    with pytest.raises(TimeoutError):
        asyncio.run(go())

    assert server.calls_of("DELETE /requests/r1")


def test_a_phase_with_a_ref_needs_a_repository() -> None:
    found = batch.parse(
        {
            "batch": {"project": "p"},
            "phase": [{"name": "x", "agent_type": "code", "command": ["a"], "ref": "main"}],
            "cycle": [{"id": "one"}],
        }
    )

    with pytest.raises(batch.BatchInvalid, match="needs a repository"):
        cycles.check_repository(found, None)


@pytest.mark.parametrize(
    "address", ["https://host/x.git", "git@host:x.git", "ssh://host/x", "host:x"]
)
def test_an_address_is_left_as_it_is(address: str) -> None:
    assert cycles.repository_address(address) == address


def test_a_path_becomes_absolute(tmp_path: Any) -> None:
    assert cycles.repository_address("var/x.git", base=tmp_path) == str(tmp_path / "var/x.git")


def span(agent: str, start: float, end: float) -> summary.Span:
    return summary.Span(
        agent_id=agent,
        start=START + timedelta(seconds=start),
        end=START + timedelta(seconds=end),
    )


def test_peaks_count_what_overlaps() -> None:
    spans = [span("a", 0, 2), span("a", 1, 3), span("b", 2, 4), span("c", 9, 9)]

    assert summary.peak_parallel(spans) == 2
    assert summary.agents_peak(spans) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(0, 20), st.integers(0, 20)), max_size=12
    )
)
def test_peaks_agree_with_looking_at_every_moment(rows: list[tuple[str, int, int]]) -> None:
    spans = [span(agent, start, start + length) for agent, start, length in rows]

    moments = [START + timedelta(seconds=second + 0.5) for second in range(41)]
    at_once = [[each for each in spans if each.start < now < each.end] for now in moments]

    assert summary.peak_parallel(spans) == max(map(len, at_once))
    assert summary.agents_peak(spans) == max(len({e.agent_id for e in now}) for now in at_once)


def test_percentiles_are_of_the_nearest_rank() -> None:
    assert summary.percentile([], 50) is None
    assert summary.percentile([3, 1, 2], 50) == 2
    assert summary.percentile([1, 2, 3, 4], 95) == 4


def test_the_summary_file_has_the_agreed_fields() -> None:
    fields = summary.summarize(cycles=1, phases=["x"], runs=[], spans=[], wall_s=1).as_json()

    agreed = (
        "cycles phases passed failed retried wait_p50_s wait_p95_s wall_s peak_parallel agents_peak"
    )
    assert set(agreed.split()) <= set(fields)


def test_the_client_knows_the_same_final_statuses_as_the_server() -> None:
    from agentpool.registry import states

    final = {status.value for status, moves in states.REQUEST_MOVES.items() if not moves}

    assert final == FINAL_REQUEST_STATUSES
