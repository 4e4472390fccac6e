"""The TDD example: its repository, its phases as real processes, all its stories at once."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agentpool.client import batch

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "tdd"
STORIES = EXAMPLE / "repo" / "stories"
PHASES = ("design", "qa", "code", "data")
pytestmark = pytest.mark.slow


@dataclass
class Bench:
    """A fresh remote, and the phases run in clones of it as an agent would run them."""

    folder: Path
    clones: int = 0
    results: dict[str, Any] = field(default_factory=dict)

    @property
    def remote(self) -> Path:
        return self.folder / "repo.git"

    def clone(self, *, ref: str) -> Path:
        self.clones += 1
        target = self.folder / f"clone-{self.clones}"
        git("clone", "--quiet", "--branch", ref, str(self.remote), str(target))
        return target

    def start(self, phase: str, *, story: str, clone: Path) -> subprocess.Popen[str]:
        contract = {
            "AGENTPOOL_CYCLE": story,
            "AGENTPOOL_RESULT": str(self.folder / "result.json"),
            "AGENTPOOL_PROGRESS": str(self.folder / "progress.json"),
        }
        return subprocess.Popen(
            [sys.executable, "tools/phase.py", phase],
            cwd=clone,
            env=os.environ | contract,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, phase: str, *, story: str, clone: Path | None = None) -> int:
        ref = "main" if phase in ("design", "data") else f"story/{story}"
        process = self.start(phase, story=story, clone=clone or self.clone(ref=ref))
        print(process.communicate(timeout=60)[0])
        self.results = json.loads((self.folder / "result.json").read_text())
        return process.returncode

    def progress(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = json.loads((self.folder / "progress.json").read_text())
        return found


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    python("make_repo.py", str(tmp_path / "repo.git"))
    return Bench(folder=tmp_path)


@pytest.mark.parametrize("story", ["slugify", "byte_units"])
def test_the_four_phases_bring_a_story_to_main(bench: Bench, story: str) -> None:
    codes = [bench.run(phase, story=story) for phase in PHASES]

    assert codes == [0, 0, 0, 0]
    assert bench.results["status"] == "success"
    assert 95 < bench.results["metrics"]["coverage_pct"] <= 100
    assert bench.progress()["phase"] == "data"
    assert merged(bench) == {story}


def test_a_phase_that_is_repeated_changes_nothing(bench: Bench) -> None:
    for phase in PHASES:
        assert bench.run(phase, story="morse") == 0
        heads = git("for-each-ref", cwd=bench.remote)

        assert bench.run(phase, story="morse") == 0
        assert heads == git("for-each-ref", cwd=bench.remote)


@pytest.mark.kill
@pytest.mark.parametrize("after_s", [0.1, 0.3, 0.6])
def test_a_killed_phase_is_finished_by_the_next_attempt(bench: Bench, after_s: float) -> None:
    for phase in PHASES:
        ref = "main" if phase in ("design", "data") else "story/wrap"
        clone = bench.clone(ref=ref)
        process = bench.start(phase, story="wrap", clone=clone)
        time.sleep(after_s)
        end(process)

        assert bench.run(phase, story="wrap", clone=clone) == 0

    assert {"wrap"} == merged(bench)


def test_a_lock_that_a_killed_push_left_on_the_remote_does_not_stop_the_next(bench: Bench) -> None:
    for phase in ("design", "qa", "code"):
        assert bench.run(phase, story="isbn") == 0
    lock = bench.remote / "refs" / "heads" / "main.lock"
    lock.touch()

    assert bench.run("data", story="isbn") == 0
    assert not lock.exists()


def test_qa_refuses_tests_that_are_red_for_a_wrong_reason(bench: Bench) -> None:
    bench.run("design", story="luhn")
    clone = bench.clone(ref="story/luhn")
    broken = "def test_one():\n    assert undefined\n"
    (clone / "stories/luhn/test_luhn.py").write_text(broken + broken * 3)
    commit_and_push(clone, branch="story/luhn")

    assert bench.run("qa", story="luhn") == 1
    assert "wrong reason" in bench.results["summary"]


def test_data_fails_loudly_when_main_moves_under_its_lock(bench: Bench) -> None:
    for phase in ("design", "qa", "code"):
        bench.run(phase, story="spell")
    intruder, clone = bench.clone(ref="main"), bench.clone(ref="main")
    (intruder / "README.md").write_text("moved\n")
    (bench.folder / "progress.json").unlink()

    process = bench.start("data", story="spell", clone=clone)
    wait_for(bench.folder / "progress.json")
    commit_and_push(intruder, branch="main")
    output = process.communicate(timeout=60)[0]

    assert process.returncode == 1
    assert "main moved although this lease locks it" in output


def test_a_remote_that_is_gone_asks_to_try_elsewhere(bench: Bench) -> None:
    clone = bench.clone(ref="main")
    bench.remote.rename(bench.folder / "away.git")

    assert bench.run("design", story="spell", clone=clone) == 75


def test_all_changes_together_apply_and_are_green(bench: Bench) -> None:
    clone = bench.clone(ref="main")
    for story in story_ids():
        git("apply", "--3way", f"stories/{story}/change.patch", cwd=clone)
        source = clone / "stories" / story / f"test_{story}.py"
        source.rename(clone / "tests" / source.name)

    suite = subprocess.run(
        [sys.executable, "-B", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=clone,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
    )
    assert suite.returncode == 0, suite.stdout


def test_the_repository_is_the_same_each_time_and_replaces_only_its_own(tmp_path: Path) -> None:
    first = python("make_repo.py", str(tmp_path / "repo.git")).stdout
    again = python("make_repo.py", str(tmp_path / "repo.git")).stdout
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    refused = python("make_repo.py", str(tmp_path / "other"), expect=1)

    assert first == again
    assert "was not built by make_repo.py" in refused.stderr
    assert (tmp_path / "other" / "file").exists()


def test_the_batch_names_every_story_as_the_story_does() -> None:
    document = tomllib.loads((EXAMPLE / "cycles.toml").read_text())
    described = {
        cycle["id"]: (cycle["title"], cycle["story_type"], cycle["tags"], cycle["paths"])
        for cycle in document["cycle"]
    }

    assert len(described) >= 24
    assert {story: story_head(story) for story in story_ids()} == described
    assert tuple(phase.name for phase in batch.load(EXAMPLE / "cycles.toml").phases) == PHASES


def merged(bench: Bench) -> set[str]:
    """Return the stories of which check_main.py finds everything on main."""
    table = python("check_main.py", str(bench.remote), expect=1).stdout
    return set(re.findall(r"^(\w+) .*  none$", table, re.M))


def story_ids() -> list[str]:
    return sorted(path.name for path in STORIES.iterdir())


def story_head(story: str) -> tuple[str, str, list[str], list[str]]:
    text = (STORIES / story / "story.md").read_text()
    title = text.partition("\n")[0].removeprefix("# ")
    fields = dict(re.findall(r"^- (story_type|tags|paths): (.+)$", text, re.M))
    return title, fields["story_type"], fields["tags"].split(", "), fields["paths"].split(", ")


def commit_and_push(clone: Path, *, branch: str) -> None:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    git(*identity, "commit", "--quiet", "--all", "--message", "Edit", cwd=clone)
    git("push", "--quiet", "origin", f"HEAD:{branch}", cwd=clone)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, f"{path.name} did not appear"
        time.sleep(0.01)


def end(process: subprocess.Popen[str]) -> None:
    """Kill a phase with all it has started, as the end of its sandbox does."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=10)


def python(script: str, argument: str, *, expect: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLE / script), argument]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert expect == done.returncode, done.stdout + done.stderr
    return done


def git(*arguments: str, cwd: Path | None = None) -> str:
    done = subprocess.run(
        ("git", *arguments), cwd=cwd, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout
