"""
Heartbeats through every door, and what a fleet of 100,000 agents costs.

    .venv/bin/python bench/heartbeat.py [--seconds 6] [--fleet 100000] [--json FILE]

`flood` rows: as many as are answered, each after its commit. `fleet` rows: each agent once in 30 s.
cpu_share: what the web server and Postgres use together, in cores; beside it each of them, and the
generators.
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from claim_parts import cpu, paths, stage  # noqa: E402
from live_parts.workers import Worker  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

GENERATORS = 2
INTERVAL_S = 30.0
REST_CLIENTS = 32
Row = dict[str, Any]

# Agents with a credential each: the token of beat-7 is ap_beat-7.
_SEED = """
WITH made AS (
  INSERT INTO agent SELECT n.* FROM agent t, generate_series(%(first)s::int, %(last)s::int) i,
    LATERAL jsonb_populate_record(t, jsonb_build_object('id', gen_random_uuid(),
      'agent_id', 'beat-' || i, 'status', 'idle')) n
    WHERE t.agent_id = 'template' RETURNING id, agent_id),
  alive AS (
    INSERT INTO liveness (agent_id, incarnation, last_heartbeat_at) SELECT id, 1, now() FROM made)
INSERT INTO credential (id, scope, name, digest, hint, agent_id, incarnation, created_by)
  SELECT gen_random_uuid(), 'agent', '', sha256(convert_to('ap_' || agent_id, 'UTF8')),
    'ap_bench', id, 1, 'bench' FROM made
