"""The stage: a Postgres of its own, the product's tables, N agents, the yardstick beside them."""

import contextlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import psycopg

from agentpool.host import installation, ports, postgres, up
from agentpool.host.installation import Installation
from agentpool.host.probes import Site

YARDSTICKS = Path(__file__).resolve().parents[1] / "yardsticks"
TYPES = ("design", "qa", "code", "data")
# As large as in the runs that the targets come from; the same for every path. Durability is on.
SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "4GB",
    "max_connections": "300",
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
}
_FURNISH = """
import django; django.setup()
from agentpool.registry import queries, services
from agentpool.registry.states import Scope
from balancing.services import agents
pool = queries.pool("code")
fields = pool.launch_template | {"max_concurrent": 4, "disk_space_mb": 2000}
agents.register(agent_id="template", pool=pool, fields=fields, by=None, actor="bench")
made = services.token(scope=Scope.ORCHESTRATOR, name="bench", expires_in_s=None, actor="bench")
print(made.secret)
"""


@dataclass(frozen=True)
class Stage:
    """A running database with the product's tables, and who may call."""

    home: Installation
    url: str
    token: str
    env: dict[str, str]

    def connect(self) -> psycopg.Connection:
        """Return a connection of its own, autocommit."""
        return psycopg.connect(self.url, autocommit=True)

    def program(self, name: str) -> str:
        """Return the path of one of the server's own programs."""
        return postgres.usable_binaries(self.home).program(name)

    @property
    def postmaster(self) -> int:
        """Return the process id of the database server."""
        pid = postgres.status(self.home).pid
        assert pid is not None
        return pid


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    """Give a furnished database without agents; nothing of it is left afterwards."""
    plain = installation.current()
    _remove_left(plain)
    home = replace(plain, instance=f"bench-{os.getpid()}", db_port=None)
    try:
        url = postgres.start(home, settings=SETTINGS)
        env = _environment(home, url)
        _python(env, "-m", "django", "prepare", "--json")
        token = _python(env, "-c", _FURNISH).splitlines()[-1]
        yield Stage(home=home, url=url, token=token, env=env)
    finally:
        _remove(home)


