"""The OpenAPI document is valid, and nothing that it allows to be sent makes the server fail."""

import pytest
import requests
import schemathesis
from django.core.management import call_command
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentpool.registry import errors
from agentpool.registry.models import Credential

pytest_plugins = ["tests.browser.serving"]

EXAMPLES = 8
BRIEFLY_S = 0.05
CODES = {refusal.code for refusal in errors.Refusal.__subclasses__()}


def test_the_document_is_valid_and_raises_no_warning(tmp_path):
    file = tmp_path / "schema.yaml"

    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(file))

    told = file.read_text()
    assert "\n  /api/agent-pool/requests/{request_id}:\n" in told
    assert "name: Idempotency-Key" in told


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.django_db(transaction=True)
def test_no_call_makes_the_server_fail(web, pools, rows, whole, subtests):
    document = schemathesis.openapi.from_url(f"{web.url}/api/schema")
    headers = {"Authorization": f"Bearer {pools['operator_token']}"}

    operations = [found.ok() for found in document.get_all_operations()]
    # What takes the rows away comes last.
    for operation in sorted(operations, key=lambda o: (o.method == "delete", "release" in o.path)):
        with subtests.test(operation.label), requests.Session() as session:
            _attack(operation, rows=rows, session=session, headers=headers)


@pytest.fixture
def rows(make_agent, submit, token_of):
    """Ids of rows that exist, so that calls get past the first door."""
    make_agent("code", agent_id="a1", max_concurrent=4)
    offered = submit(payload={"command": ["true"]})
    active = submit()
    token_of("viewer")
    return {
        "agent_id": "a1",
        "agent_type": "code",
        "pool_id": str(active.held.agent.id),
        "request_id": str(offered.id),
        "lease_id": str(active.held.id),
        "fencing_token": active.held.fencing_token,
        "token_id": str(Credential.objects.get(scope="viewer").id),
    }


def _attack(operation, *, rows, session, headers):
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],  # a small example is not worth minutes of shrinking
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(), aims=st.booleans())
    def sends(case, aims):
        if aims:
            _aim(case, rows)
        _hurry(case)
        response = case.call(session=session, headers=headers)
        assert response.status_code < 500, case.as_curl_command()
        if response.status_code >= 400:
            assert _is_problem(response), f"{case.as_curl_command()}\n{response.text}"

    sends()


def _aim(case, rows):
    """Put ids of real rows in the place of made-up ones."""
    for name in case.path_parameters or {}:
        case.path_parameters[name] = rows.get(name, case.path_parameters[name])
    if isinstance(case.body, dict):
        for name in ("agent_type", "lease_id", "fencing_token"):
            if name in case.body:
                case.body[name] = rows[name]


def _hurry(case):
    """Let no call wait for long."""
    if case.query and "wait" in case.query:
        case.query["wait"] = BRIEFLY_S
    body = case.body
    if isinstance(body, dict) and isinstance(body.get("wait_s"), int | float):
        body["wait_s"] = min(body["wait_s"], BRIEFLY_S)


def _is_problem(response):
    problem = response.json()
    return (
        response.headers["content-type"] == ["application/problem+json"]
        and problem["status"] == response.status_code
        and problem["code"] in CODES
        and problem["title"]
        and problem["detail"]
    )
