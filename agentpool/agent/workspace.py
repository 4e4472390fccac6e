"""Where the work of a lease happens: a clone, a folder that is there, or an empty one."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agentpool.agent.isolation import users
from agentpool.agent.isolation.policy import is_writable

_CLONE_S = 900.0
_STEP_S = 0.02
_LOCAL_TRIES = 3
_WRITE = 'mkdir -p -- "$(dirname -- "$1")"; cat >"./$1"'


class WorkspaceFailed(Exception):
    """The workspace can't be made; the message says why."""


class NoSuchRef(WorkspaceFailed):
    """The repository is there, but has no such branch, tag or commit."""


class Stopped(Exception):
    """The work was stopped while its workspace was being made."""


@dataclass(frozen=True, slots=True)
class Git:
    """How git is called: where its mirrors are, and when to give up."""

    mirrors: Path
    is_stopped: Callable[[], bool]

    def run(self, *arguments: str, cwd: Path | None = None) -> None:
        """Run one git command. Raises: WorkspaceFailed with what git said; Stopped."""
        env = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
        with subprocess.Popen(
            ["git", *arguments],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        ) as child:
            said = self._wait(child)
        if child.returncode != 0:
            raise WorkspaceFailed(f"git {arguments[0]}: {said[-1000:]}")

    def _wait(self, child: subprocess.Popen[bytes]) -> str:
        give_up_at = time.monotonic() + _CLONE_S
        while True:
            try:
                _, said = child.communicate(timeout=_STEP_S * 10)
                return said.decode("utf-8", "replace").strip()
            except subprocess.TimeoutExpired:
                if not self.is_stopped() and time.monotonic() < give_up_at:
                    continue
            os.killpg(child.pid, 9)
            child.communicate()
            if self.is_stopped():
                raise Stopped
            raise WorkspaceFailed(f"git took longer than {_CLONE_S:g} s")


def prepare(*, wanted: Mapping[str, Any] | None, folder: Path, git: Git) -> Path:
    """
    Return the folder in which the work shall start.

    Args:
        wanted: `{git, ref}`, `{path}`, or nothing for an empty folder.
        folder: the private folder of the lease; clones and empty folders are made below it.
        git: how git is called.
    Raises: WorkspaceFailed; Stopped.

    """
    wanted = wanted or {}
    place = folder / "work"
    if path := wanted.get("path"):
        found = Path(str(path))
        if not (found.is_absolute() and found.is_dir()):
            raise WorkspaceFailed(f"{path} is no absolute path of a folder on this agent")
        return found
    if source := wanted.get("git"):
        _clone(str(source), str(wanted.get("ref") or ""), place, git)
    else:
        place.mkdir()
    return place


def write_files(
    *, files: Mapping[str, str], place: Path, shared: Sequence[str] | None = None
) -> None:
    """
    Write small files into the workspace before the work starts.

    shared: of a folder that was there before, the globs in which the work may write; the files are
    held to them, too, and are its owner's. None: the workspace is the lease's own.
    Raises: WorkspaceFailed, a name leads out of the workspace, also by way of a link in it, or the
    file may not be written.
    """
    root = place.resolve()
    for name, text in files.items():
        target = (root / name).resolve()
        if not target.is_relative_to(root) or target == root:
            raise WorkspaceFailed(f"file {name!r} is outside the workspace")
        relative = str(target.relative_to(root))
        if shared is not None and not is_writable(relative, shared):
            raise WorkspaceFailed(f"file {name!r}: the profile lets nothing be written there")
        try:
            if shared is not None:
                users.as_owner(root, _WRITE, relative, content=text.encode())
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise WorkspaceFailed(f"file {name!r}: {error.strerror}") from error


def keep_private(place: Path, *, own: Path | None, private: Sequence[Path | None]) -> None:
    """
    Refuse a workspace that would show what is the runtime's: its folder, its secrets.

    own: the folder of the lease, in which a workspace is private anyway; None: it is not in one.
    Raises: WorkspaceFailed.
    """
    if own is not None and place.is_relative_to(own):
        return
    found = place.resolve()
    for each in (folder.resolve() for folder in private if folder):
        if found.is_relative_to(each) or each.is_relative_to(found):
            raise WorkspaceFailed(f"{place} holds what is this agent's own")


