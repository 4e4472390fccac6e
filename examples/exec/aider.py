"""Does a lease's task with aider: `agentpool agent run --pool code --exec 'python …/aider.py'`."""

import json
import os
import sys
from pathlib import Path

import contract

SECRET = "openai_api_key"


def main() -> int:
    """Run the task; return the exit code of the contract."""
    task = contract.read_task()
    events = Path(os.environ.get("TMPDIR", ".")) / "aider-events.jsonl"
    # Events are written to the file alone: --analytics-disable would stop that, too.
    command = ["aider", "--message", task.text, "--yes-always", "--no-pretty", "--no-stream"]
    command += ["--no-check-update", "--analytics-log", str(events)]
    command += os.environ.get("AIDER_OPTIONS", "").split()
    key = {"OPENAI_API_KEY": task.secret(SECRET)}
    # aider prints text for people: nothing of it is read, the events tell what was used.
    code, tally = contract.follow(command, task=task, read=lambda *_: None, secrets=key)
    add_events(events, tally)
    return contract.finish(code=code, tally=tally)


def add_events(path: Path, tally: contract.Tally) -> None:
    """Add what aider sent and received, from the file of its events; absent means nothing."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        event = json.loads(line)
        if event.get("event") != "message_send":
            continue
        said = event.get("properties") or {}
        tally.input_tokens += int(said.get("prompt_tokens") or 0)
        tally.output_tokens += int(said.get("completion_tokens") or 0)
        tally.cost_usd += float(said.get("cost") or 0)
        tally.summary = "aider made its change"


if __name__ == "__main__":
    sys.exit(main())
