"""The agent runtimes that scaling started on this machine, ended without asking the database."""

import contextlib
import signal
from pathlib import Path

import psutil

from agentpool.host.installation import Installation

_MODULE = "agentpool.agent"
_DEATH_S = 1.0


def ask_to_leave(installation: Installation) -> None:
    """This will ask the runtimes of an installation to cancel their work and leave at once."""
    for process in running(installation):
        with contextlib.suppress(psutil.Error):
            process.send_signal(signal.SIGQUIT)


def kill(installation: Installation) -> int:
    """Kill the runtimes of an installation and everything below them; return how many."""
    found = running(installation)
    victims = [*found, *(one for each in found for one in _below(each))]
    for process in victims:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(victims, timeout=_DEATH_S)
    return len(found)


def running(installation: Installation) -> list[psutil.Process]:
    """Return the runtimes whose work folder is the installation's."""
    return [one for one in psutil.process_iter() if _works_for(one, installation)]


def _works_for(process: psutil.Process, installation: Installation) -> bool:
    try:
        command = process.cmdline()
        if _MODULE not in command or process.status() == psutil.STATUS_ZOMBIE:
            return False
        folder = Path(command[command.index("--workdir") + 1])
    except (psutil.Error, ValueError, IndexError):
        return False
    return folder.is_relative_to(installation.agents_folder)


def _below(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return process.children(recursive=True)
    return []
