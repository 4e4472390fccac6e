"""The commands about leases: `leases`, `acquire`, `release`, `logs`."""

from collections.abc import Sequence
from typing import Any

import click

from agentpool.cli import acts, plane, show
from agentpool.client import Client, Lease

_outcome = click.option(
    "--outcome",
    type=click.Choice(["success", "failure", "timeout", "cancelled"]),
    default="success",
    show_default=True,
)
_token = click.option(
    "--token", "fencing_token", type=int, required=True, help="Its fencing token, a number."
)


@click.command(
    epilog=show.examples(
        "agentpool acquire code --project shop --wait 60",
        "agentpool acquire qa --project shop --lock-key repo:main --json",
    )
)
@click.argument("agent_type")
@click.option("--project", required=True, help="Whom the lease is for.")
@click.option(
    "--wait", "wait_s", type=show.NUMBER, default=30.0, show_default=True, help="Seconds."
)
@click.option("--cycle", "cycle_id", help="The cycle it belongs to.")
@click.option("--phase", help="The phase of the cycle.")
@click.option("--priority", type=click.IntRange(0, 100), help="0 to 100 (default 50).")
@click.option("--memory-mb", type=int, help="Memory it needs, MB.")
@click.option("--cpu-cores", type=show.NUMBER, help="CPU cores it needs.")
@click.option("--token-budget", type=int, help="Model tokens it may use.")
@click.option("--capability", "capabilities", multiple=True, help="It must have; repeatable.")
@click.option("--lock-key", "lock_keys", multiple=True, help="One lease holds it; repeatable.")
@show.as_json
def acquire(*, agent_type: str, project: str, wait_s: float, is_json: bool, **wish: Any) -> None:
    """
    Get a lease on an agent of a type, waiting for one to come free.

    After --wait the request is urgent, so that agents may be started for it, and waits half as
    long again; then it is cancelled, and the error says why nobody came.

    You talk to the agent yourself and hold the lease: renew it (`agentpool leases renew`) before
    it runs out, and give it back with `agentpool release`.
    """
    needs = {
        name: value
        for name in ("memory_mb", "cpu_cores", "token_budget", "capabilities")
        if (value := wish.pop(name))
    }
    said = {key: value for key, value in wish.items() if value not in (None, ())}
    if needs:
        said["requirements"] = needs
    with plane.client() as client, show.progress(f"Waiting for a {agent_type} agent"):
        lease = client.acquire(agent_type, project=project, wait_s=wait_s, **said)
    if is_json:
        show.json_value(lease.raw)
        return
    _told(lease)
    click.echo(
        f"Give it back with: agentpool release {lease.id} --token {lease.fencing_token}", err=True
    )


@click.command(
    epilog=show.examples(
        "agentpool release 0197c1b2-... --token 17",
        "agentpool release 0197c1b2-... --token 17 --outcome failure --error 'no tests ran'",
    )
)
@click.argument("lease_id")
@_token
@_outcome
@click.option("--error", help="What went wrong.")
def release(*, lease_id: str, fencing_token: int, outcome: str, error: str | None) -> None:
    """Give a lease back."""
    with plane.client() as client:
        client.release(lease_id, fencing_token=fencing_token, outcome=outcome, error=error)
    click.echo(f"Lease {lease_id} is released.")


@click.command(epilog=show.examples("agentpool logs 0197c1b2-... --follow"))
@click.argument("lease_id")
@click.option("--follow", "-f", is_flag=True, help="Go on until the work ends.")
@click.option("--after", type=int, default=0, help="Only what came after this sequence number.")
def logs(*, lease_id: str, follow: bool, after: int) -> None:
    """Print what the work of a lease printed: its stdout to stdout, its stderr to stderr."""
    with Client(patience_s=120) as client:
        for chunk in client.logs(lease_id, after=after, follow=follow):
            click.echo(chunk.text, nl=False, err=chunk.stream == "stderr")


@click.group()
def leases() -> None:
    """Look at leases; renew, park, resume, resize and release them."""


@leases.command("ls")
@click.option("--status", help="Only this status, such as active.")
@click.option("--project", help="Only this project.")
@click.option("--cycle", "cycle_id", help="Only this cycle.")
@click.option("--agent", "agent_id", help="Only this agent.")
@show.limit
@show.as_json
def ls(*, is_json: bool, **only: Any) -> None:
    """List leases."""
    with plane.client() as client:
        page = client.leases(**{key: value for key, value in only.items() if value is not None})
    if is_json:
        show.json_value([each.raw for each in page.items])
        return
    columns = ("id", "agent", "project", "cycle", "phase", "status", "outcome", "token", "age")
    show.table(columns, map(_row, page.items), empty="There are no such leases.")


