"""The stream of all processes' lines, and their log files."""

import io
from contextlib import closing
from pathlib import Path

from agentpool.host import output as output_module
from agentpool.host.output import Output


def test_a_line_goes_to_the_stream_and_to_the_log_of_its_name(tmp_path: Path) -> None:
    stream = io.StringIO()

    with closing(Output(folder=tmp_path, stream=stream)) as output:
        output.line("web", "listening")

    assert stream.getvalue().endswith("web    | listening\n")
    assert (tmp_path / "web.log").read_text().endswith(" listening\n")


def test_what_was_printed_in_colours_is_kept_without_them(tmp_path: Path) -> None:
    stream = io.StringIO()
    said = "\x1b[1;31mred\x1b[0m \x1b]8;;#here\x1b\\link\x1b]8;;\x07 [not] \x1b(B5\x1b[K"

    with closing(Output(folder=tmp_path, stream=stream)) as output:
        output.line("web", said)

    assert stream.getvalue().endswith(" red link [not] 5\n")
    assert (tmp_path / "web.log").read_text().endswith(" red link [not] 5\n")


def test_a_private_line_is_in_no_file(tmp_path: Path) -> None:
    stream = io.StringIO()

    Output(folder=tmp_path, stream=stream).private("up", "the password is x")

    assert "the password is x" in stream.getvalue()
    assert list(tmp_path.iterdir()) == []


def test_a_log_that_has_grown_moves_aside_and_three_are_kept(tmp_path: Path) -> None:
    with closing(Output(folder=tmp_path, stream=io.StringIO())) as output:
        for _ in range(5):
            output.line("web", "x" * output_module._CAP_BYTES)
        output.line("web", "last")

    names = sorted(one.name for one in tmp_path.iterdir())
    assert names == ["web.log", "web.log.1", "web.log.2", "web.log.3"]
    assert (tmp_path / "web.log").read_text().endswith("last\n")


def test_a_log_that_cannot_be_written_does_not_stop_the_stream(tmp_path: Path) -> None:
    stream = io.StringIO()

    Output(folder=tmp_path / "missing", stream=stream).line("web", "still here")

    assert "still here" in stream.getvalue()
