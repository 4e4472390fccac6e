"""Does a lease's task with Claude Code: `agentpool agent run --exec 'python …/claude_code.py'`."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import contract

SECRET = "anthropic_api_key"


def main() -> int:
    """Run the task; return the exit code of the contract."""
    task = contract.read_task()
    # stream-json instead of json: the last line is the same object, and the lines before it show
    # that the work goes on. More options, such as --max-turns 30, come from CLAUDE_OPTIONS.
    command = ["claude", "-p", task.text, "--output-format", "stream-json", "--verbose"]
    command += ["--permission-mode", "acceptEdits", *os.environ.get("CLAUDE_OPTIONS", "").split()]
    key = {"ANTHROPIC_API_KEY": task.secret(SECRET)}
    code, tally = contract.follow(command, task=task, read=read, secrets=key)
    return contract.finish(code=code, tally=tally)


def read(event: Mapping[str, Any], tally: contract.Tally) -> None:
    """Add an event to the tally: messages while it runs, the exact sums at the end."""
    if event.get("type") == "assistant":
        usage = (event.get("message") or {}).get("usage") or {}
        tally.details["messages"] = tally.details.get("messages", 0) + 1
        tally.output_tokens += int(usage.get("output_tokens") or 0)
    if event.get("type") == "result":
        usage = event.get("usage") or {}
        read_tokens = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
        tally.input_tokens = sum(int(usage.get(name) or 0) for name in read_tokens)
        tally.output_tokens = int(usage.get("output_tokens") or 0)
        tally.cost_usd = float(event.get("total_cost_usd") or 0)
        tally.summary = str(event.get("result") or "")
        tally.details |= {"session": event.get("session_id"), "turns": event.get("num_turns")}
        if event.get("is_error"):
            tally.error = tally.summary or str(event.get("subtype") or "Claude Code failed")


if __name__ == "__main__":
    sys.exit(main())
