"""The agent's side of a lease for wrappers: read the task, follow a command, write the result."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WORK_FAILED = 1
TRY_ELSEWHERE = 75  # EX_TEMPFAIL: no blame for this agent.
CONFIG_FAULT = 78  # EX_CONFIG: this agent is not set up for such work.
# What providers say when they have no room just now; another agent may have its own limit.
_BUSY = re.compile(r"\b(429|529)\b|rate.?limit|overloaded|usage limit", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Task:
    """What shall be done, and what it may use; `token_budget` of None means no limit."""

    text: str
    token_budget: int | None
    secrets: Path | None

    def secret(self, name: str) -> str | None:
        """Return a secret that the lease brought; None when it did not."""
        path = self.secrets / name if self.secrets else None
        return path.read_text().strip() if path and path.is_file() else None


@dataclass
class Tally:
    """What a tool has used and said so far."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    summary: str = ""
    error: str = ""
    events: int = 0
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def usage(self) -> dict[str, float]:
        """The usage in the words of the result file."""
        return {
            "input_tokens": self.input_tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": self.cost_usd,
        }


Read = Callable[[Mapping[str, Any], Tally], None]


def read_task() -> Task:
    """
    Return the task of this lease: the payload's `env.TASK`, else the words of its command.

    Raises: SystemExit, with the code for a wrong configuration, there is no task.
    """
    payload = json.loads(Path(os.environ["AGENTPOOL_PAYLOAD"]).read_text())
    text = (payload.get("env") or {}).get("TASK") or " ".join(payload.get("command") or ())
    if not text:
        print("the payload names no task: set env.TASK", file=sys.stderr)
        raise SystemExit(CONFIG_FAULT)
    budget = os.environ.get("AGENTPOOL_TOKEN_BUDGET", "")
    secrets = os.environ.get("AGENTPOOL_SECRETS")
    return Task(
        text=text,
        token_budget=int(budget) if budget else None,
        secrets=Path(secrets) if secrets else None,
    )


def follow(
    command: Sequence[str], *, task: Task, read: Read, secrets: Mapping[str, str | None]
) -> tuple[int, Tally]:
    """
    Run a command that prints one JSON object a line; return its exit code and what it used.

    Each line is shown, read, and told as progress. The command is stopped when its tokens exceed
    the budget.

    `read` adds what an event says to the tally. `secrets` are variables for the command alone;
    None leaves one out.

    Raises: SystemExit, with the code for a wrong configuration, the command is not installed.
    """
    tally = Tally()
    known = {name: value for name, value in secrets.items() if value is not None}
    try:
        child = subprocess.Popen(
            command,
            env=os.environ | known,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
    except FileNotFoundError as error:
        print(f"{command[0]} is not installed on this agent", file=sys.stderr)
        raise SystemExit(CONFIG_FAULT) from error
    with child:
        for line in child.stdout or ():
            print(line, end="", flush=True)
            _take(line, tally, read)
            if _is_over_budget(tally, task) and not tally.error:
                tally.error = f"the token budget of {task.token_budget} is spent"
                child.send_signal(signal.SIGTERM)
    return child.returncode, tally


def finish(*, code: int, tally: Tally) -> int:
    """Write the result and return the exit code that tells the agent how it went."""
    is_good = code == 0 and not tally.error
    result = {
        "status": "success" if is_good else "failure",
        "summary": tally.summary[:2000],
        "usage": tally.usage,
        **tally.details,
    }
    _write("AGENTPOOL_RESULT", result)
    if is_good:
        return 0
    reason = tally.error or f"the tool ended with exit code {code}"
    print(reason, file=sys.stderr)
    return TRY_ELSEWHERE if _BUSY.search(reason) else WORK_FAILED


def _take(line: str, tally: Tally, read: Read) -> None:
    try:
        event = json.loads(line)
    except ValueError:
        return
    if not isinstance(event, dict):
        return
    tally.events += 1
    read(event, tally)
    note = str(event.get("type") or "event")
    progress = {"counter": tally.events, "phase": "tool", "note": note, "usage": tally.usage}
    _write("AGENTPOOL_PROGRESS", progress)


def _is_over_budget(tally: Tally, task: Task) -> bool:
    used = tally.input_tokens + tally.output_tokens
    return task.token_budget is not None and used > task.token_budget


def _write(variable: str, value: Mapping[str, object]) -> None:
    """Replace the file that a variable names as a whole, so that nobody reads half of it."""
    if not os.environ.get(variable):
        return
    path = Path(os.environ[variable])
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(json.dumps(value) + "\n")
    draft.replace(path)
