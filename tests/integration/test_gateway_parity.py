"""The same cases through REST and through the gateway: the same codes, the same rows afterwards."""

import uuid
from dataclasses import dataclass, field
from urllib.parse import urlencode

import pytest

from agentpool.registry import credentials
from agentpool.registry.models import Agent, Credential, Lease, LogChunk, Request
from balancing.services import leases

pytest_plugins = ["tests.browser.serving", "tests.integration.gateway_lines"]
# Sixty pairs of calls, through both doors: a matrix, not a quick look.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
    pytest.mark.usefixtures("whole"),
]

ON_LEASES = ("ack", "renew", "usage", "log", "park", "resume", "resize", "release")
MORE = {
    "usage": {"usage": {"memory_mb": 7, "tokens_in": 3}, "progress": {"counter": 4, "phase": "x"}},
    "log": {"chunks": [{"stream": "stdout", "text": "hello\n"}]},
    "park": {"reason": "a person"},
    "resize": {"memory_mb": 900},
    "release": {"outcome": "success", "result": {"commit": "abc"}},
}
# What a lease must be for the op to be legal; ack needs an offer.
BEFORE = {"ack": "offered", "resume": "parked"}


@dataclass(frozen=True)
class Case:
    """One call: by whom, what is wrong with it, and the code that answers it (None: done)."""

    op: str
    who: str
    code: str | None = None
    fields: dict = field(default_factory=dict)
    wrong: str = ""

    def __str__(self):
        return "-".join(filter(None, [self.op, self.who, self.wrong or None, self.code]))


def good():
    yield Case("heartbeat", "agent")
    yield Case("heartbeat", "agent", wrong="with its lease")
    yield Case("heartbeat", "agent", fields={"draining": True})
    yield Case("heartbeat", "operator")
    for op in ON_LEASES:
        yield from (Case(op, who) for who in ("agent", "orchestrator", "operator"))
    yield from (
        Case(op, who)
        for op in ("cancel", "explain", "wait")
        for who in ("orchestrator", "operator")
    )
    yield from (Case(op, "viewer") for op in ("explain", "wait"))
    yield Case("acquire", "orchestrator", fields={"agent_type": "code", "project": "p"})


def bad():
    for wrong, fields in {
        "age": {"age_s": -1},
        "leases": {"leases": "x"},
        "lease": {"leases": [{"lease_id": "x", "fencing_token": 1}]},
        "usage": {"leases": [{"lease_id": str(uuid.uuid4()), "fencing_token": 1, "usage": 3}]},
        "incarnation": {"incarnation": True},
        "unknown field": {"colour": "red"},
    }.items():
        yield Case("heartbeat", "agent", "invalid", fields, wrong)
    yield Case("heartbeat", "agent", "lease_lost", {"incarnation": 7}, "another incarnation")
    yield Case("heartbeat", "agent", "unauthenticated", wrong="revoked")
    yield Case("heartbeat", "another agent", "forbidden")
    yield Case("heartbeat", "orchestrator", "forbidden")
    yield Case("heartbeat", "viewer", "forbidden")
    for op in ON_LEASES:
        yield Case(op, "agent", "lease_lost", wrong="stale token")
        yield Case(op, "agent", "invalid", {"fencing_token": "x"}, "malformed token")
        yield Case(op, "agent", "unauthenticated", wrong="revoked")
        yield Case(op, "another agent", "forbidden")
        yield Case(op, "another orchestrator", "not_found")
        yield Case(op, "viewer", "forbidden")
        yield Case(op, "orchestrator", "not_found", wrong="no such lease")
    yield Case("resume", "agent", "unsupported_transition", wrong="not parked")
    for op in ("cancel", "explain", "wait"):
        yield Case(op, "another orchestrator", "not_found")
        yield Case(op, "agent", "forbidden")
        yield Case(op, "orchestrator", "unauthenticated", wrong="revoked")
    yield Case("cancel", "viewer", "forbidden")
    yield Case("wait", "orchestrator", "invalid", {"seen": "asleep"}, "seen")
    wish = {"agent_type": "code", "project": "p"}
    yield Case("acquire", "viewer", "forbidden", wish)
    yield Case("acquire", "agent", "forbidden", wish)
    yield Case("acquire", "orchestrator", "invalid", {"agent_type": "code"}, "no project")
    yield Case("acquire", "orchestrator", "invalid", {**wish, "agent_type": "none"}, "no pool")
    yield Case("acquire", "orchestrator", "invalid", {**wish, "priority": 101}, "priority")
    yield Case("acquire", "orchestrator", "unauthenticated", wish, "revoked")


