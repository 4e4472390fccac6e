"""
Does one phase of a story inside a clone: `python tools/phase.py design|qa|code|data`.

The story's id comes from AGENTPOOL_CYCLE. A phase may be killed at any instant and started again,
in the same clone or a fresh one: it begins from what the remote has, pushes only what it has
proved, and finds out from the history when an earlier attempt was already done.
"""

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import clone
import stories
from contract import (
    DONE,
    TRY_ELSEWHERE,
    WORK_FAILED,
    Journal,
    TryElsewhere,
    WorkFailed,
    write_result,
)


@dataclass(frozen=True)
class Outcome:
    """What a phase has done, in a sentence and in numbers."""

    summary: str
    metrics: Mapping[str, float]


def main(arguments: list[str]) -> int:
    """Run the phase that the arguments name and return the exit code of the contract."""
    if len(arguments) != 1 or arguments[0] not in PHASES:
        print(f"usage: phase.py {'|'.join(PHASES)}", file=sys.stderr)
        return WORK_FAILED
    phase, story_id = arguments[0], os.environ.get("AGENTPOOL_CYCLE", "")
    if phase != "data":
        # Stories are merged one after the other, so the merge is what all the others wait for:
        # where phases share a machine, the rest gives way to it.
        os.nice(10)
    if phase == "data" and not os.access(clone.ROOT, os.W_OK):
        # A merge changes any file; where the agent shows the clone read only, it is done in another.
        return _elsewhere(phase)
    journal = Journal(phase=phase, story=story_id)
    code, outcome = _attempt(phase, story_id, journal)
    journal.note(outcome.summary)
    if code != DONE:
        # The agent shows the last line of standard error as the reason.
        print(outcome.summary, file=sys.stderr)
    write_result(code=code, summary=outcome.summary, metrics=outcome.metrics)
    return code


def _elsewhere(phase: str) -> int:
    """Run the phase in a clone of the clone, in the folder that is the work's own to write."""
    try:
        target = clone.copy_to(Path(os.environ["AGENTPOOL_OUTPUT"]))
    except WorkFailed as error:
        print(error, file=sys.stderr)
        return TRY_ELSEWHERE
    os.chdir(target)
    os.execv(sys.executable, [sys.executable, str(target / "tools" / "phase.py"), phase])


def _attempt(phase: str, story_id: str, journal: Journal) -> tuple[int, Outcome]:
    try:
        story = stories.read_story(story_id)
        remote = clone.refresh(branch=story.branch)
        return DONE, PHASES[phase](story, remote, journal)
    except WorkFailed as error:
        return WORK_FAILED, Outcome(f"FAILED: {error}", {})
    except TryElsewhere as error:
        return TRY_ELSEWHERE, Outcome(f"try elsewhere: {error}", {})


def design(story: stories.Story, remote: clone.Remote, journal: Journal) -> Outcome:
    """Begin the story's branch at main with a plan: each criterion with the test that proves it."""
    outcome = Outcome(f"plan with {len(story.tests)} tests", {"tests_planned": len(story.tests)})
    if remote.story is not None and "design" in _done(story, remote.story):
        return outcome
    journal.note(f"branch {story.branch} from {remote.main[:8]}")
    clone.start(branch=story.branch, commit=remote.main)
    _write(story.plan_path, stories.plan(story))
    clone.commit(title=f"Plan {story.id}", story=story.id, phase="design", paths=[story.plan_path])
    _push_story(story, remote, phase="design", journal=journal)
    return outcome


def qa(story: stories.Story, remote: clone.Remote, journal: Journal) -> Outcome:
    """Add the story's tests and prove that they fail because the story is not done."""
    tip, done = _needs(story, remote, phase="design")
    if "qa" in done:
        return Outcome("tests are in, proved red by an earlier attempt", {})
    import suite

    clone.start(branch=story.branch, commit=tip)
    _write(story.test_path, story.test_source.read_text())
    journal.note(f"{story.test_path} must be red")
    run = suite.run_tests(story.test_path)
    if run.exit_code != 1 or run.failed == 0:
        raise WorkFailed(f"the new tests are not red (pytest ended with {run.exit_code})")
    if run.wrong_reasons:
        raise WorkFailed(f"red for a wrong reason: {'; '.join(run.wrong_reasons)}")
    paths = [story.test_path]
    clone.commit(title=f"Ask for {story.id}", story=story.id, phase="qa", paths=paths)
    _push_story(story, remote, phase="qa", journal=journal)
    return Outcome(f"red as it must be, failures: {run.failed}", {"failures": run.failed})


