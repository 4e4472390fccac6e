"""What this machine can isolate, why not, and what mends it: for the runtime and for people."""

import argparse
import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from agentpool.agent import options
from agentpool.agent.enrolment import CannotStart, runtime_name
from agentpool.agent.isolation import LEVELS, Means, cgroup, mounts, qemu, seccomp, tier
from agentpool.agent.options import Options


@dataclass(frozen=True, slots=True, kw_only=True)
class Ability:
    """
    What a runtime offers.

    levels: of isolation, weakest first. is_bare: its `process` is no isolation at all.
    """

    levels: tuple[str, ...]
    is_bare: bool
    means: Means


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at; `why` says what is missing and what mends it, empty if ok."""

    name: str
    ok: bool
    why: str = ""
    detail: str = ""


def ability(said: Options, workdir: Path) -> Ability:
    """
    Return what this runtime can offer of what it was told to.

    Never less than asked, silently: a level that was named and can't be had ends the start.
    Raises: CannotStart, saying what mends it.
    """
    means = means_of(said, workdir)
    for private in (each.resolve() for each in (workdir, said.secrets_dir) if each):
        # With the folders of this Python, which are shown unasked and may stand in a work folder.
        for folder in (each.resolve() for each in (*means.exposed, *mounts.exposed(means))):
            is_asked_for = folder in means.exposed and folder.is_relative_to(private)
            if private.is_relative_to(folder) or is_asked_for:
                raise CannotStart(f"{folder}, which all work may read, would show {private}")
    wanted = list(said.isolation) or ["process", *(["container"] if said.image else [])]
    found = []
    for level in (each for each in LEVELS if each in wanted):
        why = tier(level).missing(means)
        if why and level == "process" and said.allow_bare:
            return Ability(levels=("process",), is_bare=True, means=means)
        if why:
            raise CannotStart(f"isolation {level}: {why}{_bare_way(level)}")
        found.append(level)
    return Ability(levels=tuple(found), is_bare=False, means=means)


def means_of(said: Options, workdir: Path) -> Means:
    """Return what the runtime was given to isolate with."""
    return Means(
        cache=workdir / "cache",
        exposed=tuple(said.exposed),
        image=said.image,
        kernel=said.vm_kernel,
        disk=said.vm_disk,
    )


def remove_left(workdir: Path) -> int:
    """End and remove all that a killed runtime of this folder left behind, of every tier."""
    name = runtime_name(workdir)
    return sum(tier(level).remove_left(name) for level in LEVELS)


def findings(means: Means) -> Iterator[Finding]:
    """Look at everything that isolation rests on."""
    who = "root: work becomes a user of its own" if os.geteuid() == 0 else f"user {os.geteuid()}"
    yield Finding(name="user", ok=True, detail=who)
    for level in LEVELS:
        why = tier(level).missing(means)
        yield Finding(name=f"isolation {level}", ok=not why, why=why)
    if qemu.program():
        why = qemu.kvm_fails()
        mend = f"{why}; machines are emulated instead, several times slower" if why else ""
        yield Finding(name="KVM", ok=not why, detail=str(qemu.KVM), why=mend)
    groups = cgroup.host()
    yield Finding(
        name="control groups",
        ok=groups.works,
        detail=f"version {groups.version}",
        why="" if groups.works else f"{groups.why}; memory and processes are watched instead",
    )
    known = seccomp.machine() is not None
    yield Finding(
        name="filter of system calls",
        ok=known,
        detail=platform.machine(),
        why="" if known else "this processor's system calls are not known to agentpool",
    )
    for name, mend in (("git", "git"), ("setpriv", "util-linux"), ("taskset", "util-linux")):
        there = shutil.which(name)
        why = "" if there else f"apt-get install {mend}"
        yield Finding(name=name, ok=bool(there), detail=there or "", why=why)


def main(argv: Sequence[str]) -> int:
    """Print the findings; return 0 if at least one level of isolation works here, else 1."""
    parser = argparse.ArgumentParser(
        prog="agentpool agent doctor",
        description="Tell what this machine can isolate, why not, and the command that mends it.",
    )
    options.add_isolation(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    said = parser.parse_args(argv)
    means = Means(
        cache=Path(os.devnull),
        exposed=tuple(said.expose),
        image=said.image,
        kernel=said.vm_kernel,
        disk=said.vm_disk,
    )
    found = list(findings(means))
    if said.json:
        sys.stdout.write(json.dumps([asdict(each) for each in found], indent=2) + "\n")
    else:
        _print(found)
    return 0 if any(each.ok and each.name.startswith("isolation ") for each in found) else 1


def _print(found: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("", "", "", box=None, show_header=False, pad_edge=False)
    for each in found:
        mark = "[green]✓[/]" if each.ok else "[red]✗[/]"
        table.add_row(mark, each.name, escape(each.why or each.detail))
    Console(file=sys.stdout, highlight=False).print(table)


def _bare_way(level: str) -> str:
    return "; or start with --allow-bare: work is then not isolated" if level == "process" else ""
