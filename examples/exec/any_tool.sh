#!/bin/sh
# Does a lease's task with any command line tool, without Python: reads TASK, writes the result file.
# The payload's env is in the environment, so TASK is there; TOOL is the command to call.
set -u
if ! command -v "${TOOL:?set TOOL to the command to run}" >/dev/null; then
    echo "$TOOL is not installed on this agent" >&2
    exit 78
fi
printf '{"counter": 1, "phase": "tool", "note": "started"}\n' > "$AGENTPOOL_PROGRESS"
"$TOOL" "${TASK:?the payload has no env.TASK}"
code=$?
status=success
[ "$code" -eq 0 ] || status=failure
printf '{"status": "%s", "usage": {"input_tokens": 0, "output_tokens": 0}}\n' "$status" > "$AGENTPOOL_RESULT"
# 0 success, 75 try elsewhere, 77 and 78 this agent's fault, all else: the work failed.
exit "$code"
