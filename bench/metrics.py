"""
What the metrics cost: one cycle of the collector, the page of 30 days, and a scrape.

    .venv/bin/python bench/metrics.py [--json FILE] [--agents 100000] [--leases 1000000]

The cycle runs on a day of `leases` leases and so many agents, with half a minute of them not yet
counted; beside it, as reference, a bare count of the agents by type and status. The reference of
the page is one percentile over the day's outcomes: what it would cost without roll-ups.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "bench"))

CYCLE_TARGET_MS, PAGE_TARGET_MS = 1000, 300
HALF_MINUTES_A_DAY = 2880

# A day of leases, each with the events of its request, grant, acknowledgement and end.
_OUTCOMES = """
INSERT INTO outcome (lease_id, agent_id, agent_type, project, cycle_id, phase, story_type, tags,
    paths, attempt, outcome, waited_s, duration_s, memory_mb, cpu_cores, token_budget,
    peak_memory_mb, cpu_seconds, tokens_in, tokens_out, cost_usd, ended_at)
  SELECT gen_random_uuid(), a.id, a.agent_type, 'p' || i %% 50, '', '', '', '{}', '{}', 1,
    (ARRAY['success','success','success','failure','timeout','cancelled'])[1 + i %% 6],
    random() * 20, 30 + random() * 300, 1024, 1, 50000, random() * 1024, random() * 100,
    (random() * 20000)::int, (random() * 5000)::int, 0.01,
    now() - make_interval(secs => 86400.0 * (%(n)s - i) / %(n)s)
  FROM generate_series(1, %(n)s) i
  JOIN LATERAL (SELECT id, agent_type FROM bench_agents WHERE n = 1 + i %% %(agents)s) a ON true
"""
_EVENTS = """
WITH told AS (
  INSERT INTO event (at, kind, agent_type, agent_id, project, request_id, lease_id, detail)
  SELECT o.ended_at, kinds[k], o.agent_type, '', o.project,
    md5(o.lease_id::text)::uuid, CASE WHEN k > 1 THEN o.lease_id END, CASE k
      WHEN 1 THEN '{"reason": "arrived"}'
      WHEN 2 THEN jsonb_build_object('attempt', 1, 'tier', 'strategy', 'charge_s', 60,
        'waited_s', o.waited_s)
      WHEN 3 THEN '{"phase": ""}'
      ELSE jsonb_build_object('outcome', o.outcome, 'error', '', 'charge_s', 0) END
  FROM (SELECT o.*, row_number() OVER (ORDER BY ended_at) AS n FROM outcome o) o,
    (SELECT ARRAY['request.waiting', 'lease.offered', 'lease.active', 'lease.released'] kinds) x,
    generate_series(1, 4) k ORDER BY o.n, k RETURNING id)
INSERT INTO event_number (seq, event_id) SELECT row_number() OVER (ORDER BY id), id FROM told
"""
_MARK = """
INSERT INTO metric_state (id, last_seq, covered_until)
  VALUES (1, %(seq)s, date_bin('30 seconds', now(), 'epoch') - interval '30 seconds')
  ON CONFLICT (id) DO UPDATE SET last_seq = excluded.last_seq,
    covered_until = excluded.covered_until
