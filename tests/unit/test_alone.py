"""`make test` finds every test that must run by itself."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
MARK = "pytest.mark." + "alone"


def test_tests_that_run_alone_lie_where_they_are_looked_for() -> None:
    makefile = (TESTS.parent / "Makefile").read_text()
    found = re.search(r"^ALONE := (.+)$", makefile, re.M)
    assert found
    folders = [TESTS.parent / each for each in found[1].split()]
    alone = [each for each in TESTS.rglob("*.py") if MARK in each.read_text()]

    assert alone
    assert [each for each in alone if not set(folders) & set(each.parents)] == []
    assert f"-m alone $({'ALONE'})" in makefile
