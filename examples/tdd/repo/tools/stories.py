"""Stories: read what is wanted from `stories/<id>/` and write the plan for it."""

import re
from dataclasses import dataclass
from pathlib import Path

from contract import WorkFailed

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Story:
    """What is wanted, which tests will prove it, and the change that fulfils it."""

    id: str
    title: str
    paths: tuple[str, ...]
    criteria: tuple[str, ...]
    tests: tuple[str, ...]

    @property
    def branch(self) -> str:
        return f"story/{self.id}"

    @property
    def test_source(self) -> Path:
        return ROOT / "stories" / self.id / f"test_{self.id}.py"

    @property
    def change(self) -> Path:
        return ROOT / "stories" / self.id / "change.patch"

    @property
    def test_path(self) -> str:
        return f"tests/test_{self.id}.py"

    @property
    def plan_path(self) -> str:
        return f"plans/{self.id}.md"

    @property
    def report_path(self) -> str:
        return f"reports/{self.id}.md"


def read_story(story_id: str) -> Story:
    """
    Return a story by its id.

    Raises: WorkFailed, there is no such story or a criterion has no test.
    """
    folder = ROOT / "stories" / story_id
    if not re.fullmatch(r"[a-z0-9_]+", story_id) or not folder.is_dir():
        raise WorkFailed(f"there is no story {story_id!r} (AGENTPOOL_CYCLE names it)")
    text = (folder / "story.md").read_text()
    head, _, criteria_text = text.partition("## Acceptance criteria\n")
    tests = re.findall(r"^def (test_\w+)", (folder / f"test_{story_id}.py").read_text(), re.M)
    criteria = re.findall(r"^- (.+)$", criteria_text, re.M)
    if len(criteria) != len(tests):
        raise WorkFailed(f"{len(criteria)} criteria, but {len(tests)} tests")
    paths = re.findall(r"^- paths: (.+)$", head, re.M)
    return Story(
        id=story_id,
        title=head.partition("\n")[0].removeprefix("# "),
        paths=tuple(path.strip() for line in paths for path in line.split(",")),
        criteria=tuple(criteria),
        tests=tuple(tests),
    )


def plan(story: Story) -> str:
    """Return the plan of a story in Markdown: each criterion with its test, and the files."""
    rows = "".join(
        f"| {criterion} | `{test}` |\n"
        for criterion, test in zip(story.criteria, story.tests, strict=True)
    )
    files = "".join(
        f"- `{path}`: {'change' if (ROOT / path).exists() else 'new'}\n" for path in story.paths
    )
    return (
        f"# Plan: {story.title}\n\n"
        f"## Tests\n| acceptance criterion | test |\n|---|---|\n{rows}\n"
        f"## Files\n{files}- `{story.test_path}`: new\n"
    )
