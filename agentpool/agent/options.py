"""What the command line of `agentpool agent run` may say."""

import argparse
import os
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from agentpool import __version__
from agentpool.agent.isolation import LEVELS

_EPILOG = """\
examples:
  agentpool agent run --pool code
  agentpool agent run --pool qa --slots 2 --label zone=a --tool pytest
  agentpool agent run --pool code --exec 'python claude_code.py' --secrets-dir ~/.agent-secrets
  agentpool agent run --pool code --once --disconnect-after-idle 60

An agent enrols with the token in AGENTPOOL_ENROLMENT_TOKEN, AGENTPOOL_ENROLMENT_TOKEN_FILE or
--enrolment-token-file (make one with `agentpool pools enrol TYPE`); without one it registers with
the operator token of the user's configuration. It keeps its own credential in its work folder.

signals: SIGTERM or SIGINT drains (takes no new work, finishes what runs), a second one cancels
what runs, SIGQUIT ends at once. SIGHUP (the terminal was closed) drains, too, unless it is ignored
as under nohup. SIGUSR1 prints the state.
exit codes: 0 drained, 1 could not start, 2 usage, 27 nothing acquired (--once), 29 cut off by a
newer incarnation.
"""
_AGENT_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How one runtime shall run; sizes in MB, times in seconds, None means not said."""

    pool: str
    name: str | None = None
    slots: int = 1
    exec: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    capabilities: Sequence[str] = ()
    tools: Sequence[str] = ()
    memory_mb: int | None = None
    cpu_cores: float | None = None
    token_budget: int | None = None
    disk_space_mb: int | None = None
    security_level: str | None = None
    provider: str | None = None
    workdir: Path | None = None
    secrets_dir: Path | None = None
    enrolment_token_file: Path | None = None
    isolation: Sequence[str] = ()
    allow_bare: bool = False
    exposed: Sequence[Path] = ()
    image: str = ""
    vm_kernel: Path | None = None
    vm_disk: Path | None = None
    once: bool = False
    disconnect_after_idle_s: float | None = None
    disconnect_after_uptime_s: float | None = None

    def registration(self, levels: Sequence[str]) -> dict[str, object]:
        """
        Return what the agent says about itself; what was not said is left to its pool.

        levels: of isolation, that this machine was found to offer.
        """
        said = {
            "memory_mb": self.memory_mb,
            "cpu_cores": self.cpu_cores,
            "token_budget": self.token_budget,
            "disk_space_mb": self.disk_space_mb,
            "security_level": self.security_level,
            "provider": self.provider,
            "capabilities": list(self.capabilities) or None,
            "tools": list(self.tools) or None,
            "labels": dict(self.labels) or None,
        }
        return {
            **{key: value for key, value in said.items() if value is not None},
            "max_concurrent": self.slots,
            "isolation_levels": list(levels),
            "host": socket.gethostname(),
            "version": __version__,
        }


def parse(argv: Sequence[str]) -> Options:
    """Return the options of a command line. Raises: SystemExit, with usage, as argparse does."""
    said = _parser().parse_args(argv)
    return Options(
        pool=said.pool,
        name=said.name,
        slots=said.slots,
        exec=said.exec,
        labels=dict(said.label),
        capabilities=tuple(said.capability),
        tools=tuple(said.tool),
        memory_mb=said.memory_mb,
        cpu_cores=said.cpu_cores,
        token_budget=said.token_budget,
        disk_space_mb=said.disk_space_mb,
        security_level=said.security_level,
        provider=said.provider,
        workdir=said.workdir,
        secrets_dir=said.secrets_dir,
        enrolment_token_file=said.enrolment_token_file,
        isolation=tuple(said.isolation) or _levels(os.environ.get("AGENTPOOL_ISOLATION", "")),
        allow_bare=said.allow_bare,
        exposed=tuple(said.expose),
        image=said.image,
        vm_kernel=said.vm_kernel,
        vm_disk=said.vm_disk,
        once=said.once,
        disconnect_after_idle_s=said.disconnect_after_idle,
        disconnect_after_uptime_s=said.disconnect_after_uptime,
    )


def new_agent_id(pool: str) -> str:
    """Return a fresh external id: pool, host and a few random letters."""
    host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname().split(".")[0])[:64]
    return f"{pool}-{host}-{secrets.token_hex(3)}"


def default_workdir(agent_id: str) -> Path:
    """Return the work folder of an agent that was told none."""
    if home := os.environ.get("AGENTPOOL_HOME"):
        return Path(home) / "agents" / agent_id
    # Imported here: most runtimes are told their folder.
    import platformdirs

    return Path(platformdirs.user_data_dir("agentpool")) / "agents" / agent_id


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="agentpool agent run",
        description="Run an agent on this machine: take leases of a pool and do their work.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_identity(parser)
    _add_size(parser)
    add_isolation(parser)
    _add_ending(parser)
    return parser


def _add_identity(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--pool", required=True, metavar="TYPE", help="the agent type, such as code")
    add("--name", type=_agent_id, metavar="ID", help="external id (default: made up)")
    add("--exec", metavar="CMD", help="run CMD for each lease instead of the payload's command")
    add(
        "--label",
        type=_label,
        action="append",
        default=[],
        metavar="K=V",
        help="which requests ask for; repeatable",
    )
    add("--capability", action="append", default=[], metavar="WORD", help="what it can; repeatable")
    add("--tool", action="append", default=[], metavar="WORD", help="what it has; repeatable")
    add("--provider", metavar="NAME", help="the model provider whose limits it shares")
    levels = ("low", "standard", "high", "critical")
    add("--security-level", choices=levels, help="the highest it may serve; else the pool's")
    add(
        "--workdir",
        type=_folder,
        metavar="DIR",
        help="for credential and workspaces (default: one of its own"
        " in $AGENTPOOL_HOME/agents, else in the user's data folder)",
    )
    add("--secrets-dir", type=_folder, metavar="DIR", help="one file per secret, named like it")
    add("--enrolment-token-file", type=Path, metavar="FILE", help="holds the token to register")


def _add_size(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--slots", type=_positive, default=1, metavar="N", help="leases at once (default 1)")
    add(
        "--memory-mb",
        type=_positive,
        metavar="MB",
        help="memory of all its slots (default of this and the next three: the pool's template)",
    )
    add("--cpu-cores", type=float, metavar="N", help="CPU cores of all its slots")
    add(
        "--token-budget",
        type=_positive,
        metavar="N",
        help="model tokens its leases may hold at once",
    )
    add("--disk-space-mb", type=_positive, metavar="MB", help="disk of all its slots")


def add_isolation(parser: argparse.ArgumentParser) -> None:
    """This will add what decides how work is isolated; the doctor takes the same."""
    environ = os.environ.get
    add = parser.add_argument
    add(
        *("--isolation", "-i"),
        choices=LEVELS,
        action="append",
        default=[],
        help="a level to offer, repeatable (default: $AGENTPOOL_ISOLATION, levels with commas"
        " between them, else process, and container with --image)",
    )
    add(
        "--allow-bare",
        action="store_true",
        default=environ("AGENTPOOL_ALLOW_BARE") == "1",
        help="without bubblewrap, run work of the level process with no isolation at all",
    )
    add(
        *("--expose",),
        type=_folder,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder that all work may read, such as a toolchain; repeatable",
    )
    add(
        "--image", default=environ("AGENTPOOL_IMAGE", ""), help="of containers, such as python:3.12"
    )
    add(
        "--vm-kernel",
        type=_folder,
        default=environ("AGENTPOOL_VM_KERNEL"),
        metavar="FILE",
        help="of virtual machines, with its modules in ../lib/modules (default: one that is found)",
    )
    add(
        "--vm-disk",
        type=_folder,
        default=environ("AGENTPOOL_VM_DISK"),
        metavar="FILE",
        help="their root, never written to (default: this machine's own system)",
    )


def _add_ending(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--once", action="store_true", help="take one lease, then leave")
    add("--disconnect-after-idle", type=float, metavar="S", help="leave after S idle seconds")
    add("--disconnect-after-uptime", type=float, metavar="S", help="drain after S seconds")


def _agent_id(text: str) -> str:
    if not _AGENT_ID.fullmatch(text):
        raise argparse.ArgumentTypeError("1 to 128 of A-Z a-z 0-9 . _ : -")
    return text


def _label(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _levels(text: str) -> tuple[str, ...]:
    found = tuple(each.strip() for each in text.split(",") if each.strip())
    if unknown := [each for each in found if each not in LEVELS]:
        raise SystemExit(f"AGENTPOOL_ISOLATION: {unknown[0]!r} is none of {', '.join(LEVELS)}")
    return found


def _positive(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return number


def _folder(text: str) -> Path:
    return Path(text).expanduser().resolve()
