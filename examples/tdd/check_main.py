"""Checks what the demo left on main: each story merged once, with its papers, and all green."""

import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PHASES = ("design", "qa", "code", "data")


@dataclass(frozen=True)
class StoryCheck:
    """What main has of one story."""

    id: str
    phases: frozenset[str]
    merges: int
    missing: tuple[str, ...]
    report: str

    @property
    def problems(self) -> list[str]:
        """What keeps the story from counting as merged."""
        if not self.merges:
            return ["not merged"]
        found = [f"no {path}" for path in self.missing]
        found += [f"no {phase} commit" for phase in PHASES if phase not in self.phases]
        if self.merges > 1:
            found.append(f"merged {self.merges} times")
        return found


def check_main(*, clone: Path) -> list[StoryCheck]:
    """Return the checks of all stories in a clone of the demo's repository, sorted by id."""
    done = _phases_by_story(clone)
    return [
        _check(clone, story.name, done.get(story.name, Counter()))
        for story in sorted((clone / "stories").iterdir())
    ]


def main(arguments: list[str]) -> int:
    """Clone main, print a row a story and the result of the suite; return 0 when all is well."""
    if len(arguments) != 1:
        print("usage: check_main.py REPO", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="check-main-") as folder:
        clone = Path(folder) / "textkit"
        _git(Path.cwd(), "clone", "--quiet", "--branch", "main", arguments[0], str(clone))
        checks = check_main(clone=clone)
        _print_table(checks)
        suite = _run_suite(clone)
    print(f"\nsuite: {(suite.stdout.strip() or 'nothing ran').splitlines()[-1]}")
    if suite.returncode:
        print(suite.stdout, suite.stderr, sep="\n", file=sys.stderr)
    merged = sum(not check.problems for check in checks)
    print(f"main: {merged} of {len(checks)} stories merged")
    return 0 if merged == len(checks) and not suite.returncode else 1


def _check(clone: Path, story: str, commits: Counter[str]) -> StoryCheck:
    wanted = (f"tests/test_{story}.py", f"plans/{story}.md", f"reports/{story}.md")
    report = clone / wanted[-1]
    return StoryCheck(
        id=story,
        phases=frozenset(commits),
        merges=commits["data"],
        missing=tuple(path for path in wanted if not (clone / path).is_file()),
        report=report.read_text() if report.is_file() else "",
    )


def _phases_by_story(clone: Path) -> dict[str, Counter[str]]:
    form = (
        "--format=%(trailers:key=Story,valueonly,separator=) "
        "%(trailers:key=Phase,valueonly,separator=)"
    )
    found: dict[str, Counter[str]] = {}
    for line in _git(clone, "log", form, "main").splitlines():
        story, _, phase = line.partition(" ")
        if phase:
            found.setdefault(story, Counter())[phase] += 1
    return found


def _print_table(checks: list[StoryCheck]) -> None:
    print(f"{'story':<16}{'phases':<26}{'tests':>6}{'cover %':>9}{'suite s':>9}  problems")
    for check in checks:
        phases = " ".join(phase for phase in PHASES if phase in check.phases)
        numbers = [_number(check.report, name) for name in ("tests", "coverage_pct", "suite_s")]
        row = f"{check.id:<16}{phases:<26}{numbers[0]:>6}{numbers[1]:>9}{numbers[2]:>9}"
        print(f"{row}  {', '.join(check.problems) or 'none'}")


def _number(report: str, name: str) -> str:
    match = re.search(rf"^\| {name} \| (\S+) \|$", report, re.M)
    return match[1] if match else "-"


def _run_suite(clone: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    return subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ("git", "-c", "safe.directory=*", *arguments),
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
