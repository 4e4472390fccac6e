"""keywords: the words that matter."""

from textkit.keywords import keywords


def test_keywords_leaves_out_stop_words():
    assert ["lease", "queue"] == keywords("The lease and the queue of it", count=5)


def test_keywords_sorts_by_frequency_then_place():
    assert ["token", "agent", "pool"] == keywords("agent token pool token", count=3)


def test_keywords_joins_plurals():
    text = "Leases expire. A lease is renewed; entries stay, one entry is bus class."

    assert ["Leases", "entries"] == keywords(text, count=2)


def test_keywords_of_a_short_text_are_few():
    assert [] == keywords("it is", count=3)