"""


def main() -> int:
    """Measure, print, and return 1 when something was not answered as it should."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    began = time.monotonic()
    rows: list[Row] = []
    with stage.stage() as there:
        _seed(there, 0, max(options.agents, options.fleet) - 1)
        for server in options.servers:
            rows += _floods(there, server, options)
        rows += _fleet(there, options) if options.fleet else []
    report = _report(rows) | {"took_s": round(time.monotonic() - began, 1)}
    _print(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2))
    return 1 if any(row["errors"] for row in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--agents", type=int, default=10_000, help="agents of the flood rows")
    parser.add_argument("--hosts", type=int, default=40, help="connections that speak for them")
    parser.add_argument("--fleet", type=int, default=100_000, help="agents of the fleet; 0: none")
    parser.add_argument("--seconds", type=float, default=4, help="length of each run")
    parser.add_argument("--servers", type=lambda t: t.split(","), default=["daphne", "granian"])
    parser.add_argument("--json", type=Path, help="write the rows here")
    return parser.parse_args()


def _seed(there: stage.Stage, first: int, last: int) -> None:
    with there.connect() as connection:
        # Without triggers: they would count 100,000 agents of one class one by one.
        connection.execute("SET session_replication_role = replica")
        connection.execute(_SEED, {"first": first, "last": last})
        connection.execute("VACUUM ANALYZE")


# -- measure -------------------------------------------------------------------------------------


class Stand:
    """A web server with its generators, and who has used how much of the processors."""

    def __init__(self, there: stage.Stage, server: str, url: str, pid: int) -> None:
        self.there, self.server, self.url, self.pid = there, server, url, pid
        self.generators: list[Worker] = []

    def all(self, do: str, **order: Any) -> list[dict[str, Any]]:
        """Give every generator an order; return their reports."""
        for number, worker in enumerate(self.generators):
            mine = {
                name: value[number] if name == "names" else value for name, value in order.items()
            }
            worker.say(json.dumps({"do": do, "url": self.url, **mine}))
        return [worker.answer() for worker in self.generators]

    def run(self, way: str, agents: int, do: str, **order: Any) -> Row:
        """Run one way and return its row."""
        before = self._used()
        began = time.monotonic()
        reports = self.all(do, way=way, **order)
        wall = time.monotonic() - began
        used = {who: (now - before[who]) / wall for who, now in self._used().items()}
        seconds = max(report["seconds"] for report in reports)
        return {
            "way": way,
            "server": self.server,
            "load": "fleet" if do == "pace" else "flood",
            "agents": agents,
            "per_s": round(sum(report["count"] for report in reports) / seconds, 1),
            "cpu_share": round(used["app"] + used["postgres"], 4),
            "app_share": round(used["app"], 4),
            "postgres_share": round(used["postgres"], 4),
            "generator_share": round(sum(r["cpu_s"] for r in reports) / wall, 4),
            "errors": {text: n for report in reports for text, n in report["errors"].items()},
        }

    def _used(self) -> dict[str, float]:
        return {
            "app": cpu.seconds(self.pid),
            "postgres": cpu.seconds(self.there.postmaster),
        }


@contextlib.contextmanager
def _stand(there: stage.Stage, server: str) -> Iterator[Stand]:
    with contextlib.ExitStack() as closing:
        url, pid = closing.enter_context(paths.serving(there, server))
        found = Stand(there, server, url, pid)
        for _ in range(GENERATORS):
            worker = Worker("live_parts.beats", there.env)
            closing.callback(worker.end)
            found.generators.append(worker)
        yield found


def _floods(there: stage.Stage, server: str, options: argparse.Namespace) -> list[Row]:
    with _stand(there, server) as stand:
        names = _shares(options.agents)
        stand.all("connect", names=names, each=options.agents // options.hosts)
        rows = []
        for way in ("ws_single", "ws_aggregated"):
            stand.run(way, options.agents, "flood", seconds=1)
            rows.append(stand.run(way, options.agents, "flood", seconds=options.seconds))
            _say(rows[-1])
        stand.all("close")
        clients = REST_CLIENTS // GENERATORS
        more = {"names": names, "clients": clients, "seconds": options.seconds}
        rows.append(stand.run("rest", options.agents, "rest", **more))
        _say(rows[-1])
        return rows


def _fleet(there: stage.Stage, options: argparse.Namespace) -> list[Row]:
    with _stand(there, "daphne") as stand:
        reports = stand.all("connect", names=_shares(options.fleet), each=200)
        hello_s = max(report["hello_s"] for report in reports)
        rows = []
        for way in ("ws_single", "ws_aggregated"):
            order = {"interval_s": INTERVAL_S, "seconds": options.seconds * 3}
            row = stand.run(way, options.fleet, "pace", **order)
            rows.append(row | {"interval_s": INTERVAL_S, "hello_s": round(hello_s, 2)})
            _say(rows[-1])
        return rows


def _shares(agents: int) -> list[list[int]]:
    each = agents // GENERATORS
    return [[n * each, (n + 1) * each] for n in range(GENERATORS)]


# -- tell ----------------------------------------------------------------------------------------


def _say(row: Row) -> None:
    told = f"{row['way']} {row['server']} {row['load']}: {row['per_s']:,.0f}/s"
    print(told, row["errors"] or "", file=sys.stderr, flush=True)


def _print(report: dict[str, Any]) -> None:
    table = Table(title="heartbeats", caption=f"took {report['took_s']} s; shares in cores")
    names = "way server load agents per_s cpu_share app postgres generator"
    for number, name in enumerate(names.split()):
        table.add_column(name, justify="left" if number < 3 else "right")
    for row in report["rows"]:
        shares = ("cpu_share", "app_share", "postgres_share", "generator_share")
        table.add_row(
            *(row["way"], row["server"], row["load"], f"{row['agents']:,}"),
            f"{row['per_s']:,.0f}",
            *(f"{row[name]:.3f}" for name in shares),
        )
    Console(width=110).print(table)
    for row in report["rows"]:
        for text, count in row["errors"].items():
            print(f"{row['way']} {row['server']} {row['load']}: {count} x {text}")


def _report(rows: list[Row]) -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "HEAD"], capture_output=True, text=True
    )
    return {
        "bench": "heartbeat",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit.stdout.strip(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
