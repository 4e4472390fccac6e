"""Processes of the live benches that take orders, a line of JSON each."""

import os
import subprocess
import sys
from collections.abc import Mapping

from claim_parts import paths


class Worker(paths.Worker):
    """A module of the bench's in a process of its own."""

    def __init__(self, module: str, env: Mapping[str, str], *argv: str) -> None:
        found = os.pathsep.join([str(paths.BENCH), env.get("PYTHONPATH", "")])
        paths.Process.__init__(
            self,
            [sys.executable, "-m", module, *argv],
            {**env, "PYTHONPATH": found},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
