"""percentile: ends and in between."""

import pytest

from textkit import stats


def test_percentile_reaches_both_ends():
    assert 9 == stats.percentile([3, 9, 5], share=1)
    assert 3 == stats.percentile([3, 9, 5], share=0)


@pytest.mark.parametrize("values", [[4, 1, 3, 2], [7], [1, 2, 10]])
def test_percentile_in_the_middle_is_the_median(values):
    assert stats.median(values) == stats.percentile(values, share=0.5)
    assert pytest.approx(3.7) == stats.percentile([4, 1, 3, 2], share=0.9)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1], 1.1), ([1], -0.1)])
def test_percentile_refuses_what_has_no_answer(values, share):
    with pytest.raises(ValueError, match=r"not defined|from 0 to 1"):
        stats.percentile(values, share=share)
