"""semver: parts and order."""

import pytest

from textkit.semver import Version, parse


def test_parse_reads_the_parts():
    version = parse("1.2.3-rc.1+b7")

    assert Version(major=1, minor=2, patch=3, prerelease=("rc", "1")) == version
    assert "b7" == version.build


def test_versions_compare_by_number():
    assert parse("1.9.0") < parse("1.10.0")


def test_versions_put_a_prerelease_first():
    order = ["1.0.0-1", "1.0.0-alpha", "1.0.0-alpha.2", "1.0.0-alpha.10", "1.0.0-beta", "1.0.0"]

    assert order == sorted(reversed(order), key=parse)


def test_versions_ignore_the_build():
    assert parse("1.0.0+a") == parse("1.0.0+b")
    assert not parse("1.0.0+a") < parse("1.0.0+b")


@pytest.mark.parametrize("text", ["1.0", "01.0.0", "1.0.0-", "v1.0.0"])
def test_parse_refuses_what_is_no_version(text):
    with pytest.raises(ValueError, match="not a version"):
        parse(text)
