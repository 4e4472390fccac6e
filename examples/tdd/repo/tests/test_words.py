"""words: find, count, shorten and capitalise."""

from textkit import words


def test_words_drops_punctuation():
    assert ["Hello", "world"] == words.words("Hello, world!")


def test_words_keeps_an_apostrophe_inside_a_word():
    assert ["don't", "stop"] == words.words("'don't' stop")


def test_words_finds_words_of_any_script():
    assert ["Привет", "мир", "42"] == words.words("Привет, мир — 42")


def test_word_counts_ignores_case_and_sorts_by_frequency():
    assert [("a", 2), ("b", 1)] == list(words.word_counts("b a A").items())


def test_truncate_leaves_a_short_text_alone():
    assert "short" == words.truncate("short", limit=5)


def test_initials_takes_the_first_letters():
    assert "AKL" == words.initials("Ada king Lovelace")


def test_title_case_capitalises_words():
    assert "Hello World" == words.title_case("hello world")
