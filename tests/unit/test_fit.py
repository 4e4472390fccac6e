"""What an agent lacks for a request."""

from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.registry.states import IsolationLevel, SecurityLevel
from balancing.fit import (
    MAX_WEIGHT,
    OPS,
    BadRule,
    Capacity,
    Needs,
    Rule,
    fits,
    holds,
    lacks,
    nearest,
    rules_of,
)

ROOMY = Capacity(
    memory_mb=4096,
    cpu_cores=4,
    token_budget=100_000,
    disk_space_mb=2000,
    security_level=SecurityLevel.HIGH,
    isolation_levels=(IsolationLevel.CONTAINER,),
    tools=frozenset({"git", "docker"}),
    capabilities=frozenset({"rust"}),
    labels={"zone": "a"},
    agent_id="it",
)
MODEST = Needs(
    memory_mb=1024,
    cpu_cores=1,
    token_budget=50_000,
    disk_space_mb=500,
    security_level=SecurityLevel.STANDARD,
    isolation_level=IsolationLevel.PROCESS,
)
words = st.frozensets(st.sampled_from("abc"))
capacities = st.builds(
    Capacity,
    memory_mb=st.integers(0, 4),
    cpu_cores=st.integers(0, 4),
    token_budget=st.integers(0, 4),
    disk_space_mb=st.integers(0, 4),
    security_level=st.sampled_from(SecurityLevel),
    isolation_levels=st.lists(st.sampled_from(IsolationLevel), min_size=1),
    tools=words,
    capabilities=words,
    labels=st.dictionaries(st.sampled_from("xy"), st.integers(0, 1)),
)
asked = st.builds(
    Needs,
    memory_mb=st.integers(0, 4),
    cpu_cores=st.integers(0, 4),
    token_budget=st.integers(0, 4),
    disk_space_mb=st.integers(0, 4),
    security_level=st.sampled_from(SecurityLevel),
    isolation_level=st.sampled_from(IsolationLevel),
    special_tools=words,
    capabilities=words,
    labels=st.dictionaries(st.sampled_from("xy"), st.integers(0, 1)),
)


def test_an_agent_that_has_everything_fits():
    assert fits(ROOMY, MODEST)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"memory_mb": 8192}, "memory: needs 8192 MB, has 4096"),
        ({"token_budget": 2_000_000}, "token budget: needs 2000000 tokens, has 100000"),
        ({"cpu_cores": 4.5}, "CPU: needs 4.5 cores, has 4"),
        ({"security_level": SecurityLevel.CRITICAL}, "security: needs critical, has high"),
        (
            {"isolation_level": IsolationLevel.VIRTUAL_MACHINE},
            "isolation: needs virtual_machine, has at most container",
        ),
        ({"special_tools": frozenset({"git", "qemu", "gdb"})}, "tools: lacks gdb, qemu"),
        ({"labels": {"zone": "b"}}, "labels: lacks zone=b"),
        ({"capabilities": frozenset({"rust", "go"})}, "capabilities: lacks go"),
        ({"avoid_agents": frozenset({"it"})}, "it is to be avoided"),
    ],
)
def test_a_lack_is_said_with_its_numbers(change, sentence):
    (lack,) = lacks(ROOMY, replace(MODEST, **change))

    assert lack.sentence == sentence
    assert lack.name in change


@given(capacities, asked, st.integers(1, 5))
def test_more_capacity_never_lacks_more(capacity, needs, more):
    grown = replace(capacity, memory_mb=capacity.memory_mb + more, tools=frozenset("abc"))

    assert {lack.name for lack in lacks(grown, needs)} <= {
        lack.name for lack in lacks(capacity, needs)
    }


@given(capacities)
def test_whoever_asks_for_what_an_agent_has_gets_it(capacity):
    needs = Needs(
        memory_mb=capacity.memory_mb,
        cpu_cores=capacity.cpu_cores,
        token_budget=capacity.token_budget,
        disk_space_mb=capacity.disk_space_mb,
        security_level=capacity.security_level,
        isolation_level=max(capacity.isolation_levels),
        special_tools=capacity.tools,
        capabilities=capacity.capabilities,
        labels=capacity.labels,
    )

    assert fits(capacity, needs)


