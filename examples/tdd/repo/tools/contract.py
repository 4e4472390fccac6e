"""What a phase owes the agent that runs it: exit codes, progress and a result."""

import json
import os
from collections.abc import Mapping
from pathlib import Path

DONE = 0
WORK_FAILED = 1
TRY_ELSEWHERE = 75  # EX_TEMPFAIL: the machine or the remote is to blame, not the work.
STATUS = {DONE: "success", WORK_FAILED: "failure", TRY_ELSEWHERE: "retry"}
NO_USAGE = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0.0}


class WorkFailed(Exception):
    """The story can't go on like this: a red suite, a conflict, a missing phase."""


class TryElsewhere(Exception):
    """Nothing is wrong with the story, but it can't be worked on here and now."""


class Journal:
    """Tells people (standard output) and the agent (AGENTPOOL_PROGRESS) what is being done."""

    def __init__(self, *, phase: str, story: str) -> None:
        self._phase = phase
        self._story = story
        self._counter = 0

    def note(self, text: str) -> None:
        self._counter += 1
        print(f"{self._phase} {self._story}: {text}", flush=True)
        progress = {"counter": self._counter, "phase": self._phase, "note": text}
        _write("AGENTPOOL_PROGRESS", progress)


def write_result(*, code: int, summary: str, metrics: Mapping[str, float]) -> None:
    """Write the result for the agent, when it asked for one with AGENTPOOL_RESULT."""
    result = {
        "status": STATUS[code],
        "summary": summary,
        "usage": NO_USAGE,
        "metrics": dict(metrics),
    }
    _write("AGENTPOOL_RESULT", result)


def _write(variable: str, value: Mapping[str, object]) -> None:
    """Replace the file that a variable names as a whole, so that nobody reads half of it."""
    if not os.environ.get(variable):
        return
    path = Path(os.environ[variable])
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(json.dumps(value) + "\n")
        draft.replace(path)
    except OSError:
        # A single mounted file can't be replaced, and its folder may be read-only.
        path.write_text(json.dumps(value) + "\n")
