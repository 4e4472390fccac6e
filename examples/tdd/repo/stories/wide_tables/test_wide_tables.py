"""wide_tables: places on the screen."""

import pytest

from textkit import tables


def test_columns_counts_wide_letters_twice():
    assert "日本  x\nabcd  y" == tables.columns([("日本", "x"), ("abcd", "y")])


def test_columns_ignores_combining_marks():
    assert "cafe\u0301  x\ncafe  y" == tables.columns([("cafe\u0301", "x"), ("cafe", "y")])


def test_columns_names_the_row_of_another_length():
    with pytest.raises(ValueError, match="row 2 has 1 cells instead of 2"):
        tables.columns([("a", "b"), ("c",)])
