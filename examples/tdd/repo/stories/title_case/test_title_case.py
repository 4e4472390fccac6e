"""title_case: headings."""

from textkit import words


def test_title_case_leaves_the_letter_after_an_apostrophe():
    assert "Don't Stop" == words.title_case("don't stop")


def test_title_case_leaves_small_words():
    assert "The Art of the Deal" == words.title_case("the art of the deal")
    assert "What Is It For" == words.title_case("what is it for")


def test_title_case_respects_capitals_inside():
    assert "An iPhone and McCoy" == words.title_case("an iPhone and McCoy")
