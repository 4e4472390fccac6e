"""
What learning costs: from one outcome, from a batch, and anew from a million of them.

    .venv/bin/python bench/learning.py [--outcomes 1000000] [--agents 2000] [--json FILE]

On a database of its own. Outcomes are made by SQL: four pools, six kinds of work, skills that
differ. Told are milliseconds of one outcome learnt by itself (median of the whole; of the
processor: of the process and of its database connection), and of an empty transaction on the same
connection, of which one outcome needs two; milliseconds an outcome in a batch; and of `manage.py
relearn`, its processes together: seconds, seconds of a processor (without the database's), and the
largest memory.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
from claim_parts import stage  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

SINGLES = 400
_OUTCOMES = """
INSERT INTO outcome (lease_id, agent_id, agent_type, project, cycle_id, phase, story_type, tags,
  paths, attempt, outcome, waited_s, duration_s, memory_mb, cpu_cores, token_budget,
  peak_memory_mb, cpu_seconds, tokens_in, tokens_out, cost_usd, ended_at)
SELECT gen_random_uuid(), a.id, a.agent_type, 'p' || i %% 50, 'c' || i, 'code',
  'kind-' || i %% 6, CASE i %% 3 WHEN 0 THEN ARRAY['rust'] ELSE '{}' END, '{}', 1,
  CASE WHEN random() < 0.5 + 0.3 * (a.n %% 10) / 10 THEN 'success' ELSE 'failure' END,
  random() * 30, exp(5.5 + (a.n %% 7) / 10.0 + (random() + random() + random() - 1.5)), 1024, 1,
  50000, 600, 30, 9000, 2000, 0.05,
  now() - (%(count)s - i) * interval '2.5 seconds'
  FROM generate_series(1, %(count)s) i JOIN bench_agent a ON a.n = (i::bigint * 7919) %% %(agents)s
"""
_NUMBERED = """
WITH told AS (
  INSERT INTO event (kind, agent_type, lease_id, detail)
  SELECT 'lease.released', o.agent_type, o.lease_id, '{}'
    FROM (SELECT * FROM outcome ORDER BY ended_at DESC LIMIT %(count)s) o ORDER BY o.ended_at
    RETURNING id)
INSERT INTO event_number (seq, event_id)
  SELECT (SELECT coalesce(max(seq), 0) FROM event_number) + row_number() OVER (ORDER BY id), id
    FROM told
"""
# In a process of the product's: learns what is new, one event at a time or in batches.
_TIMED = """
import json, psutil, sys, time, django
django.setup()
from balancing import prepared
from balancing.services import learning
EMPTY = 400
learning.BATCH = int(sys.argv[1])
learning.learn_batch()
from django.db import connection
server = psutil.Process(connection.connection.info.backend_pid)
used = lambda: (time.process_time(), sum(server.cpu_times()[:2]))
took, before = [], used()
for _ in range(int(sys.argv[2])):
    began = time.perf_counter()
    heard = learning.learn_batch()
    if not heard or not heard.told:
        break
    took.append((time.perf_counter() - began) / len(heard.told))
spent = [(after - begun) / max(1, len(took)) for after, begun in zip(used(), before)]
empty = []
for _ in range(EMPTY):
    began = time.perf_counter()
    prepared.rows("SELECT 1", [])
    empty.append(time.perf_counter() - began)
print(json.dumps({"took": took, "empty": empty, "app": spent[0], "server": spent[1]}))
"""


def main() -> int:
    """Measure, print, write the rows; return the exit code."""
    options = _options()
    with stage.stage() as there:
        stage.seed(there, agents=options.agents)
        _fill(there, options)
        relearnt = _relearnt(there)
        one = _per_lesson(there, count=SINGLES + 5, batch=1)
        batch = _per_lesson(there, count=5000, batch=500)
    row = {
        "outcomes": options.outcomes,
        "agents": options.agents,
        "one_ms": one["took"],
        "empty_ms": one["empty"],
        "one_app_cpu_ms": one["app"],
        "one_db_cpu_ms": one["server"],
        "batch_ms": batch["took"],
        **relearnt,
    }
    _print(row)
    if options.json:
        options.json.write_text(json.dumps(_report([row]), indent=2) + "\n")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--outcomes", type=int, default=1_000_000)
    parser.add_argument("--agents", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def _fill(there: stage.Stage, options: argparse.Namespace) -> None:
    with there.connect() as connection:
        connection.execute("TRUNCATE outlook")
        connection.execute(
            "CREATE TABLE bench_agent AS SELECT id, agent_type, row_number() OVER (ORDER BY id) - 1"
            " AS n FROM agent WHERE agent_id <> 'template'"
        )
        told = {"count": options.outcomes, "agents": options.agents}
        connection.execute(_OUTCOMES, told)
        connection.execute("VACUUM ANALYZE outcome")


def _relearnt(there: stage.Stage) -> dict[str, Any]:
    """Run the command, as an operator would; watch its memory from outside."""
    began, cpu_s = time.monotonic(), _children_s()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "relearn"],
        cwd=ROOT,
        env=there.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    peak = {"mb": 0.0}
    watch = threading.Thread(target=_watch, args=(process, peak))
    watch.start()
    said, _ = process.communicate()
    took_s = time.monotonic() - began
    watch.join()
    if process.returncode:
        raise SystemExit(f"relearn failed: {said}")
    return {
        "relearn_s": round(took_s, 1),
        "relearn_cpu_s": round(_children_s() - cpu_s, 1),
        "relearn_peak_mb": round(peak["mb"]),
        "said": said.strip(),
    }


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _watch(process: "subprocess.Popen[str]", peak: dict[str, float]) -> None:
    """Note the largest memory of a process and its children: shared pages are counted once."""
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            several = [parent, *parent.children(recursive=True)]
            total = sum(each.memory_full_info().pss for each in several)
            peak["mb"] = max(peak["mb"], total / 1024**2)
        time.sleep(0.2)


def _per_lesson(there: stage.Stage, *, count: int, batch: int) -> dict[str, float]:
    """Return milliseconds a lesson (median), in batches of as many events, and of the CPU."""
    with there.connect() as connection:
        connection.execute(
            "UPDATE learning_state SET last_seq = (SELECT coalesce(max(seq), 0) FROM event_number)"
        )
        connection.execute(_NUMBERED, {"count": count})
        connection.execute("ANALYZE event, event_number")
    argv = [sys.executable, "-c", _TIMED, str(batch), str(count // batch)]
    env = {**there.env, "DJANGO_SETTINGS_MODULE": "agentpool.settings"}
    run = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    told = json.loads(run.stdout)
    for name in ("took", "empty"):
        told[name] = sorted(told[name])[len(told[name]) // 2]
    return {name: round(1000 * value, 3) for name, value in told.items()}


def _print(row: dict[str, Any]) -> None:
    table = Table("", "learning", box=None)
    for name, value in row.items():
        table.add_row(name.replace("_", " "), str(value))
    Console().print(table)


def _report(rows: list[dict[str, Any]]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "learning",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