# -- the floor -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "minimum", "is_fit"),
    [
        (4096, None, True),
        (4097, None, False),
        (4097, 4097, False),
        (5120, 1, True),  # 0.8 of it are the 4096 that are there
        (5125, 1, False),
        (5120, 4097, False),
    ],
)
def test_memory_down_to_the_floor_is_enough(ask, minimum, is_fit):
    assert fits(ROOMY, replace(MODEST, memory_mb=ask, min_memory_mb=minimum)) is is_fit


@pytest.mark.parametrize(
    ("ask", "minimum", "is_fit"),
    [(4, None, True), (4.1, None, False), (5, 1, True), (5.002, 1, False), (5, 4.001, False)],
)
def test_cpu_down_to_the_floor_is_enough(ask, minimum, is_fit):
    assert fits(ROOMY, replace(MODEST, cpu_cores=ask, min_cpu_cores=minimum)) is is_fit


def test_a_lack_names_the_floor_when_less_would_do():
    (lack,) = lacks(ROOMY, replace(MODEST, memory_mb=10_000, min_memory_mb=1))

    assert lack.sentence == "memory: needs 8000 MB, has 4096"


def test_floats_and_decimals_are_compared_as_they_are_written():
    assert fits(replace(ROOMY, cpu_cores=4.1), replace(MODEST, cpu_cores=Decimal("4.1")))
    assert fits(replace(ROOMY, cpu_cores=Decimal("4.1")), replace(MODEST, cpu_cores=4.1))


# -- rules -----------------------------------------------------------------------------------------

TRUTHS = [
    ("=", "a", "a", True),
    ("=", "a", "b", False),
    ("=", 1, 1.0, True),
    ("=", "1", 1, False),
    ("=", True, 1, False),
    ("=", 1, True, False),
    ("=", True, True, True),
    ("!=", "a", "b", True),
    ("!=", "a", "a", False),
    ("!=", "1", 1, True),
    ("!=", True, 1, True),
    ("in", "a", ("a", "b"), True),
    ("in", "c", ("a", "b"), False),
    ("in", True, (1, 2), False),
    ("not_in", "c", ("a", "b"), True),
    ("not_in", "a", ("a", "b"), False),
    ("not_in", "1", (1,), True),
    (">", 2, 1, True),
    (">", 1, 1, False),
    (">", "2", 1, False),
    (">", True, 0, False),
    (">=", 1, 1.0, True),
    (">=", 0.5, 1, False),
    ("<", 1, 2, True),
    ("<", 2, 2, False),
    ("<", False, 1, False),
    ("<=", 2, 2, True),
    ("<=", "a", 2, False),
    ("exists", False, None, True),
    ("absent", False, None, False),
]
scalars = st.sampled_from(["", "a", "1", "true", True, False, -1, 0, 1, 2, 0.5, 1.0])


@pytest.mark.parametrize(("op", "has", "value", "is_met"), TRUTHS)
def test_a_rule_compares_without_changing_types(op, has, value, is_met):
    assert holds(Rule("label", "x", op, value), frozenset(), {"x": has}) is is_met


@pytest.mark.parametrize("op", OPS)
def test_a_missing_label_obeys_only_what_says_not(op):
    rule = Rule("label", "x", op, ("a",) if op in ("in", "not_in") else 1)

    assert holds(rule, frozenset({"x"}), {}) is (op in ("!=", "not_in", "absent"))


@pytest.mark.parametrize(("op", "is_met"), [("exists", True), ("absent", False)])
def test_a_capability_is_there_or_not(op, is_met):
    rule = Rule("capability", "rust", op)

    assert holds(rule, frozenset({"rust"}), {}) is is_met
    assert holds(rule, frozenset(), {"rust": True}) is not is_met