def refuse_private(source: str, *, private: Sequence[Path | None]) -> None:
    """
    Refuse to clone from what is the runtime's own: other leases, mirrors, its secrets.

    Raises: WorkspaceFailed; also for a local repository that is not named by its absolute path.
    """
    if Path(source).is_absolute():
        keep_private(Path(source), own=None, private=private)
    elif source.startswith("file:") or ":" not in source.split("/", 1)[0]:
        raise WorkspaceFailed(f"{source!r}: name a local repository by its absolute path")


def remove(folder: Path) -> None:
    """Remove the private folder of a lease, also what was made read-only in it."""
    # Twice: a killed process may still have had a write under way.
    for _ in range(2):
        with contextlib.suppress(RecursionError):
            shutil.rmtree(folder, onerror=_unlock)
        if not folder.exists():
            return
    # Nested deeper than Python can follow: these two walk by descriptors, without recursion.
    for words in (["chmod", "-R", "u+rwx"], ["rm", "-rf"]):
        subprocess.run([*words, "--", str(folder)], stderr=subprocess.DEVNULL, check=False)


def _unlock(remove_it: Callable[[str], object], name: str, _error: object) -> None:
    with contextlib.suppress(OSError):
        parent = Path(name).parent
        parent.chmod(parent.stat().st_mode | stat.S_IRWXU)
        if not Path(name).is_symlink():
            Path(name).chmod(stat.S_IRWXU)
        if Path(name).is_dir() and not Path(name).is_symlink():
            shutil.rmtree(name, ignore_errors=True)
        else:
            remove_it(name)


def _clone(source: str, ref: str, place: Path, git: Git) -> None:
    if ref.startswith("-") or source.startswith("-"):
        raise WorkspaceFailed(f"{source!r} at {ref!r} is no repository and ref")
    if Path(source).is_absolute():
        _clone_folder(source, ref, place, git)
        return
    with _mirror(source, git) as mirror:
        _clone_folder(str(mirror), ref, place, git)
    git.run("remote", "set-url", "origin", source, cwd=place)


def _clone_folder(source: str, ref: str, place: Path, git: Git) -> None:
    """
    Clone a repository of this machine, at a branch (tracked), a tag, or a commit.

    A local clone copies the object files (linked ones the work could change for everybody); a push
    at the same moment can make one vanish under its hands, so it is tried again, and at last done
    by the transport that is safe against that.
    """
    for number in range(_LOCAL_TRIES + 1):
        way = "--no-hardlinks" if number < _LOCAL_TRIES else "--no-local"
        try:
            _clone_once(way, source, ref, place, git)
            return
        except WorkspaceFailed as error:
            shutil.rmtree(place, ignore_errors=True)
            is_final = isinstance(error, NoSuchRef) or not Path(source).is_dir()
            if is_final or number == _LOCAL_TRIES:
                raise
        time.sleep(_STEP_S * (number + 1))


def _clone_once(way: str, source: str, ref: str, place: Path, git: Git) -> None:
    # The machine's template is samples of hooks: a dozen files to write and remove for each lease.
    quiet = ("clone", "--quiet", "--template=", way)
    named = ("--branch", ref) if ref else ()
    try:
        git.run(*quiet, *named, "--", source, str(place))
    except WorkspaceFailed as error:
        if not ref or "not found in upstream" not in str(error):
            raise
        # No branch and no tag of that name: a commit, then.
        shutil.rmtree(place, ignore_errors=True)
        git.run(*quiet, "--no-checkout", "--", source, str(place))
        try:
            git.run("checkout", "--quiet", "--detach", ref, "--", cwd=place)
        except WorkspaceFailed:
            raise NoSuchRef(f"{source} has no branch, tag or commit {ref!r}") from error


@contextlib.contextmanager
def _mirror(source: str, git: Git) -> Iterator[Path]:
    """Hold the lock of this machine's mirror of a repository, brought up to date."""
    git.mirrors.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(source.encode()).hexdigest()[:24]
    mirror = git.mirrors / f"{name}.git"
    with (git.mirrors / f"{name}.lock").open("w", encoding="ascii") as lock:
        _wait_for(lock, git)
        if mirror.is_dir():
            git.run("fetch", "--quiet", "--prune", "origin", cwd=mirror)
        else:
            draft = git.mirrors / f"{name}.new"
            shutil.rmtree(draft, ignore_errors=True)
            git.run("clone", "--quiet", "--mirror", "--", source, str(draft))
            draft.rename(mirror)
        yield mirror


def _wait_for(lock: IO[str], git: Git) -> None:
    """Take a lock that another lease may hold for as long as a clone takes. Raises: Stopped."""
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if git.is_stopped():
                raise Stopped from None
            time.sleep(_STEP_S)