class World:
    """One agent with one lease of an orchestrator's, and tokens of everybody."""

    def __init__(self, case, *, name, api, token_of, enrolled):
        self.case, self.name = case, name
        orchestrator = token_of("orchestrator")
        self.tokens = {
            "agent": enrolled(name, "code")["credential"],
            "another agent": enrolled(f"{name}-2", "qa")["credential"],
            "orchestrator": orchestrator,
            "another orchestrator": token_of("orchestrator"),
            "operator": api.token,
            "viewer": token_of("viewer"),
        }
        wish = {"agent_type": "code", "project": "p", "requirements": {"min_memory_mb": 512}}
        wish |= {"payload": {"command": ["true"]}}
        found = api.post("/requests", wish, token=orchestrator)
        assert found.status_code == 201, found.body
        self.lease = Lease.objects.get(id=found.body["id"])
        self._move_to(BEFORE.get(case.op, "active"))
        if case.wrong == "not parked":
            self._move_to("active")

    def _move_to(self, status):
        token = self.lease.fencing_token
        if status != "offered" and self.lease.status == "offered":
            leases.acknowledge(self.lease.id, token=token)
        if status == "parked":
            leases.park(self.lease.id, token=token, reason="", actor="test")
        elif self.lease.status == "parked":
            leases.resume(self.lease.id, token=token, actor="test")
        self.lease.refresh_from_db()

    def fields(self):
        """What the op carries, with what is wrong with it."""
        held = {"lease_id": str(self.lease.id), "fencing_token": self.lease.fencing_token}
        fields = {}
        if self.case.op in ON_LEASES:
            fields = {"fencing_token": held["fencing_token"], **MORE.get(self.case.op, {})}
        if self.case.wrong == "stale token":
            fields["fencing_token"] -= 1
        if self.case.wrong == "with its lease":
            said = {**held, "usage": {"memory_mb": 5, "cost_usd": 1.5}, "progress": {"counter": 2}}
            fields["leases"] = [said]
        return {**fields, **self.case.fields}

    def lease_id(self):
        return str(uuid.uuid4() if self.case.wrong == "no such lease" else self.lease.id)

    def break_token(self):
        if self.case.wrong == "revoked":
            credentials.revoke(credentials.find(self.tokens[self.case.who]).id)

    def rows(self):
        """What is left behind, without what differs between two worlds by nature."""
        lease = Lease.objects.get(id=self.lease.id)
        agent = Agent.objects.get(agent_id=self.name)
        log = LogChunk.objects.filter(lease=lease).values_list("stream", "text")
        return {
            "lease": (lease.status, lease.outcome, lease.error, lease.memory_mb),
            "reported": (lease.measured_memory_mb, lease.tokens_in, float(lease.cost_usd)),
            "progress": (lease.progress_counter, lease.progress_phase),
            "token moved": lease.fencing_token > self.lease.fencing_token,
            "renewed": lease.expires_at > self.lease.expires_at,
            "request": Request.objects.get(id=lease.request_id).status,
            "requests": sorted(Request.objects.values_list("status", flat=True)),
            "agent": (agent.status, agent.load, agent.used_memory_mb, agent.wish),
            "log": list(log),
        }


def by_rest(world, api):
    case = world.case
    world.break_token()
    paths = {"heartbeat": f"/{world.name}/heartbeat", "acquire": "/requests"}
    paths |= {op: f"/leases/{world.lease_id()}/{op}" for op in ON_LEASES}
    paths["cancel"] = f"/requests/{world.lease.request_id}"
    paths["explain"] = f"{paths['cancel']}/explain"
    paths["wait"] = f"{paths['cancel']}?{urlencode(case.fields)}"
    method = {"cancel": "DELETE", "explain": "GET", "wait": "GET"}.get(case.op, "POST")
    body = None if method != "POST" else world.fields()
    answer = api.call(method, paths[case.op], body, token=world.tokens[case.who])
    code = answer.body["code"] if answer.status_code >= 400 else None
    return code, answer.status_code if code else None


def by_gateway(world, line):
    case, mine = world.case, line()
    assert mine.call("hello", token=world.tokens[case.who])["ok"]
    world.break_token()
    fields = world.fields()
    if case.op == "heartbeat":
        fields["agent_id"] = world.name
    elif case.op in ON_LEASES:
        fields["lease_id"] = world.lease_id()
    elif case.op != "acquire":
        fields["request_id"] = str(world.lease.request_id)
    answer = mine.call(case.op, **fields)
    return (None, None) if answer["ok"] else (answer["error"]["code"], answer["error"]["status"])


def cases():
    for case in (*good(), *bad()):
        # One op on a lease stands for all of them when there is little time.
        is_like_others = case.code and case.op in ON_LEASES and case.op != "park"
        yield pytest.param(case, id=str(case), marks=[pytest.mark.slow] if is_like_others else [])


@pytest.mark.parametrize("case", list(cases()))
def test_both_doors_answer_and_do_the_same(case, api, line, token_of, enrolled):
    said, left = {}, {}
    for door in ("rest", "gateway"):
        world = World(case, name=f"by-{door}", api=api, token_of=token_of, enrolled=enrolled)
        said[door] = by_rest(world, api) if door == "rest" else by_gateway(world, line)
        left[door] = world.rows()
        _clear()

    assert said["rest"][0] == case.code
    assert said["gateway"] == said["rest"]
    assert left["gateway"] == left["rest"]


def _clear():
    """Leave nothing of one world that the other could meet: no free agent, no open request."""
    for lease in Lease.objects.filter(status__in=["offered", "active", "parked"]):
        leases.cancel(lease, reason="the next world", actor="test")
    Request.objects.all().delete()
    Credential.objects.filter(scope="agent").delete()
    Agent.objects.all().delete()


@pytest.mark.parametrize("op", ["fly", "", None, 7])
def test_what_neither_door_knows_is_refused(line, pools, op):
    assert line().send({"id": 1, "op": op})["error"]["code"] == "invalid"
