"""The `agentpool` command: finds the subcommand, and turns errors into a line and an exit code."""

import importlib
import signal
import sys
from collections.abc import Sequence

import click

from agentpool import __version__

# Where each command lives; help is here, too, so that `agentpool --help` imports none of them.
_COMMANDS = {
    "up": ("agentpool.cli.up:up", "Run the control plane on this machine."),
    "db": ("agentpool.cli.db:db", "Look after the embedded database."),
    "login": ("agentpool.cli.login:login", "Save the address and token of a control plane."),
    "tokens": ("agentpool.cli.tokens:tokens", "Make, list and revoke API tokens."),
    "pools": ("agentpool.cli.pools:pools", "Look at pools, set policy; let agents enrol."),
    "agent": ("agentpool.cli.agent:agent", "Run an agent on this machine."),
    "agents": ("agentpool.cli.agent_acts:agents", "Look at agents and steer them."),
    "acquire": ("agentpool.cli.leases:acquire", "Get a lease on an agent."),
    "release": ("agentpool.cli.leases:release", "Give a lease back."),
    "health": ("agentpool.cli.health:health", "Look at agents' health; check it now."),
    "profiles": ("agentpool.cli.profiles:profiles", "Look at security profiles; change them."),
    "requests": ("agentpool.cli.requests:requests", "Look at requests; explain; cancel."),
    "leases": ("agentpool.cli.leases:leases", "Look at leases; park, resize, release."),
    "resources": ("agentpool.cli.resources:resources", "Show what there is and what is used."),
    "limits": ("agentpool.cli.resources:limits", "Look at resource limits and set them."),
    "rebalance": ("agentpool.cli.rebalance:rebalance", "Fit grants to what is used of them."),
    "learning": ("agentpool.cli.learning:learning", "See what was learnt of agents; learn anew."),
    "logs": ("agentpool.cli.leases:logs", "Print what the work of a lease printed."),
    "metrics": ("agentpool.cli.metrics:metrics", "See what the pools are and do, and did."),
    "events": ("agentpool.cli.events:events", "Print what happens in the pool."),
    "cycles": ("agentpool.cli.cycles:cycles", "Run a batch of cycles."),
    "scaling": ("agentpool.cli.scaling:scaling", "See and steer how many agents there are."),
    "scale": ("agentpool.cli.scaling:scale", "Start or stop agents of a type."),
    "optimize": ("agentpool.cli.optimize:optimize", "See what would help pools, and do it."),
    "simulate": ("agentpool.cli.simulation:simulate", "Try scaling policies on a trace."),
    "make-trace": ("agentpool.cli.simulation:make_trace", "Write a synthetic trace."),
}
_EPILOG = """\b
Examples:
  agentpool up
  agentpool pools enrol code
  agentpool agent run --pool code
  agentpool acquire code --project shop --wait 60
  agentpool cycles run cycles.toml

\b
Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 the control plane can't be reached,
130 stopped by Ctrl-C or SIGTERM.
AGENTPOOL_URL and AGENTPOOL_TOKEN win over what `agentpool login` saved.
"""

REFUSED = 1
UNREACHABLE = 3
_INTERRUPTED = 130

_HINTS = {
    "unauthenticated": "run `agentpool login URL`, or set AGENTPOOL_TOKEN",
    "forbidden": "the token's scope is too narrow; ask an operator for another",
    "unreachable": "is it running? `agentpool up` starts one, AGENTPOOL_URL names another",
    "unavailable": "part of the control plane is down; see /readyz",
    "capacity_exhausted": "wait longer (--wait), or start more agents (`agentpool scale`)",
    "unsatisfiable": "ask for less, or change the pool's template or limits",
    "lease_lost": "the lease is no longer yours; stop the work",
    "rate_limited": "wait a little and try again",
    "queue_full": "wait a little and try again",
}


class _Lazy(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[name][0].partition(":")
        found = getattr(importlib.import_module(module), attribute)
        return found if isinstance(found, click.Command) else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, about) for name, (_, about) in _COMMANDS.items()])


@click.group(cls=_Lazy, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="agentpool")
def root() -> None:
    """The control plane for fleets of software agents."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:2] == ["agent", "run"]:
        # Straight on: a runtime lives for days, and need not carry the command line with it.
        from agentpool.agent.__main__ import main as run_agent

        return run_agent(arguments[2:])
    if argv is None:
        # Ended from outside, it takes back what it waits for, as after Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        code = root.main(args=arguments, prog_name="agentpool", standalone_mode=False)
    except click.Abort:
        return _INTERRUPTED
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # Somebody's `head` has seen enough.
        sys.stderr.close()
        return 0
    except Exception as error:
        return _told(error)
    return code if isinstance(code, int) else 0


def _told(error: Exception) -> int:
    """Say what an error of the client means and return its exit code; others go on."""
    from agentpool.client import config, errors

    if isinstance(error, config.ConfigInvalid):
        click.echo(f"Error: {error}", err=True)
        return click.UsageError.exit_code
    if not isinstance(error, errors.ApiError):
        raise error
    click.echo(f"Error: {error}", err=True)
    if hint := _HINTS.get(error.code):
        click.echo(f"Hint: {hint}", err=True)
    return UNREACHABLE if isinstance(error, errors.Unreachable) else REFUSED


if __name__ == "__main__":
    sys.exit(main())
