"""A workspace that was there before: what a payload and its work may do in it."""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.tiers import needs

pytestmark = pytest.mark.timeout(60)
AS_ROOT = pytest.mark.skipif(os.geteuid() != 0, reason="the runtime must be root")
OWNER = 65532


@AS_ROOT
def test_files_of_a_payload_are_not_written_with_the_rights_of_root(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    needs("process")
    agent()
    (tmp_path / "etc").mkdir()

    release = _with_file(plane, tmp_path / "etc", "cron.d/mine")

    assert release["outcome"] == "failure"
    assert "belongs to root" in release["error"]
    assert list((tmp_path / "etc").iterdir()) == []


def test_files_of_a_payload_are_written_where_the_profile_may_write(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    needs("process")
    agent()
    shared = _shared(tmp_path)

    refused = _with_file(plane, shared, "src/main.py", file_access="read_write_tests")
    taken = _with_file(plane, shared, "tests/test_main.py", file_access="read_write_tests")

    assert refused["outcome"] == "failure"
    assert "'src/main.py'" in refused["error"]
    assert taken["outcome"] == "success"
    assert not (shared / "src").exists()
    written = shared / "tests" / "test_main.py"
    assert (written.read_text(), written.stat().st_uid) == ("é\n", shared.stat().st_uid)


def test_a_pipe_in_the_place_of_a_file_does_not_hold_the_lease(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    needs("process")
    agent()
    shared = _shared(tmp_path)
    os.mkfifo(shared / "notes.md", mode=0o666)

    release = _with_file(plane, shared, "notes.md")

    assert release["outcome"] == "failure"
    assert "'notes.md'" in release["error"]


def test_work_may_write_in_a_folder_that_was_made_for_it(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    needs("process")
    agent()
    shared = _shared(tmp_path)

    lease_id = plane.offer(
        {"command": ["touch", "tests/new"], "workspace": {"path": str(shared)}},
        profile=_profile("read_write_tests"),
    )

    assert plane.release_of(lease_id).get("error") is None
    assert (shared / "tests" / "new").exists()


def _shared(folder: Path) -> Path:
    """Return a folder of an ordinary user."""
    made = folder / "shared"
    made.mkdir()
    if os.geteuid() == 0:
        os.chown(made, OWNER, OWNER)
    return made


def _profile(file_access: str) -> dict[str, Any]:
    return {"allowed_tools": [], "network_access": "none", "file_access": file_access}


def _with_file(plane: Any, place: Path, name: str, *, file_access: str = "full") -> Any:
    """Return the end of work in a folder into which its payload puts a file."""
    payload = {"command": ["true"], "workspace": {"path": str(place)}, "files": {name: "é\n"}}
    lease_id = plane.offer(payload, profile=_profile(file_access))
    return plane.release_of(lease_id, within_s=25)
