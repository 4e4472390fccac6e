"""What an agent lacks for a request."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.registry.states import IsolationLevel, SecurityLevel
from balancing.fit import Capacity, Needs, fits, lacks

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
        ({"cpu_cores": 4.5}, "CPU: needs 4.5 cores, has 4"),
        ({"security_level": SecurityLevel.CRITICAL}, "security: needs critical, has high"),
        (
            {"isolation_level": IsolationLevel.VIRTUAL_MACHINE},
            "isolation: needs virtual_machine, has at most container",
        ),
        ({"special_tools": frozenset({"git", "qemu", "gdb"})}, "tools: lacks gdb, qemu"),
        ({"labels": {"zone": "b"}}, "labels: lacks zone=b"),
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
