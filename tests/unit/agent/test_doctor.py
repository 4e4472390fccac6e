"""What the doctor of a machine says, as a person reads it."""

import pytest

from agentpool.agent import doctor
from agentpool.agent.doctor import Finding


def test_what_mends_it_is_shown_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    mend = "pip install 'agentpool[container]'"

    doctor._print([Finding(name="isolation container", ok=False, why=mend)])

    assert mend in capsys.readouterr().out