def code(story: stories.Story, remote: clone.Remote, journal: Journal) -> Outcome:
    """Make the story's change and prove that all tests pass."""
    tip, done = _needs(story, remote, phase="qa")
    if "code" in done:
        return Outcome("the change is in, proved green by an earlier attempt", {})
    import suite

    clone.start(branch=story.branch, commit=tip)
    journal.note(f"change {', '.join(story.paths)}")
    clone.git("apply", "--3way", "--whitespace=nowarn", str(story.change))
    run = suite.prove()
    if not run.is_green:
        raise WorkFailed(f"the suite is red after the change (pytest ended with {run.exit_code})")
    paths = list(story.paths)
    clone.commit(title=story.title, story=story.id, phase="code", paths=paths)
    _push_story(story, remote, phase="code", journal=journal)
    metrics = {"tests": run.passed, "suite_s": round(run.seconds, 3)}
    return Outcome(f"green: {run.passed} tests in {run.seconds:.2f} s", metrics)


def data(story: stories.Story, remote: clone.Remote, journal: Journal) -> Outcome:
    """Merge the story into main with a report of what it brings, once the merge is proved green."""
    if "data" in _done(story, remote.main):
        return Outcome("main has the story from an earlier attempt", {})
    tip, _ = _needs(story, remote, phase="code")
    import suite

    clone.start(branch=clone.MAIN, commit=remote.main)
    journal.note(f"merge {tip[:8]} into main {remote.main[:8]}")
    clone.git("merge", "--quiet", "--no-ff", "--no-commit", tip)
    added, removed = _lines_changed()
    run = suite.prove_with_coverage()
    if not run.is_green:
        raise WorkFailed(f"the merge is red (pytest ended with {run.exit_code})")
    metrics = {
        "tests": run.passed,
        "coverage_pct": round(run.coverage_pct, 1),
        "suite_s": round(run.seconds, 3),
        "lines_added": added,
        "lines_removed": removed,
    }
    _write(story.report_path, _report(story, metrics))
    paths = [story.report_path]
    clone.commit(title=f"Merge {story.branch}", story=story.id, phase="data", paths=paths)
    _push_main(story, journal)
    covered = f"{metrics['coverage_pct']} % covered"
    return Outcome(f"merged: {run.passed} tests green, {covered}, +{added} -{removed}", metrics)


PHASES: Mapping[str, Callable[[stories.Story, clone.Remote, Journal], Outcome]] = {
    "design": design,
    "qa": qa,
    "code": code,
    "data": data,
}


def _needs(story: stories.Story, remote: clone.Remote, *, phase: str) -> tuple[str, set[str]]:
    """Return the tip of the story's branch and the phases in it. Raises: WorkFailed."""
    done = _done(story, remote.story) if remote.story else set()
    if remote.story is None or phase not in done:
        raise WorkFailed(f"the phase {phase} of {story.id} is not done yet")
    return remote.story, done


def _done(story: stories.Story, commit: str) -> set[str]:
    return clone.phases_done(commit=commit, story=story.id)


def _push_story(
    story: stories.Story, remote: clone.Remote, *, phase: str, journal: Journal
) -> None:
    """Push the branch; a push that an earlier attempt finished meanwhile counts as done."""
    journal.note(f"push {story.branch}")
    try:
        clone.push_story(branch=story.branch, expected=remote.story)
    except clone.Rejected as error:
        now = clone.refresh(branch=story.branch)
        if now.story is None or phase not in _done(story, now.story):
            raise TryElsewhere(f"{story.branch} was moved by somebody else: {error}") from error


def _push_main(story: stories.Story, journal: Journal) -> None:
    journal.note("push main")
    try:
        clone.push_main()
    except clone.Rejected as error:
        if "data" in _done(story, clone.refresh(branch=story.branch).main):
            return
        raise WorkFailed(f"main moved although this lease locks it: {error}") from error


def _lines_changed() -> tuple[int, int]:
    """Return how many lines of the package and its tests the staged merge adds and removes."""
    listed = clone.git("diff", "--cached", "--numstat", "HEAD", "--", "textkit", "tests")
    pairs = [line.split("\t")[:2] for line in listed.splitlines()]
    return sum(int(added) for added, _ in pairs), sum(int(removed) for _, removed in pairs)


def _report(story: stories.Story, metrics: Mapping[str, float]) -> str:
    rows = "".join(f"| {name} | {value} |\n" for name, value in metrics.items())
    return f"# Report: {story.title}\n\n| measured on the merge | |\n|---|---|\n{rows}"


def _write(path: str, text: str) -> None:
    target = stories.ROOT / path
    target.parent.mkdir(exist_ok=True)
    target.write_text(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
