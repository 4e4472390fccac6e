"""The `agentpool simulate` and `make-trace` commands: the server's own, with the same options."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

import click

from agentpool.host.installation import code_folder
from agentpool.host.up import SETTINGS_MODULE

# Options are the server command's, which also writes the help: they are said in one place.
# Not `-m django`: help and errors shall name the program that was called.
_RUN = (
    "import sys; from django.core.management import execute_from_command_line as run;"
    " run(['agentpool', *sys.argv[1:]])"
)
_PASSED = {"ignore_unknown_options": True, "help_option_names": []}


@click.command(context_settings=_PASSED, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def simulate(*, arguments: Sequence[str]) -> None:
    """Replay a trace through scaling policies, and compare them (`simulate --help`)."""
    raise SystemExit(run_server_command("simulate", arguments))


@click.command("make-trace", context_settings=_PASSED, add_help_option=False)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def make_trace(*, arguments: Sequence[str]) -> None:
    """Write a synthetic trace, to try policies on (`make-trace --help`)."""
    raise SystemExit(run_server_command("make_trace", arguments))


def run_server_command(command: str, arguments: Sequence[str]) -> int:
    """Run a command of the server's own in this installation; return its exit code."""
    if importlib.util.find_spec("django") is None:
        raise click.ClickException(
            "this is a light install, without the server; install agentpool[server]"
        )
    argv = [sys.executable, "-c", _RUN, command, *arguments]
    # The folder of a checkout must be found from wherever the command is called.
    paths = [str(code_folder()), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": SETTINGS_MODULE,
        "PYTHONPATH": os.pathsep.join(paths),
    }
    return subprocess.run(argv, env=env, check=False).returncode