@given(scalars, scalars)
def test_ops_that_are_opposites_never_agree(has, value):
    def met(op, value=value):
        return holds(Rule("label", "x", op, value), frozenset(), {"x": has})

    assert met("=") is not met("!=")
    assert met("in", (value,)) is met("=")
    assert met("not_in", (value,)) is met("!=")
    assert not (met(">") and met("<="))
    assert met(">=") is (met(">") or (met("=") and met("<=")))


@given(scalars, scalars)
def test_a_plain_label_is_the_rule_of_equality(has, value):
    capacity = replace(ROOMY, labels={"x": has})
    plain = replace(MODEST, labels={"x": value})
    ruled = replace(MODEST, rules=(Rule("label", "x", "=", value),))

    assert fits(capacity, plain) is fits(capacity, ruled)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (Rule("label", "gpu_mem", ">=", 16), "labels: needs gpu_mem >= 16, has 8"),
        (Rule("label", "disks", ">", 1), "labels: needs disks > 1, has none"),
        (Rule("label", "zone", "=", "b"), "labels: needs zone = b, has a"),
        (Rule("label", "zone", "in", ("b", "c")), "labels: needs zone in (b, c), has a"),
        (Rule("label", "zone", "not_in", ("a",)), "labels: needs zone not in (a), has a"),
        (Rule("label", "gpu_mem", "=", "8"), 'labels: needs gpu_mem = "8", has 8'),
        (Rule("label", "ssd", "=", "true"), 'labels: needs ssd = "true", has true'),
        (Rule("label", "nvme", "exists"), "labels: needs nvme, has none"),
        (Rule("label", "ssd", "absent"), "labels: needs no ssd, has true"),
        (Rule("capability", "go", "exists"), "capabilities: lacks go"),
        (Rule("capability", "rust", "absent"), "capabilities: needs no rust, has true"),
    ],
)
def test_an_unmet_rule_is_said_with_both_values(rule, sentence):
    capacity = replace(ROOMY, labels={"zone": "a", "gpu_mem": 8, "ssd": True})

    (lack,) = lacks(capacity, replace(MODEST, rules=(rule,)))

    assert lack.sentence == sentence
    assert lack.name == sentence.split(":")[0]


# -- reading wishes --------------------------------------------------------------------------------


def test_wishes_are_read_into_requirements_and_preferences():
    required, preferred = rules_of(
        {
            "zone": "a",
            "gpu_mem": {"op": ">=", "value": 16},
            "os": {"value": "linux"},
            "tier": {"op": "in", "value": ["x", 1]},
            "ssd": {"op": "exists", "weight": 2},
        },
        ["python", "python", {"name": "rust", "weight": 3}, {"name": "go"}],
    )

    assert required == (
        Rule("label", "zone", "=", "a"),
        Rule("label", "gpu_mem", ">=", 16),
        Rule("label", "os", "=", "linux"),
        Rule("label", "tier", "in", ("x", 1)),
        Rule("capability", "python", "exists"),
        Rule("capability", "go", "exists"),
    )
    assert preferred == (
        (Rule("label", "ssd", "exists"), 2.0),
        (Rule("capability", "rust", "exists"), 3.0),
    )


