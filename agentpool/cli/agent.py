"""The `agentpool agent` commands: what an agent machine runs."""

import click


@click.group()
def agent() -> None:
    """Run an agent on this machine (`agentpool agents` looks at all of them)."""


@agent.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run(*, arguments: tuple[str, ...]) -> None:
    """Take leases of a pool and do their work; `agentpool agent run --help` lists the options."""
    from agentpool.agent.__main__ import main as run_agent

    raise SystemExit(run_agent(arguments))


@agent.command(add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def doctor(*, arguments: tuple[str, ...]) -> None:
    """Tell what this machine can isolate, why not, and what mends it."""
    from agentpool.agent.doctor import main as examine

    raise SystemExit(examine(arguments))