@leases.command("show")
@click.argument("lease_id")
@show.as_json
def show_lease(*, lease_id: str, is_json: bool) -> None:
    """Show one lease."""
    with plane.client() as client:
        found = client.get_lease(lease_id)
    show.json_value(found.raw) if is_json else show.pairs(found.raw)


@leases.command(epilog=show.examples("agentpool leases renew 0197c1b2-... --token 17"))
@click.argument("lease_id")
@_token
@show.as_json
def renew(*, lease_id: str, fencing_token: int, is_json: bool) -> None:
    """Hold a lease for another term."""
    with plane.client() as client:
        lease = client.renew(lease_id, fencing_token=fencing_token)
    show.json_value(lease.raw) if is_json else _told(lease)


@leases.command(
    epilog=show.examples("agentpool leases park 0197c1b2-... --token 17 --reason 'asks a person'")
)
@click.argument("lease_id")
@_token
@click.option("--reason", default="", help="What it waits for; kept with the event.")
@show.as_json
def park(*, lease_id: str, fencing_token: int, reason: str, is_json: bool) -> None:
    """Give the slot back while the work waits for a person or a rate limit; the lease stays."""
    with plane.client() as client:
        lease = client.park(lease_id, fencing_token=fencing_token, reason=reason)
    show.json_value(lease.raw) if is_json else _told(lease)


@leases.command(epilog=show.examples("agentpool leases resume 0197c1b2-... --token 17"))
@click.argument("lease_id")
@_token
@show.as_json
def resume(*, lease_id: str, fencing_token: int, is_json: bool) -> None:
    """Let a parked lease go on; it gets a new fencing token."""
    with plane.client() as client:
        lease = client.resume(lease_id, fencing_token=fencing_token)
    show.json_value(lease.raw) if is_json else _told(lease)


@leases.command(
    epilog=show.examples("agentpool leases resize 0197c1b2-... --token 7 --memory-mb 2048")
)
@click.argument("lease_id")
@_token
@click.option("--memory-mb", type=click.IntRange(1), help="Memory from now on.")
@click.option("--cpu-cores", type=show.NUMBER, help="CPU cores from now on.")
@click.option("--token-budget", type=click.IntRange(0), help="Model tokens from now on.")
@click.option("--disk-space-mb", type=click.IntRange(0), help="Disk from now on.")
@show.as_json
def resize(*, lease_id: str, fencing_token: int, is_json: bool, **amounts: Any) -> None:
    """Change what a lease reserves; what is not named stays."""
    if all(value is None for value in amounts.values()):
        raise click.UsageError("Name what changes, such as --memory-mb.")
    with plane.client() as client:
        lease = client.resize(lease_id, fencing_token=fencing_token, **amounts)
    show.json_value(lease.raw) if is_json else _told(lease)


@leases.command(epilog=show.examples("agentpool leases cancel 0197c1b2-... --note 'it hangs'"))
@click.argument("lease_ids", nargs=-1, required=True, metavar="LEASE_ID...")
@acts.note
@acts.yes
@show.as_json
def cancel(*, lease_ids: Sequence[str], note: str, is_sure: bool, is_json: bool) -> None:
    """Cancel leases as an operator, without their tokens; the requests are cancelled, too."""
    told = f"{acts.counted(len(lease_ids), 'lease')} will be cancelled, with the request of each."
    acts.ask([told, "Their agents are told to stop the work."], is_sure=is_sure)
    with plane.client() as client:
        acts.each(
            lease_ids,
            lambda name: client.release(
                name,
                fencing_token=client.get_lease(name).fencing_token,
                outcome="cancelled",
                error=note or None,
            ),
            told=lambda name, done: f"Lease {name} is cancelled.",
            is_json=is_json,
        )


leases.add_command(release)


def _told(lease: Lease) -> None:
    where = lease.agent
    show.pairs(
        {
            "lease": lease.id,
            "token": lease.fencing_token,
            "agent": where.agent_id if where else "",
            "endpoint": where.endpoint if where else "",
            "status": lease.status,
            "grant": lease.grant,
            "expires": lease.expires_at,
        }
    )


def _row(lease: Lease) -> tuple[object, ...]:
    return (
        lease.id,
        lease.agent.agent_id if lease.agent else "",
        lease.project,
        lease.cycle_id,
        lease.phase,
        lease.status,
        lease.outcome,
        lease.fencing_token,
        show.age(lease.acquired_at or lease.offered_at),
    )
