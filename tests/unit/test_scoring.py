"""Which of the agents that fit comes first, and why."""

import math
import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.registry.states import IsolationLevel, SecurityLevel
from balancing import scoring
from balancing.fit import Rule
from balancing.outlook import Average, Cell
from balancing.scoring import STRATEGIES, Candidate, Work, generality, rank, warmth

PAGE = Path(__file__).resolve().parents[2] / "docs/balancing.md"
HALF_FULL = Candidate(
    agent_id="half",
    load=2,
    max_concurrent=4,
    memory_mb=4000,
    cpu_cores=Decimal("4.000"),
    token_budget=400_000,
    disk_space_mb=4000,
    used_memory_mb=2000,
    used_cpu_cores=Decimal("1.000"),
    used_token_budget=100_000,
    used_disk_space_mb=0,
    capabilities=frozenset({"rust", "sql"}),
    labels={"gpu_mem": 16},
    generality=10,
    last_token=7,
    warmth=0.4,
    # 4 : 1 instead of 3 : 2, and a quarter faster.
    cell=Cell(
        odds=math.log(4 / 1.5),
        log_s=math.log(0.75),
        odds_doubt=0,
        log_s_doubt=0,
        tokens=9000,
        efficiency=0.6,
        leases=10,
        at=1000,
    ),
)
WORK = Work(
    memory_mb=1000,
    cpu_cores=1,
    token_budget=100_000,
    disk_space_mb=1000,
    tags=frozenset({"rust", "web"}),
    preferences=((Rule("label", "gpu_mem", ">=", 8), 2.0),),
)
POOL = Average(
    odds=math.log(1.5),
    log_s=math.log(400) - 0.18,
    odds_doubt=0.75,
    log_s_doubt=0.25,
    match_odds=0.5,
    match_log_s=-0.25,
    noise=0.36,
    retry_s=1000,
    tokens=8000,
    efficiency=0.5,
    leases=98,
    at=2000,
)
REACH = math.exp(1.2816 * 0.6)
TOLD = {
    "success_low": 0.8,
    "success_high": 0.8,
    "seconds": 300,
    "seconds_low": 300 / math.exp(0.18) / REACH,
    "seconds_high": 300 / math.exp(0.18) * REACH,
    "tokens": 9000,
    "leases": 10,
    "learnt_at": 1000,
    "generality": 10,
}
TABLE = [name for name in STRATEGIES if name not in ("round_robin",)]
small, doubts = st.floats(-2, 2), st.floats(0, 2)
cells = st.builds(
    Cell,
    small,
    small,
    doubts,
    doubts,
    st.floats(0, 9e4),
    st.floats(0, 1),
    st.integers(0, 99),
    st.floats(0, 2e9),
)
averages = st.builds(
    Average,
    odds=small,
    log_s=st.floats(0, 9),
    odds_doubt=doubts,
    log_s_doubt=doubts,
    match_odds=small,
    match_log_s=small,
    noise=st.floats(0.01, 2),
    retry_s=st.floats(1, 9000),
    tokens=st.floats(0, 9e4),
    efficiency=st.floats(0, 1),
    leases=st.integers(0, 99),
    at=st.floats(0, 2e9),
)
candidates = st.builds(
    Candidate,
    agent_id=st.text("abc", min_size=1, max_size=3),
    load=st.integers(0, 4),
    max_concurrent=st.integers(4, 5),
    memory_mb=st.integers(0, 4000),
    cpu_cores=st.integers(0, 8),
    token_budget=st.integers(0, 4000),
    disk_space_mb=st.integers(0, 4000),
    used_memory_mb=st.integers(0, 4000),
    used_cpu_cores=st.integers(0, 8),
    capabilities=st.frozensets(st.sampled_from(["rust", "web", "sql"])),
    labels=st.dictionaries(st.just("gpu_mem"), st.integers(0, 16)),
    generality=st.integers(0, 50),
    last_token=st.integers(0, 100),
    warmth=st.floats(0, 1),
    cell=st.none() | cells,
)


