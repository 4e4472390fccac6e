"""globs: patterns of paths."""

import pytest

from textkit.globs import matches


def test_matches_keeps_a_star_inside_a_folder():
    assert matches("src/main.py", pattern="src/*.py")
    assert matches("a.py", pattern="?.py")
    assert not matches("src/deep/main.py", pattern="src/*.py")


@pytest.mark.parametrize("path", ["src/a.py", "src/b/a.py", "src/b/c/a.py"])
def test_matches_crosses_folders_with_two_stars(path):
    assert matches(path, pattern="src/**/*.py")
    assert matches(path, pattern="src/**")
    assert not matches(path, pattern="test/**/*.py")


def test_matches_takes_sets():
    assert matches("v2.txt", pattern="v[0-9].txt")
    assert not matches("v2.txt", pattern="v[!0-9].txt")


def test_matches_takes_other_signs_as_they_are():
    assert matches("a+b(1).txt", pattern="a+b(1).*")
    assert not matches("axtxt", pattern="a.txt")
    assert matches("a[b", pattern="a[b")
