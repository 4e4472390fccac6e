"""What is installed elsewhere: the wheel's content, and a client that needs no Django."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (file,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(file).namelist())


@pytest.mark.parametrize("folder", ["templates", "static"])
def test_the_wheel_carries_pages_and_styles(wheel, folder):
    ours = {
        f"agentpool/{path.relative_to(ROOT)}"
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }

    assert ours
    assert ours <= wheel


def test_the_wheel_carries_the_sql(wheel):
    ours = {str(path.relative_to(ROOT)) for path in (ROOT / "balancing/sql").glob("*.sql")}

    assert ours <= wheel


def test_the_wheel_carries_no_tests(wheel):
    assert not [name for name in wheel if name.startswith(("tests/", "examples/", "bench/"))]


@pytest.mark.parametrize(
    "module", ["agentpool.client", "agentpool.agent.runtime", "agentpool.cli.main"]
)
def test_client_runtime_and_command_line_need_no_server_package(module):
    banned = ["django", "rest_framework", "channels", "django_q", "psycopg", "daphne"]
    code = f"import sys; import {module}; print([m for m in {banned!r} if m in sys.modules])"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )

    assert done.stdout.strip() == "[]"
