"""tables: aligned columns and Markdown."""

from textkit import tables


def test_columns_aligns_text_left_and_numbers_right():
    assert "ab     5\nc    123" == tables.columns([("ab", 5), ("c", 123)], gap="   ")


def test_columns_leaves_no_blanks_at_the_end():
    assert "a  long\nb  x" == tables.columns([("a", "long"), ("b", "x")])


def test_markdown_escapes_a_pipe():
    expected = "| name |\n| --- |\n| a\\|b |"

    assert expected == tables.markdown(["name"], [["a|b"]])
