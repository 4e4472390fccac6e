"""What the server draws itself stays inside its picture and in the order of time."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentpool.console import charts, series, tags
from agentpool.console.actions.base import number
from agentpool.console.charts import LANES_WIDTH, Span
from agentpool.registry.errors import Invalid

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MOMENTS = st.floats(0, 86_400).map(lambda s: NOON + timedelta(seconds=s))
SPANS = st.lists(
    st.tuples(MOMENTS, st.none() | st.floats(0, 7200)).map(
        lambda t: Span(0, t[0], None if t[1] is None else t[0] + timedelta(seconds=t[1]))
    ),
    min_size=1,
    max_size=20,
)


@given(SPANS)
def test_every_span_is_seen_and_inside(spans):
    scale = charts.scale(spans, now=NOON + timedelta(days=1))

    for x, width in map(scale.box, spans):
        assert 0 <= x <= LANES_WIDTH - 3
        assert width >= 3
        assert x + width <= LANES_WIDTH + 3.1


@given(SPANS)
def test_marks_are_few_round_and_in_order(spans):
    marks = charts.scale(spans, now=NOON + timedelta(days=1)).marks()

    assert len(marks) <= 10
    assert [x for x, _ in marks] == sorted(x for x, _ in marks)
    assert all(at.timestamp() % 10 < 1e-3 or at.timestamp() % 10 > 9.999 for _, at in marks)


@given(st.lists(st.none() | st.floats(0, 1e6), max_size=200), st.floats(0, 1e6))
def test_a_spark_line_stays_in_its_box(values, most):
    points = charts.spark_line(values, most=most)

    for point in points.split():
        x, y = map(float, point.split(","))
        assert 0 <= x <= charts.SPARK_WIDTH
        assert 0 <= y <= charts.SPARK_HEIGHT


def test_a_time_of_another_day_is_told_with_its_day():
    now = datetime.now(UTC)
    of_today = f"{now:%H:%M:%S} UTC<"

    assert f">{of_today}" in tags.moment(now)
    assert f">since {of_today}" in tags.since(now)
    for write in (tags.moment, tags.since, tags.until):
        assert "2026-03-01 12:00:00 UTC<" in write(NOON)


@pytest.mark.parametrize(
    ("value", "text"),
    [(999.6, "1 k"), (999_600, "1 M"), (999_999_999, "1 G"), (-999.6, "-1 k"), (0.1234, "0.123")],
)
def test_an_amount_that_is_rounded_up_has_the_next_unit(value, text):
    assert tags.amount(value) == text


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("1.5", 1.5), ("65,536", 65_536), ("1,234,567.5", 1_234_567.5), ("1 000", 1000)],
)
def test_a_number_may_be_typed_with_its_thousands_apart(typed, meant):
    assert number({"n": typed}, "n", "N") == meant


@pytest.mark.parametrize("typed", ["1,5", "0,25", "1,5000", "1.5,000", "1_000", "nan"])
def test_a_number_that_may_mean_another_is_refused(typed):
    with pytest.raises(Invalid) as refused:
        number({"n": typed}, "n", "N")

    assert dict(refused.value.errors).keys() == {"n"}


def test_amounts_are_written_as_people_read_them():
    assert [tags.mb(v) for v in (0, 512, 1024, 1536.4)] == ["0 MB", "512 MB", "1 GB", "1.5 GB"]
    assert [tags.amount(v) for v in (0, 950, 50_000, 1_500_000)] == ["0", "950", "50 k", "1.5 M"]
    assert [tags.seconds(v) for v in (None, 0, 2.5, 75, 7200, 90_000)] == [
        "–",
        "0 s",
        "2.5 s",
        "1 m 15 s",
        "2 h",
        "1 d 1 h",
    ]


MINUTES = st.lists(st.integers(0, 59), unique=True, max_size=8).map(sorted)


@given(st.dictionaries(st.sampled_from("abcdefghij"), MINUTES))
def test_lines_of_pools_share_their_moments_and_are_few(minutes):
    samples = {
        pool: [{"at": NOON + timedelta(minutes=m), "used": m / 60} for m in found]
        for pool, found in minutes.items()
    }

    told = series.by_pool(samples, "used", factor=100, most=100)

    assert len(told["lines"]) == min(len(samples), series.MOST_LINES)
    for line in told["lines"]:
        assert len(line["values"]) == len(told["at"])
        known = [value for value in line["values"] if value is not None]
        assert known == [round(100 * m / 60, 2) for m in minutes[line["label"]]]


def test_what_stands_on_each_other_has_no_gaps():
    samples = {"code": [{"at": NOON, "mb": 5}], "docs": [{"at": NOON + timedelta(1), "mb": 2}]}

    told = series.by_pool(samples, "mb", stacks=True)

    assert [line["values"] for line in told["lines"]] == [[5.0, 0.0], [0.0, 2.0]]