def score(strategy, candidate=HALF_FULL, work=WORK, prior=POOL):
    return STRATEGIES[strategy](candidate, work, prior)


# -- each strategy, by hand ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("strategy", "total", "parts"),
    [
        ("round_robin", -7, {"last_token": 7}),
        ("least_loaded", -2.01, {"load": 2, "generality": 10}),
        ("best_of_k", -2.01, {"load": 2, "generality": 10}),
        # (3000/4000 + 2/4 + 200/400 + 1000/4000) / 4
        ("bin_pack", 0.49, {"packing": 0.5, "generality": 10}),
        (
            "workload_aware",
            0.3 * 0.5 + 0.25 * 0.75 + 0.2 * 0.5 + 0.15 * 0.8 + 0.1 * 0.4 - 0.01,
            {
                "load": 0.5,
                "specialisation": 0.75,  # rust and the memory of the GPU, 3 of 4
                "resources": 0.5,
                "performance": 0.8,
                "affinity": 0.4,
                "generality": 10,
            },
        ),
        (
            "predictive",
            0.4 * 0.8 + 0.3 * 0.6 + 0.3 / (1 + 300 / 3600) - 0.01,
            {"success": 0.8, "efficiency": 0.6, "time": 12 / 13, **TOLD},
        ),
        # 300 s, and in one of five cases 1000 s more.
        ("learnt", -500.01, {"hoped_s": 500, "success": 0.8, **TOLD}),
    ],
)
def test_a_score_is_the_formula_with_its_parts(strategy, total, parts):
    found = score(strategy)

    assert found.total == pytest.approx(total)
    assert dict(found.parts) == pytest.approx(parts)


@pytest.mark.parametrize("weights", [scoring.WORKLOAD_WEIGHTS, scoring.PREDICTIVE_WEIGHTS])
def test_weights_sum_to_one(weights):
    assert sum(weights.values()) == pytest.approx(1)


def test_an_agent_without_history_is_like_its_pool_and_like_its_tags():
    unknown = replace(HALF_FULL, cell=None)
    knows_all = replace(unknown, capabilities=frozenset({"rust", "web"}))

    found, better = (score("predictive", one).parts for one in (unknown, knows_all))

    assert found["seconds"] == pytest.approx(400 * math.exp(0.125 - 0.125))
    assert found["leases"] == 0
    assert better["seconds"] == pytest.approx(400 * math.exp(-0.125))
    assert better["success"] > found["success"]


def test_the_orchestrators_guess_counts_only_without_history():
    guessed = replace(WORK, expected_duration_s=3600)
    unknown = replace(HALF_FULL, cell=None)

    said = [rank("predictive", [unknown], work)[0][1].parts for work in (WORK, guessed)]

    assert score("predictive", work=guessed).parts == score("predictive").parts
    assert said[1]["seconds"] / said[0]["seconds"] == pytest.approx(6)


def test_work_without_wishes_is_neutral():
    plain = replace(WORK, tags=frozenset(), preferences=())

    assert score("workload_aware", work=plain).parts["specialisation"] == 0.5


def test_an_amount_that_an_agent_has_nothing_of_counts_nothing():
    bare = replace(HALF_FULL, disk_space_mb=0)
    work = replace(WORK, disk_space_mb=0)

    assert score("bin_pack", bare, work).parts["packing"] == pytest.approx(1.75 / 4)
    assert score("workload_aware", bare, work).parts["resources"] == pytest.approx(1.25 / 4)


# -- what must hold for any candidate --------------------------------------------------------------


@given(st.lists(candidates, max_size=6), st.sampled_from(sorted(STRATEGIES)), averages)
def test_the_order_of_candidates_does_not_matter(several, strategy, prior):
    several = list({one.agent_id: one for one in several}.values())

    ranked = rank(strategy, several, WORK, prior)

    assert ranked == rank(strategy, reversed(several), WORK, prior)
    assert [pair[1].total for pair in ranked] == sorted(
        (score(strategy, one, WORK, prior).total for one in several), reverse=True
    )


