"""Does a lease's task with Codex: `agentpool agent run --pool code --exec 'python …/codex.py'`."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import contract

SECRET = "openai_api_key"


def main() -> int:
    """Run the task; return the exit code of the contract."""
    task = contract.read_task()
    command = ["codex", "exec", "--json", "--sandbox", "workspace-write"]
    command += [*os.environ.get("CODEX_OPTIONS", "").split(), task.text]
    key = {"CODEX_API_KEY": task.secret(SECRET)}
    code, tally = contract.follow(command, task=task, read=read, secrets=key)
    return contract.finish(code=code, tally=tally)


def read(event: Mapping[str, Any], tally: contract.Tally) -> None:
    """Add an event to the tally. Codex counts cached tokens as input, and tells no price."""
    kind = event.get("type")
    if kind == "turn.completed":
        usage = event.get("usage") or {}
        tally.input_tokens += int(usage.get("input_tokens") or 0)
        tally.output_tokens += int(usage.get("output_tokens") or 0)
    if kind == "item.completed":
        item = event.get("item") or {}
        if item.get("type") == "agent_message":
            tally.summary = str(item.get("text") or "")
    if kind == "turn.failed":
        tally.error = str((event.get("error") or {}).get("message") or "the turn failed")
    if kind == "thread.started":
        tally.details["session"] = event.get("thread_id")


if __name__ == "__main__":
    sys.exit(main())