"""
_AGENTS_REFERENCE = "SELECT agent_type, status, count(*) FROM agent GROUP BY 1, 2"
_PAGE_REFERENCE = (
    "SELECT agent_type, percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_s)"
    " FROM outcome GROUP BY 1"
)


def main() -> int:
    """Measure all; return 1 when a target is missed."""
    options = _options()
    if options.inside:
        print(json.dumps(_inside(options)))
        return 0
    from claim_parts import stage

    with stage.stage() as there:
        _say(f"{options.agents:,} agents ...")
        stage.seed(there, agents=options.agents)
        _say(f"{options.leases:,} leases of a day ...")
        _seed(there, options)
        argv = [sys.executable, __file__, "--inside", "--leases", str(options.leases)]
        argv += ["--rounds", str(options.rounds)]
        done = subprocess.run(argv, env=there.env, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(done.stderr[-3000:])
        rows = json.loads(done.stdout.splitlines()[-1])
    _print(rows)
    if options.json:
        options.json.write_text(json.dumps(_report(rows, options), indent=2))
    return int(any(row["p95_ms"] > row["target_ms"] for row in rows if row["target_ms"]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--agents", type=int, default=100_000)
    parser.add_argument("--leases", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _seed(there: Any, options: argparse.Namespace) -> None:
    with there.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("SET synchronous_commit = off")
        connection.execute(
            "CREATE UNLOGGED TABLE bench_agents AS"
            " SELECT id, agent_type, row_number() OVER () AS n FROM agent WHERE status <> 'retired'"
        )
        connection.execute("CREATE UNIQUE INDEX ON bench_agents (n)")
        row = connection.execute("SELECT count(*) FROM bench_agents").fetchone()
        amounts = {"n": options.leases, "agents": row[0] if row else 1}
        connection.execute(_OUTCOMES, amounts)
        connection.execute(_EVENTS)
        connection.execute(
            "INSERT INTO relay_state (id, last_seq) VALUES (1, %(last)s)"
            " ON CONFLICT (id) DO UPDATE SET last_seq = excluded.last_seq",
            {"last": 4 * options.leases},
        )
        connection.execute("VACUUM ANALYZE")


# -- inside, with Django ---------------------------------------------------------------------------


def _inside(options: argparse.Namespace) -> list[dict[str, Any]]:
    # The benches beside this file have the names of the product's packages.
    sys.path[:] = [each for each in sys.path if Path(each).resolve() != ROOT / "bench"]
    import django

    django.setup()
    from agentpool.registry import collecting

    half_minute = max(1, 4 * options.leases // HALF_MINUTES_A_DAY)
    mark = {"seq": 4 * options.leases - half_minute}
    collecting.collect()  # the whole backlog first, so that every row is there
    cycle, reference = [], []
    for _ in range(options.rounds):
        _sql(_MARK, mark)
        cycle.append(_ms(collecting.collect))
        reference.append(_ms(lambda: _sql(_AGENTS_REFERENCE)))
    _furnish_month()
    get, scrape = _getter("/pool-metrics?back=30d"), _getter("/metrics")
    page = [_ms(get) for _ in range(options.rounds + 1)][1:]
    raw = [_ms(lambda: _sql(_PAGE_REFERENCE)) for _ in range(3)]
    scraped = [_ms(scrape) for _ in range(options.rounds + 1)][1:]
    return [
        _row("cycle", cycle, reference, CYCLE_TARGET_MS),
        _row("page_30d", page, raw, PAGE_TARGET_MS),
        _row("scrape", scraped, reference, 0),
    ]


def _sql(text: str, params: Any = None) -> None:
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(text, params)


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def _furnish_month() -> None:
    """Write the stretches of 30 days: the fleet's of a day, again and again."""
    from datetime import timedelta

    from agentpool.registry import measuring, metrics, queries
    from agentpool.registry.models import PoolSample

    kept, at = measuring.kept_s(), queries.now()
    for step_s in metrics.STEPS_S:
        newest = measuring.samples(step_s).order_by("-granted")[:4]
        found = [(row.pool_id, metrics.row(measuring.stretch_of(row))) for row in newest]
        count = int(min(30 * 86_400, kept[step_s]) // step_s)
        begins = [
            metrics.begin_of(at, step_s) - timedelta(seconds=step_s * n) for n in range(count)
        ]
        rows = [
            PoolSample(pool_id=pool, step_s=step_s, at=each, **columns)
            for each in begins
            for pool, columns in found
        ]
        PoolSample.objects.bulk_create(rows, batch_size=1000, ignore_conflicts=True)
    _sql("ANALYZE pool_sample")


def _getter(path: str) -> Callable[[], object]:
    from django.contrib.auth import get_user_model
    from django.test import Client

    client = Client()
    user, _ = get_user_model().objects.get_or_create(username="bench", is_staff=True)
    client.force_login(user)

    def get() -> object:
        answer = client.get(path)
        if answer.status_code != 200:
            raise SystemExit(f"{path}: {answer.status_code}")
        return answer

    return get


# -- the report ------------------------------------------------------------------------------------


def _row(what: str, values: list[float], reference: list[float], target_ms: int) -> dict[str, Any]:
    median, usual = statistics.median(values), statistics.median(reference)
    return {
        "what": what,
        "p50_ms": round(median, 1),
        "p95_ms": round(sorted(values)[min(len(values) - 1, int(0.95 * len(values)))], 1),
        "reference_p50_ms": round(usual, 1),
        "of_reference": round(median / usual, 2),
        "target_ms": target_ms or None,
        "rounds": len(values),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    print(f"{'what':<10} {'p50 ms':>8} {'p95 ms':>8} {'reference':>10} {'target':>7}")
    for row in rows:
        print(
            f"{row['what']:<10} {row['p50_ms']:>8} {row['p95_ms']:>8}"
            f" {row['reference_p50_ms']:>10} {row['target_ms'] or '-':>7}"
        )


def _report(rows: list[dict[str, Any]], options: argparse.Namespace) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "bench": "metrics",
        "at": datetime.now(UTC).isoformat(),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "agents": options.agents,
        "leases_a_day": options.leases,
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