@given(candidates, averages)
def test_the_seeds_scores_stay_between_nought_and_one_but_for_generality(candidate, prior):
    for strategy in ("workload_aware", "predictive"):
        parts = dict(score(strategy, candidate, WORK, prior).parts)
        shares = scoring.WORKLOAD_WEIGHTS | scoring.PREDICTIVE_WEIGHTS

        assert all(0 <= value <= 1 for name, value in parts.items() if name in shares), parts


@given(candidates, averages)
def test_more_load_never_helps(candidate, prior):
    fuller = replace(candidate, load=candidate.load + 1, max_concurrent=6)
    candidate = replace(candidate, max_concurrent=6)

    for strategy in ("least_loaded", "best_of_k", "workload_aware"):
        assert (
            score(strategy, fuller, WORK, prior).total
            < score(strategy, candidate, WORK, prior).total
        )


@given(candidates, st.integers(0, 50))
def test_of_equals_the_generalist_is_kept_free(candidate, general):
    plain = replace(candidate, generality=0)
    generalist = replace(candidate, generality=general + 1)

    for strategy in TABLE:
        assert score(strategy, plain).total > score(strategy, generalist).total


def test_generality_never_outweighs_a_slot():
    broad = replace(HALF_FULL, generality=scoring.MAX_GENERALITY)
    narrow = replace(HALF_FULL, generality=0, load=HALF_FULL.load + 1)

    assert score("least_loaded", broad).total > score("least_loaded", narrow).total


def test_ties_go_by_name():
    twins = [replace(HALF_FULL, agent_id=name) for name in "cab"]

    assert [one.agent_id for one, _ in rank("least_loaded", twins, WORK)] == ["a", "b", "c"]


def test_an_unknown_strategy_is_no_strategy():
    with pytest.raises(KeyError):
        rank("luck", [HALF_FULL], WORK, POOL)


# -- generality and warmth -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "levels", "expected"),
    [
        ("", (IsolationLevel.PROCESS,), 1 + 3 + 1),
        ("ab", (IsolationLevel.PROCESS, IsolationLevel.VIRTUAL_MACHINE), 2 + 1 + 3 + 3),
        (range(100), (), 50),
    ],
)
def test_generality_counts_what_others_may_lack(tools, levels, expected):
    assert expected == generality(
        tools=tools,
        capabilities=("rust",),
        security_level=SecurityLevel.HIGH,
        isolation_levels=levels,
    )


@pytest.mark.parametrize(
    ("same_cycle", "overlap", "age_s", "expected"),
    [
        (True, 0, 0, 1),
        (True, 0, 300, 0.5),
        (True, 0, 600, scoring.STICKY_FROM),
        (False, 0, 0, 0.5),
        (False, 0, 300, scoring.STICKY_FROM),
        (False, 1, 0, 0.9),
        (False, 0.5, 300, 0.35),
        (True, 1, 10**9, 0),
    ],
)
def test_warmth_halves_and_is_more_for_the_same_cycle(same_cycle, overlap, age_s, expected):
    found = warmth(same_cycle=same_cycle, path_overlap=overlap, age_s=age_s, half_life_s=300)

    assert found == pytest.approx(expected)


# -- the page --------------------------------------------------------------------------------------


def test_every_strategy_and_weight_is_in_the_page():
    text = PAGE.read_text()
    told = set(re.findall(r"^\| `(\w+)` \|", text, flags=re.M))

    assert told >= set(STRATEGIES)
    for name, weight in {**scoring.WORKLOAD_WEIGHTS, **scoring.PREDICTIVE_WEIGHTS}.items():
        assert re.search(rf"^\| {name} \| {weight:g} \|", text, flags=re.M), name


@pytest.mark.parametrize(
    "name",
    [
        "GENERALITY_COST",
        "MAX_GENERALITY",
        "BEST_OF",
        "STICKY_FROM",
        "WARM_HALF_LIFE_S",
        "SAME_PROJECT",
        "SAME_PATHS",
    ],
)
def test_every_constant_is_in_the_page_with_its_value(name):
    assert re.search(
        rf"^\| `{name}` \| {getattr(scoring, name):g} \|", PAGE.read_text(), flags=re.M
    )