BAD_LABELS = [
    ({"a b": 1}, "labels.a b: a name has 1 to 100 letters"),
    ({"x": None}, "labels.x: a string of at most 200 characters, a finite number, or true"),
    ({"x": [1]}, "labels.x: a string"),
    ({"x": float("nan")}, "labels.x: a string"),
    ({"x": "y" * 201}, "labels.x: a string"),
    ({"x": {}}, "labels.x.value: a string"),
    ({"x": {"op": "~", "value": 1}}, "labels.x.op: one of = != in not_in > >= < <= exists absent"),
    ({"x": {"op": ["="], "value": 1}}, "labels.x.op: one of"),
    ({"x": {"op": "exists", "value": 1}}, "labels.x.value: exists takes no value"),
    ({"x": {"op": "in", "value": "ab"}}, "labels.x.value: in takes a list of 1 to 100 values"),
    ({"x": {"op": "not_in", "value": []}}, "labels.x.value: not_in takes a list"),
    ({"x": {"op": "in", "value": ["a", None]}}, "labels.x.value.1: a string"),
    ({"x": {"op": ">", "value": "1"}}, "labels.x.value: > takes a finite number"),
    ({"x": {"op": ">", "value": True}}, "labels.x.value: > takes a finite number"),
    ({"x": {"value": 1, "weigth": 1}}, "labels.x.weigth: unknown; allowed are op, value, weight"),
    ({"x": {"value": 1, "weight": 0}}, "labels.x.weight: a number above 0, at most 100"),
    ({"x": {"value": 1, "weight": 100.5}}, "labels.x.weight: a number above 0"),
    ({"x": {"value": 1, "weight": True}}, "labels.x.weight: a number above 0"),
    ({"x": {"value": 1, "weight": None}}, "labels.x.weight: a number above 0"),
]
BAD_CAPABILITIES = [
    ([1], "capabilities.0: a name, or an object with name and weight"),
    (["a", " "], "capabilities.1: a name of 1 to 200 characters"),
    ([{"weight": 1}], "capabilities.0.name: a name of 1 to 200 characters"),
    ([{"name": "a", "op": "="}], "capabilities.0.op: unknown; allowed are name, weight"),
    ([{"name": "a", "weight": -1}], "capabilities.0.weight: a number above 0"),
]


@pytest.mark.parametrize(
    ("labels", "capabilities", "message"),
    [
        *((labels, [], message) for labels, message in BAD_LABELS),
        *(({}, capabilities, message) for capabilities, message in BAD_CAPABILITIES),
    ],
)
def test_a_bad_wish_is_refused_with_its_field_and_what_is_allowed(labels, capabilities, message):
    with pytest.raises(BadRule) as refusal:
        rules_of(labels, capabilities)

    assert str(refusal.value).startswith(message)
    assert isinstance(refusal.value, ValueError)
    assert message.startswith(refusal.value.field)


@given(st.floats(0, MAX_WEIGHT, exclude_min=True))
def test_every_weight_in_range_is_taken(weight):
    _, ((_, read),) = rules_of({}, [{"name": "a", "weight": weight}])

    assert read == weight


@given(
    st.dictionaries(
        st.sampled_from("xy"),
        st.recursive(
            st.none() | scalars | st.floats(),
            lambda inner: (
                st.lists(inner, max_size=2)
                | st.dictionaries(st.sampled_from(["op", "value", "weight", *OPS]), inner)
            ),
            max_leaves=4,
        ),
    ),
    st.lists(scalars | st.dictionaries(st.sampled_from(["name", "weight"]), scalars), max_size=2),
)
def test_any_json_is_read_or_refused_by_name(labels, capabilities):
    try:
        required, preferred = rules_of(labels, capabilities)
    except BadRule:
        return

    for rule in [*required, *(rule for rule, _ in preferred)]:
        assert holds(rule, frozenset(), {"x": 1}) in (True, False)


# -- the nearest -----------------------------------------------------------------------------------


def test_nobody_is_nearest_where_nobody_is():
    assert nearest([], MODEST) is None


def test_the_nearest_lacks_the_fewest_things_then_the_least_of_them():
    needs = replace(MODEST, memory_mb=8000, special_tools=frozenset({"qemu"}))
    two_things = replace(ROOMY, agent_id="two-things", memory_mb=7999)
    half = replace(ROOMY, agent_id="half", memory_mb=4000, tools=needs.special_tools)
    little = replace(half, agent_id="little", memory_mb=7000)
    twin = replace(little, agent_id="twin")

    found, missing = nearest([two_things, half, twin, little], needs)

    assert found == little
    assert [lack.sentence for lack in missing] == ["memory: needs 8000 MB, has 7000"]
    assert missing[0].shortage == 0.125


@given(st.lists(capacities, min_size=1, max_size=4), asked)
def test_nobody_is_nearer_than_the_nearest(all_of_them, needs):
    _, missing = nearest(all_of_them, needs)

    assert len(missing) == min(len(lacks(one, needs)) for one in all_of_them)
    assert all(0 < lack.shortage <= 1 for lack in missing)
