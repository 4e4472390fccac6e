"""
Which commands a profile's tools bring, and the folder of them that the work finds on its PATH.

Everything else of the machine's programs is not there: the sandbox mounts this folder in the place
of /usr/bin. Known commands that are not allowed are there as notes that say so, and tell the
runtime; a coding agent then knows why, instead of looking for the program elsewhere.
"""

import hashlib
import os
import shutil
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

# A shell and the plain utilities, without which hardly any program runs.
BASE = frozenset(
    [
        "sh",
        "bash",
        "dash",
        "env",
        "echo",
        "printf",
        "test",
        "[",
        "true",
        "false",
        "sleep",
        "date",
        "pwd",
        "which",
        "basename",
        "dirname",
        "realpath",
        "readlink",
        "cat",
        "head",
        "tail",
        "tee",
        "ls",
        "cp",
        "mv",
        "rm",
        "mkdir",
        "rmdir",
        "ln",
        "touch",
        "chmod",
        "mktemp",
        "sort",
        "uniq",
        "cut",
        "tr",
        "wc",
        "seq",
        "expr",
        "xargs",
        "id",
        "whoami",
        "uname",
        "hostname",
        "nproc",
        "tty",
        "stat",
        "du",
        "df",
        "od",
        "cksum",
        "md5sum",
        "sha256sum",
        "find",
        "grep",
        "egrep",
        "fgrep",
        "sed",
        "awk",
        "mawk",
        "gawk",
        "diff",
        "cmp",
        "patch",
        "file",
        "less",
        "more",
        "jq",
        "rg",
        "tar",
        "gzip",
        "gunzip",
        "zcat",
        "bzip2",
        "xz",
        "unzip",
        "zip",
        "kill",
        "ps",
        "timeout",
        "nice",
        "nohup",
        "getconf",
        "locale",
        "ldd",
        "yes",
        "split",
        "paste",
        "join",
        "comm",
        "fold",
        "column",
        "tac",
        "rev",
        "shuf",
        "numfmt",
        "base64",
        "install",
        "sync",
        "truncate",
        "link",
        "unlink",
    ]
)
COMMANDS: Mapping[str, frozenset[str]] = {
    "read": frozenset(["tree", "bat", "fd", "fdfind"]),
    "write": frozenset(),
    "write_docs": frozenset(),
    "write_data": frozenset(),
    "git": frozenset(["git", "git-lfs"]),
    "web_fetch": frozenset(["curl", "wget"]),
    "test_execution": frozenset(
        [
            "python",
            "python3",
            "pytest",
            "tox",
            "nox",
            "make",
            "node",
            "npm",
            "npx",
            "yarn",
            "pnpm",
            "go",
            "cargo",
            "rustc",
            "java",
            "mvn",
            "gradle",
            "ruby",
            "rspec",
            "bundle",
            "php",
            "dotnet",
            "gcc",
            "cc",
            "g++",
            "c++",
            "ld",
            "as",
            "ar",
            "cmake",
            "ninja",
        ]
    ),
    "coverage_analysis": frozenset(["python", "python3", "coverage", "gcov", "lcov"]),
    "query": frozenset(["sqlite3", "psql", "mysql", "duckdb"]),
    "plot": frozenset(["python", "python3", "gnuplot", "dot", "Rscript"]),
}
_KNOWN = frozenset().union(*COMMANDS.values())
# Read by the runtime; a folder of the work's own output would do for it, too.
REFUSED = "refused-tools"
# Looking for a hundred programs costs 20 ms: an update of the machine is noticed after this time.
_KNOWN_S = 30.0
_made: dict[tuple[tuple[str, ...], Path, str], tuple[Path, float]] = {}
_making = threading.Lock()
_NOTE = """#!/bin/sh
echo "agentpool: the tool {name} is not in the security profile of this agent's type" >&2
echo "{name}" >> "${{AGENTPOOL_REFUSED:-/dev/null}}"
exit 126
"""


def commands_of(tools: Iterable[str]) -> frozenset[str]:
    """Return the commands that tools bring; a tool that is not known is a command of that name."""
    found = set(BASE)
    for tool in tools:
        found |= COMMANDS.get(tool, frozenset({tool}))
    return frozenset(found)


def refused(tools: Iterable[str]) -> frozenset[str]:
    """Return the known commands that these tools do not bring."""
    return _KNOWN - commands_of(tools)


def make_folder(*, tools: Sequence[str], cache: Path, path: str, exposed: Sequence[Path]) -> Path:
    """
    Return a folder with exactly the commands of these tools, made once for each set of them.

    cache: where such folders are kept. path: the PATH on which the machine's programs are found.
    exposed: folders that the sandbox shows as they are; programs in them are linked, others copied
    (without their set-user bits), so that an update of the machine makes a new folder.
    """
    wanted = (tuple(tools), cache, path)
    known, since = _made.get(wanted, (cache, 0.0))
    if time.monotonic() - since < _KNOWN_S and known.is_dir():
        return known
    found = {}
    for name in sorted(commands_of(tools)):
        if program := shutil.which(name, path=path):
            found[name] = Path(program)
    target = cache / _digest(found, refused(tools))
    with _making:
        if not target.is_dir():
            _make(target, found, refused(tools), exposed)
        _made[wanted] = (target, time.monotonic())
    return target


def _make(
    target: Path, found: Mapping[str, Path], others: Iterable[str], exposed: Sequence[Path]
) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o755)
    for name, real in found.items():
        _place(draft / name, real, exposed)
    for name in others:
        (draft / name).write_text(_NOTE.format(name=name))
        (draft / name).chmod(0o755)
    try:
        draft.rename(target)
    except OSError:  # another runtime of this folder was first
        shutil.rmtree(draft, ignore_errors=True)


def _place(target: Path, program: Path, exposed: Sequence[Path]) -> None:
    if any(program.is_relative_to(folder) for folder in exposed):
        if program.is_symlink() and (program.parent.parent / "pyvenv.cfg").exists():
            # The python of an environment knows it by the path that it was called by.
            target.write_text(f'#!/bin/sh\nexec "{program}" "$@"\n')
            target.chmod(0o755)
        else:
            target.symlink_to(program)
        _place_hops(target.parent, program, exposed)
        return
    real = program.resolve()
    if any(real.is_relative_to(folder) for folder in exposed):
        target.symlink_to(real)
        return
    shutil.copyfile(real, target)
    target.chmod(0o755)


def _place_hops(folder: Path, link: Path, exposed: Sequence[Path]) -> None:
    """Copy the program behind a link that leads out of what is shown, as a venv's python does."""
    while link.is_symlink():
        link = Path(os.path.normpath(link.parent / os.readlink(link)))
        if any(link.is_relative_to(each) for each in exposed):
            continue
        if link.parent.resolve() == Path("/usr/bin") and not (folder / link.name).exists():
            shutil.copyfile(link.resolve(), folder / link.name)
            (folder / link.name).chmod(0o755)


def _digest(found: Mapping[str, Path], others: Iterable[str]) -> str:
    told = []
    for name, program in found.items():
        known = program.stat()
        told.append(f"{name} {program} {known.st_mtime_ns} {known.st_size}")
    return hashlib.sha256("\n".join([*told, *sorted(others)]).encode()).hexdigest()[:24]