def _environment(home: Installation, url: str) -> dict[str, str]:
    """Return an environment in which nothing of the caller's own installation is left."""
    ours = ("AGENTPOOL_", "DATABASE_URL", "DJANGO_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    quiet = {"AGENTPOOL_LOG_LEVEL": "WARNING"}
    return kept | up.environment(home, site=Site(port=ports.any_free()), database_url=url) | quiet


def _python(env: dict[str, str], *argv: str) -> str:
    done = subprocess.run([sys.executable, *argv], env=env, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(argv)[:60]} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _remove_left(plain: Installation) -> None:
    """Remove what runs that were killed have left."""
    for left in plain.root.glob("bench-*") if plain.root.is_dir() else ():
        pid = re.fullmatch(r"bench-(\d+)", left.name)
        if pid and not psutil.pid_exists(int(pid[1])):
            _remove(replace(plain, instance=left.name))


def _remove(home: Installation) -> None:
    postgres.stop(home, mode="immediate")
    shutil.rmtree(home.home, ignore_errors=True)


# -- agents ------------------------------------------------------------------------------------

# The same static mix as the yardstick's limit_agent, whose request is good for every security
# level. All begin idle: here load is never more than what leases hold. What the mix does not say is
# as in an agent that has registered.
_AGENTS = """
INSERT INTO agent SELECT n.* FROM agent t, generate_series(%(first)s::int, %(last)s::int) i,
  LATERAL jsonb_populate_record(t, jsonb_build_object(
    'id', gen_random_uuid(), 'agent_id', 'bench-' || i, 'agent_type',
    (%(types)s::text[])[1 + i %% 4], 'status', 'idle', 'memory_mb',
    (ARRAY[1024, 2048, 4096, 8192])[1 + (i / 12) %% 4], 'cpu_cores', 1 + (i %% 4),
    'token_budget', 50000 * (1 + (i / 48) %% 4), 'security_level', 2 + (i / 4) %% 3, 'tools',
    CASE (i / 7) %% 4 WHEN 0 THEN ARRAY['read','git','test'] WHEN 1 THEN ARRAY['read','write','git']
      WHEN 2 THEN ARRAY['read','fetch','coverage']
      ELSE ARRAY['read','write','git','test','docker'] END)) n
  WHERE t.agent_id = 'template'
"""
_ALIVE = """
INSERT INTO liveness (agent_id, incarnation, last_heartbeat_at)
SELECT id, 1, now() + interval '30 days' FROM agent a
WHERE NOT EXISTS (SELECT FROM liveness l WHERE l.agent_id = a.id)
"""
# What learning would have written down of each agent; skills are drawn.
_LEARNT = """
INSERT INTO outlook (agent_type, agent_id, story_type, odds, log_s, odds_doubt, log_s_doubt,
  match_odds, match_log_s, noise, retry_s, tokens, efficiency, leases, ratio, learnt_at)
SELECT p.agent_type, NULL, s, 0.6, 6.4, 0.7, 0.3, 0.2, -0.15, 0.36, 1200, 9000, 0.5, 1000, 1, now()
  FROM pool p, unnest(ARRAY['', NULL]) s
UNION ALL
SELECT a.agent_type, a.id, s, random() - 0.5, random() - 0.5, 0.1, 0.05,
  0, 0, 0, 0, 9000, 0.5, 20, 0.5 + random(), now()
  FROM agent a, unnest(ARRAY['', NULL]) s WHERE a.agent_id <> 'template'
"""
# What bounds grants and admission lies above everything that the load asks for.
_OPEN_POOLS = (
    "UPDATE pool SET max_size = 1000000",
    "UPDATE security_profile SET memory_mb = 16384, cpu_cores = 16, network_access = 3,"
    " file_access = 3, allowed_tools = ARRAY['read','write','git','test','docker','fetch',"
    "'coverage']",
)


def seed(there: Stage, *, agents: int) -> None:
    """Bring the number of agents up to `agents`, with clean tables around them."""
    with there.connect() as connection:
        connection.execute("TRUNCATE request, event, outlook CASCADE")
        connection.execute("UPDATE agent SET status = 'retired' WHERE agent_id = 'template'")
        row = connection.execute("SELECT count(*) - 1 FROM agent").fetchone()
        first = row[0] if row else 0
        for sql in _OPEN_POOLS:
            connection.execute(sql)
        span = {"types": list(TYPES), "first": first, "last": agents - 1}
        connection.execute(_AGENTS, span)
        connection.execute(_ALIVE)
        connection.execute(_LEARNT)
        # Only what has rows: of tables known to be empty every plan is wrong once they are not.
        connection.execute("VACUUM ANALYZE agent, capability_class, liveness, outlook, pool")
    load_yardstick(there, agents=agents)


def load_yardstick(there: Stage, *, agents: int) -> None:
    """Load claim_limit.sql, unchanged, with as many agents, in the same database."""
    argv = [there.program("psql"), "-q", "-X", "-v", "ON_ERROR_STOP=1", "-v", f"n={agents}"]
    subprocess.run(
        [*argv, "-d", there.url, "-f", str(YARDSTICKS / "claim_limit.sql")],
        check=True,
        stdout=subprocess.DEVNULL,
    )


# -- integrity ---------------------------------------------------------------------------------

_COUNTS = """
SELECT (SELECT count(*) FROM lease WHERE status IN ('active', 'offered', 'parked')),
  (SELECT count(*) FROM request WHERE status IN ('waiting', 'granted')),
  (SELECT sum(load) FROM agent),
  (SELECT sum(used_memory_mb) + sum(used_cpu_cores) + sum(used_token_budget) FROM agent),
  (SELECT count(*) FROM limit_lease WHERE released_at IS NULL),
  (SELECT sum(current_load) FROM limit_agent)
"""
_NAMES = ("live leases", "open requests", "load", "reserved", "limit leases", "limit load")
Counts = dict[str, int]


def counts(there: Stage) -> Counts:
    """Return what every run must leave as it found it."""
    with there.connect() as connection:
        row = connection.execute(_COUNTS).fetchone() or ()
    return {name: int(value) for name, value in zip(_NAMES, row, strict=True)}


def left_over(there: Stage, start: Counts) -> Counts:
    """Return what a run has left behind that it should not have; empty when all is as before."""
    now = counts(there)
    return {
        f"left over: {name}": now[name] - start[name] for name in now if now[name] != start[name]
    }
