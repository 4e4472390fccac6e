"""stats: mean, median, percentile, histogram."""

import pytest

from textkit import stats


def test_mean_divides_by_the_count():
    assert 2.5 == stats.mean([1, 2, 3, 4])


def test_mean_of_nothing_is_refused():
    with pytest.raises(ValueError, match="not defined"):
        stats.mean([])


@pytest.mark.parametrize(("values", "expected"), [([3, 1, 2], 2), ([4, 1, 3, 2], 2.5)])
def test_median_takes_the_middle(values, expected):
    assert expected == stats.median(values)


def test_percentile_of_nothing_left_is_the_smallest():
    assert 10 == stats.percentile([30, 10, 20], share=0)


def test_histogram_scales_to_the_width():
    assert "a  #### 4\nbb ## 2" == stats.histogram({"a": 4, "bb": 2}, width=4)
