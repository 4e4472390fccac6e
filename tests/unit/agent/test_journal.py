"""What the runtime says on stderr, also of words that work has chosen."""

import os
import sys
import threading

import pytest

from agentpool.agent import journal

pytestmark = pytest.mark.timeout(30)


def test_an_event_is_one_line_whatever_the_work_said(capsys: pytest.CaptureFixture[str]) -> None:
    """A terminal obeys escapes; a carriage return would hide what stands before it."""
    journal.note("lease.ended", error='a "b" \\ c\r\n\x1b]0;title\x07\x9b2J é', outcome="failure")

    line = capsys.readouterr().err
    assert line[:-1].isprintable()
    assert line.removesuffix("\n").endswith(
        r'error="a \"b\" \\ c\r\n\x1b]0;title\x07\x9b2J é" outcome=failure'
    )


def test_a_pipe_that_nobody_reads_does_not_hold_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    out, full = os.pipe()
    with os.fdopen(out, "rb"), os.fdopen(full, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        telling = threading.Thread(
            target=lambda: [journal.note("event", text="x" * 1000) for _ in range(200)], daemon=True
        )
        telling.start()
        telling.join(5)
        was_held = telling.is_alive()
        os.read(out, 2**20)

    assert not was_held
