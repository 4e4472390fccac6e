"""A migrated database, made once a run, for installations of tests' own to start from."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from agentpool.host import lock, ports, postgres
from agentpool.host.installation import (
    Installation,
    code_folder,
    make_home,
    store_database_url,
    stored_database_url,
)
from tests.database import MIGRATED, QUICK

# Of all test processes of a run; tests.database removes it.
FOLDER = Path(tempfile.gettempdir()) / f"agentpool-{MIGRATED}"
_MAKING_S = 120.0


def lay(home: Installation) -> None:
    """
    Give an installation that was never started the database that its first start would make.

    For tests of what comes after: initdb and the migrations cost 6 s of a processor, this 0.1.
    What a first start furnishes, the admin user and the token, is still to come.
    """
    made = Installation(key="test", instance="migrated", root=FOLDER)
    FOLDER.mkdir(exist_ok=True)
    FOLDER.chmod(0o711)  # the database's user passes through
    with lock.hold(FOLDER / "lock", wait_s=_MAKING_S):
        if not (FOLDER / "ready").exists():
            _make(made)
            (FOLDER / "ready").touch()
    make_home(home)
    data, here = (postgres.status(each).data.parent for each in (made, home))
    subprocess.run(["cp", "-a", str(data), str(here)], check=True)
    store_database_url(home, url=_at_a_port_of_its_own(stored_database_url(made) or ""))


def _make(installation: Installation) -> None:
    url = postgres.start(installation, settings=QUICK)
    env = {"DATABASE_URL": url, "PYTHONPATH": str(code_folder())}
    subprocess.run(
        [sys.executable, "-m", "django", "migrate", "--verbosity", "0"],
        env={**os.environ, **env, "DJANGO_SETTINGS_MODULE": "agentpool.settings"},
        check=True,
    )
    postgres.stop(installation)


def _at_a_port_of_its_own(url: str) -> str:
    account = urlsplit(url).netloc.rpartition(":")[0]
    return urlsplit(url)._replace(netloc=f"{account}:{ports.any_free()}").geturl()
