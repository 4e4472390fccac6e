"""
Save the database to a file and bring it back.

A restore advances the fencing sequence: tokens handed out after the dump was made must never
be handed out again, or a lock outside could take an old lease for a new one.
"""

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit, urlunsplit

from agentpool.host import postgres
from agentpool.host.account import run_quietly
from agentpool.host.binaries import Binaries
from agentpool.host.installation import HostError, Installation, plain_os_errors

# More tokens than an installation hands out between two backups: at 100 leases a second, 2.8 h
# of nothing but leases. When the old database still stands its own last token counts too.
FENCING_ADVANCE = 1_000_000
_SEQUENCE = "lease_fencing_token_seq"
_FRESH = "agentpool_restoring"
_OLD = "agentpool_before_restore"


def dump(installation: Installation, file: Path, *, database_url: str | None = None) -> None:
    """
    Save the database to a file (pg_dump's custom format, mode 0600), replaced at once.

    Args:
        database_url: a database of your own; None: the embedded one, started when needed.
    Raises: HostError, with what the program said.

    """
    url = database_url or postgres.start(installation)
    partial = file.with_name(f"{file.name}.{os.getpid()}.new")
    with plain_os_errors(file.parent):
        os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600))
    try:
        _run(installation, "pg_dump", "--format=custom", f"--file={partial}", url=url)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def restore(installation: Installation, file: Path, *, database_url: str | None = None) -> int:
    """
    Bring a dump back and return the last fencing token that counts as used.

    The embedded database is replaced in one step after everything is in the new one; until
    then, and when anything fails, the old one stays. A database of your own must be empty.

    Args:
        database_url: a database of your own; None: the embedded one, started when needed.
    Raises: HostError, the file is no dump of agentpool's, the database is in use or not empty.

    """
    if not file.is_file():
        raise HostError(f"There is no file {file}.")
    held = _run(installation, "pg_restore", "--list", str(file), url=None)
    if _SEQUENCE not in held:
        # Of another database, or of one that was never migrated: tokens would begin at 1 again.
        raise HostError(f"{file} has no fencing tokens: it is no dump of an agentpool database.")
    if database_url is None:
        return _replace_embedded(installation, file)
    if _ask(installation, _TABLES, url=database_url) != "0":
        raise HostError("The database of DATABASE_URL is not empty: restore into an empty one.")
    return _fill(installation, file, url=database_url, used_token=0)


_TABLES = """
SELECT count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
WHERE relkind IN ('r', 'p', 'S', 'v', 'm')
  AND nspname NOT IN ('pg_catalog', 'information_schema') AND nspname NOT LIKE 'pg_toast%'
"""
_OTHER_CONNECTIONS = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'agentpool'"
_HAS_SEQUENCE = "SELECT to_regclass('lease_fencing_token_seq') IS NOT NULL"
_LAST_USED = "SELECT last_value FROM lease_fencing_token_seq"
_ADVANCE = """
SELECT setval('lease_fencing_token_seq', greatest(last_value, {used}) + {advance})
FROM lease_fencing_token_seq
"""


def _replace_embedded(installation: Installation, file: Path) -> int:
    url = postgres.start(installation)
    maintenance = _named(url, "postgres")
    others = _ask(installation, _OTHER_CONNECTIONS, url=maintenance)
    if others != "0":
        raise HostError(
            f"{others} connections use the database. Stop `agentpool up` and its like first."
        )
    used_token = _last_token(installation, url=url)
    for leftover in (_FRESH, _OLD):  # of a restore that was killed
        _ask(installation, f"DROP DATABASE IF EXISTS {leftover}", url=maintenance)
    _ask(installation, f"CREATE DATABASE {_FRESH}", url=maintenance)
    last = _fill(installation, file, url=_named(url, _FRESH), used_token=used_token)
    _ask(installation, _swap(), url=maintenance)
    _ask(installation, f"DROP DATABASE {_OLD}", url=maintenance)
    return last


def _swap() -> str:
    # One statement string is one transaction: there is never no database of the name.
    return (
        f"ALTER DATABASE {postgres.DATABASE} RENAME TO {_OLD};"
        f"ALTER DATABASE {_FRESH} RENAME TO {postgres.DATABASE}"
    )


def _fill(installation: Installation, file: Path, *, url: str, used_token: int) -> int:
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run(installation, "pg_restore", *options, str(file), url=url)
    return int(
        _ask(installation, _ADVANCE.format(used=used_token, advance=FENCING_ADVANCE), url=url)
    )


def _last_token(installation: Installation, *, url: str) -> int:
    if _ask(installation, _HAS_SEQUENCE, url=url) != "t":
        return 0
    return int(_ask(installation, _LAST_USED, url=url))


def _ask(installation: Installation, sql: str, *, url: str) -> str:
    options = ("--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1")
    return _run(installation, "psql", *options, f"--command={sql}", url=url).strip()


def _run(installation: Installation, program: str, *options: str, url: str | None) -> str:
    """Run a client program; the password goes by the environment, which `ps` does not show."""
    binaries: Binaries = postgres.usable_binaries(installation)
    address, password = _without_password(url) if url else (None, None)
    argv = [binaries.program(program), *options]
    if address:
        argv.append(f"--dbname={address}")
    env = {
        "PATH": os.defpath,
        "PGAPPNAME": f"agentpool {program}",
        "PGCONNECT_TIMEOUT": "10",
        "PGOPTIONS": "-c client_min_messages=error",  # notices would stand among the answers
    }
    if password:
        env["PGPASSWORD"] = password
    done = run_quietly(argv, env=env, cwd=Path.cwd())
    if done.returncode != 0:
        raise HostError(f"{program} failed:\n{done.stdout.strip()}")
    return done.stdout


def _without_password(url: str) -> tuple[str, str | None]:
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    options = parts.query.split("&") if parts.query else []
    shown = [each for each in options if not each.startswith("password=")]
    said = [each.removeprefix("password=") for each in options if each not in shown]
    password = parts.password or "".join(said[-1:])
    # Put together by hand: an address of a socket has no host, and keeps its two strokes.
    address = f"{parts.scheme}://{user.partition(':')[0]}{at}{host}{parts.path}"
    return address + (f"?{'&'.join(shown)}" if shown else ""), unquote(password) or None


def _named(url: str, database: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{database}"))
