"""/metrics: what it tells is true, and alike in every process."""

import re

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import collecting, counters
from agentpool.registry.errors import LeaseLost
from agentpool.registry.models import SecurityProfile
from agentpool.registry.states import Outcome
from balancing.services import agents, leases, notes
from scaling import governance

pytestmark = pytest.mark.django_db(transaction=True)


def scraped(client):
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer["Content-Type"].startswith("application/openmetrics-text")
    return {
        family.name: family for family in text_string_to_metric_families(answer.content.decode())
    }


def value(families, name, **labels):
    family = families[re.sub(r"_(total|bucket|sum|count)$", "", name)]
    found = [
        s.value for s in family.samples if s.name == name and labels.items() <= s.labels.items()
    ]
    assert len(found) == 1, (name, labels, family.samples)
    return found[0]


@pytest.fixture
def worked(make_agent, submit):
    """One lease that ended well after it had waited for another, and one that goes on."""
    make_agent(provider="acme")
    first, second = submit(), submit()
    usage = {"tokens_in": 900, "tokens_out": 100, "cost_usd": 0.5}
    leases.release(
        first.held.id,
        token=first.held.fencing_token,
        outcome=Outcome.SUCCESS,
        actor="test",
        usage=usage,
    )
    with connect() as own:
        Relay(own).step()
    collecting.collect()
    return second.leases.get()


def test_what_happened_is_told(worked, client):
    found = scraped(client)

    assert value(found, "agentpool_agents", type="code", state="busy") == 1
    assert value(found, "agentpool_slots_used", type="code") == 1
    assert value(found, "agentpool_request_arrivals_total", type="code") == 2
    assert value(found, "agentpool_requests_total", type="code", outcome="granted") == 2
    assert value(found, "agentpool_assign_wait_seconds_count", type="code") == 2
    assert value(found, "agentpool_assign_wait_seconds_bucket", type="code", le="+Inf") == 2
    ends = {"type": "code", "outcome": "success"}
    assert value(found, "agentpool_lease_duration_seconds_count", **ends) == 1
    tokens = {"type": "code", "provider": "acme"}
    assert value(found, "agentpool_tokens_total", direction="input", **tokens) == 900
    assert value(found, "agentpool_cost_usd_total", provider="acme") == 0.5
    held = {"type": "code", "resource": "memory_mb"}
    assert value(found, "agentpool_resource_used", **held) == 1024


def test_a_counter_only_grows_and_another_process_tells_the_same(worked, client):
    collecting.collect()
    collecting.collect()

    again = scraped(client)

    assert value(again, "agentpool_requests_total", type="code", outcome="granted") == 2


def test_buckets_are_added_up(pools, client):
    for seconds in (0.05, 0.4, 0.5, 7, 9999):
        counters.observe("agentpool_assign_wait_seconds", {"type": "qa"}, seconds)

    found = scraped(client)

    name = "agentpool_assign_wait_seconds_bucket"
    reached = [value(found, name, type="qa", le=le) for le in ("0.1", "0.5", "10.0", "+Inf")]
    assert reached == [1, 3, 4, 5]


def test_a_stale_token_is_counted(worked, client):
    before = _fenced(scraped(client))

    with pytest.raises(LeaseLost):
        leases.renew(worked.id, token=worked.fencing_token - 1)

    assert _fenced(scraped(client)) == before + 1


def _fenced(found):
    return sum(sample.value for sample in found["agentpool_fenced_writes"].samples)


def test_a_provider_that_throttles_is_counted(api, make_agent, client):
    agent = make_agent()
    said = {"leases": [], "throttled": [{"provider": "acme", "retry_after_s": 3}]}

    assert api.post(f"/{agent.agent_id}/heartbeat", said).status_code == 200

    assert value(scraped(client), "agentpool_provider_throttled_total", provider="acme") >= 1


def test_a_token_is_asked_for_where_the_setting_says_so(pools, client, settings, token_of):
    settings.METRICS_AUTH = "token"

    asked = [{}] + [{"HTTP_AUTHORIZATION": f"Bearer {token_of(s)}"} for s in ("viewer", "operator")]
    answers = [client.get("/metrics", **headers).status_code for headers in asked]

    assert answers == [401, 200, 200]


def test_the_older_format_is_told_to_who_wants_it(worked, client):
    answer = client.get("/metrics", HTTP_ACCEPT="text/plain")

    assert answer["Content-Type"].startswith("text/plain")
    assert b'agentpool_slots_used{type="code"} 1.0' in answer.content


def test_prometheus_which_takes_both_formats_is_told_in_the_newer_one(pools, client):
    both = (
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.4,*/*;q=0.1"
    )

    answer = client.get("/metrics", HTTP_ACCEPT=both)

    assert answer["Content-Type"].startswith("application/openmetrics-text")
    assert answer.content.endswith(b"# EOF\n")


def test_the_queue_is_told_by_the_code_of_why(client, make_agent, submit):
    governance.set_policy("code", mode="auto", actor="test", settings=None)
    for kind in ("code", "qa"):
        agents.set_status(make_agent(kind), to="standby", reason="", actor="test")
        submit(kind)
    notes.note_reasons(["code", "qa"])

    found = scraped(client)

    assert value(found, "agentpool_queue_depth", type="code", reason="standby") == 1
    assert value(found, "agentpool_queue_depth", type="qa", reason="nobody") == 1


def test_who_asks_for_more_than_the_profile_allows_is_told_apart_from_the_new(client, submit):
    submit("code", memory_mb=2048)

    assert value(scraped(client), "agentpool_queue_depth", type="code", reason="new") == 1
    SecurityProfile.objects.filter(pk="code").update(memory_mb=512)
    notes.note_reasons(["code"])

    assert value(scraped(client), "agentpool_queue_depth", type="code", reason="ceiling") == 1
