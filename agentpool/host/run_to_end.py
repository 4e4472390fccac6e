"""Run a command that ends by itself, and let it be interrupted at any moment."""

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from agentpool.host import process_tree
from agentpool.host.installation import HostError
from agentpool.host.output import Output


class Interrupted(Exception):
    """The command was killed because somebody wished to stop."""


def run_to_end(
    name: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    output: Output,
    timeout_s: float,
    until: Callable[[], bool],
) -> str:
    """
    Return what a command printed; its stderr goes to the output, line by line, under its name.

    It runs in a session of its own: a Ctrl-C reaches us only, and a kill reaches all of it.

    Args:
        timeout_s: seconds after which it is killed.
        until: asked all the time; True kills it.
    Raises: HostError, it failed or was late; Interrupted, `until` said so.

    """
    with tempfile.TemporaryFile() as printed:
        process = subprocess.Popen(
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        reader = threading.Thread(target=_relay, args=(name, process, output), daemon=True)
        reader.start()
        _wait(name, process, timeout_s=timeout_s, until=until)
        reader.join(timeout=1)
        printed.seek(0)
        said = printed.read().decode(errors="replace")
    if process.returncode != 0:
        raise HostError(f"`{name}` failed (exit code {process.returncode}). {said.strip()}")
    return said


def _wait(
    name: str, process: subprocess.Popen[bytes], *, timeout_s: float, until: Callable[[], bool]
) -> None:
    deadline = time.monotonic() + timeout_s
    while not process_tree.has_ended(process.pid):
        is_late = time.monotonic() > deadline
        if is_late or until():
            process_tree.kill_session(process.pid)
            process.wait()
            if is_late:
                raise HostError(f"`{name}` was not done after {timeout_s:.0f} s.")
            raise Interrupted(f"`{name}` was interrupted")
        time.sleep(0.02)
    process.wait()


def _relay(name: str, process: subprocess.Popen[bytes], output: Output) -> None:
    assert process.stderr
    with process.stderr as pipe:
        for line in pipe:
            output.line(name, line.decode(errors="replace").rstrip())
