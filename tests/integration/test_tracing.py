"""Traces: what a collector of them is sent over HTTP, and that its absence harms nothing."""

import http.server
import subprocess
import sys
import threading

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentpool.live.connect import connect
from agentpool.live.relay import Relay
from agentpool.registry import collecting
from agentpool.registry.models import PoolSample
from agentpool.registry.states import Outcome
from balancing.services import leases

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def receiver(settings):
    """A collector of traces; yields the spans that it was sent."""
    spans = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                spans.extend(span for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    settings.OTEL_ENDPOINT = f"http://127.0.0.1:{server.server_port}/v1/traces"
    yield spans
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def done(make_agent, submit):
    """A request whose lease has failed."""
    make_agent(provider="acme")
    request = submit(cycle_id="cart")
    leases.release(
        request.held.id,
        token=request.held.fencing_token,
        outcome=Outcome.FAILURE,
        error="no",
        actor="test",
        usage={"tokens_in": 7, "tokens_out": 2},
    )
    with connect() as own:
        Relay(own).step()
    return request


def test_a_request_is_one_trace_sent_once(receiver, done):
    collecting.collect()
    collecting.collect()

    found = {span.name: span for span in receiver}
    assert sorted(found) == ["lease code", "request code", "wait"]
    assert len(receiver) == 3
    assert {span.trace_id for span in receiver} == {done.id.bytes}
    root = found["request code"]
    assert root.parent_span_id == b""
    assert {found[name].parent_span_id for name in ("lease code", "wait")} == {root.span_id}
    lease = found["lease code"]
    said = {each.key: each.value for each in lease.attributes}
    assert said["gen_ai.usage.input_tokens"].int_value == 7
    assert said["gen_ai.provider.name"].string_value == "acme"
    assert (lease.status.code, lease.status.message) == (2, "no")
    assert found["wait"].end_time_unix_nano == lease.start_time_unix_nano


def test_a_receiver_that_is_away_harms_nothing(done, settings, caplog):
    settings.OTEL_ENDPOINT = "http://127.0.0.1:9/v1/traces"

    assert collecting.collect() == 4

    assert PoolSample.objects.filter(ended=1).exists()


def test_nothing_of_it_is_imported_unless_it_is_wanted():
    code = "import django; django.setup(); from agentpool.registry import collecting, tracing;"
    code += "import sys; assert tracing.export(0, 9) == 0;"
    code += "assert not [name for name in sys.modules if 'opentelemetry' in name]"
    subprocess.run([sys.executable, "-c", code], check=True)
