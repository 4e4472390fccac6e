"""closest: case and ties."""

from textkit import search


def test_closest_ignores_case():
    assert "branch" == search.closest("BRUNCH", ["merge", "branch"])
    assert "Commit" == search.closest("commit", ["merge", "Commit"], at_most=0)


def test_closest_takes_the_first_of_equals():
    assert "bat" == search.closest("cat", ["bat", "hat", "rat"])


def test_closest_prefers_the_exact_spelling():
    assert "us" == search.closest("us", ["US", "us"])
    assert "US" == search.closest("US", ["us", "US"])
