"""What the doctor of a machine says, as a person reads it."""

import sys
from pathlib import Path

import pytest

from agentpool.agent import doctor
from agentpool.agent.doctor import Finding
from agentpool.agent.enrolment import CannotStart
from agentpool.agent.options import Options


def test_what_mends_it_is_shown_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    mend = "pip install 'agentpool[container]'"

    doctor._print([Finding(name="isolation container", ok=False, why=mend)])

    assert mend in capsys.readouterr().out


def test_a_work_folder_that_all_work_would_see_is_refused_by_any_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "agent").mkdir(parents=True)
    said = Options(pool="code", exposed=(tmp_path / "real",))

    with pytest.raises(CannotStart, match="would show"):
        doctor.ability(said, tmp_path / "link" / "agent")


def test_a_work_folder_within_the_own_python_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is shown to all work without being asked for."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    with pytest.raises(CannotStart, match="would show"):
        doctor.ability(Options(pool="code"), tmp_path / "agent")
