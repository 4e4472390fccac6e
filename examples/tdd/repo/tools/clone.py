"""The clone that a phase works in: put it in a known state, commit, push; all may be repeated."""

import contextlib
import os
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from contract import TryElsewhere, WorkFailed

ROOT = Path(__file__).resolve().parent.parent
MAIN = "main"
# A lock file this old belongs to a process that was killed: git holds one for milliseconds.
STALE_LOCK_S = 2.0
_LOCKED = re.compile(r"Unable to create '([^']+\.lock)': File exists")
_REJECTED = re.compile(r"\[rejected\]|non-fast-forward|stale info|but expected|\(fetch first\)")


class GitFailed(WorkFailed):
    """A git command ended with an error."""


class Rejected(Exception):
    """The remote's branch is no longer where it was when this phase began."""


@dataclass(frozen=True)
class Remote:
    """Where the remote's branches stand, as commits; None: there is no such branch."""

    main: str
    story: str | None


def git(*arguments: str) -> str:
    """Return what a git command printed. Raises: GitFailed."""
    done = subprocess.run(
        ("git", *arguments), cwd=ROOT, env=_environment(), capture_output=True, text=True
    )
    if done.returncode:
        message = (done.stderr or done.stdout).strip()
        raise GitFailed(f"git {arguments[0]} ended with {done.returncode}: {message}")
    return done.stdout


def refresh(*, branch: str) -> Remote:
    """
    Drop the locks of a killed attempt and learn where the remote's branches stand.

    Raises: TryElsewhere, the remote does not answer or has no main.
    """
    local = ROOT / ".git"
    for lock in [*local.glob("*.lock"), *(local / "refs").rglob("*.lock")]:
        _remove_stale(lock)
    depth = ["--unshallow"] if (local / "shallow").exists() else []
    # With the star a branch that does not exist yet is no error.
    wanted = [f"+refs/heads/{name}:refs/remotes/origin/{name}" for name in (MAIN, f"{branch}*")]
    try:
        git("fetch", "--quiet", "--no-tags", *depth, "origin", *wanted)
    except GitFailed as error:
        raise TryElsewhere(f"the remote does not answer: {error}") from error
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", "refs/remotes/origin")
    commits = dict(line.split(" ", 1) for line in listed.splitlines())
    return Remote(
        main=commits[f"refs/remotes/origin/{MAIN}"],
        story=commits.get(f"refs/remotes/origin/{branch}"),
    )


def phases_done(*, commit: str, story: str) -> set[str]:
    """Return the phases of a story that are in the history of a commit."""
    form = "--format=%(trailers:key=Phase,valueonly,separator=)"
    return set(git("log", form, f"--grep=^Story: {story}$", commit).split())


def start(*, branch: str, commit: str) -> None:
    """Put the working tree on a branch at a commit, whatever an earlier attempt left in it."""
    # Files that only look changed (they were given to another user) are not written again, which
    # a read-only working tree would refuse. It fails where something is changed indeed.
    with contextlib.suppress(GitFailed):
        git("update-index", "--really-refresh")
    git("checkout", "--quiet", "--force", "-B", branch, commit)
    # A sandbox may have mounted docs and plans, which keeps them; phases write anew what they need in it.
    git("clean", "--quiet", "--force", "-d", "--exclude=/docs", "--exclude=/plans")


def copy_to(folder: Path) -> Path:
    """Return a clone of this clone, with the same origin, to be written where this may not be."""
    target = folder / "clone"
    git("clone", "--quiet", "--template=", "--shared", str(ROOT), str(target))
    origin = git("config", "remote.origin.url").strip()
    git("-C", str(target), "remote", "set-url", "origin", origin)
    return target


def commit(*, title: str, story: str, phase: str, paths: list[str]) -> None:
    """Commit the paths and what is staged, with trailers that tell a repeated phase it was done."""
    git("add", "--", *paths)
    git("commit", "--quiet", "--message", f"{title}\n\nStory: {story}\nPhase: {phase}")


def push_story(*, branch: str, expected: str | None) -> None:
    """Push HEAD to a story's branch if that is still at the expected commit. Raises: Rejected."""
    name = f"refs/heads/{branch}"
    _push(f"--force-with-lease={name}:{expected or ''}", "origin", f"HEAD:{name}")


def push_main() -> None:
    """Push HEAD to main, which must not have moved. Raises: Rejected."""
    _push("origin", f"HEAD:refs/heads/{MAIN}")


def _push(*arguments: str) -> None:
    try:
        git("push", "--quiet", *arguments)
    except GitFailed as error:
        if _REJECTED.search(str(error)):
            raise Rejected(str(error)) from error
        lock = _LOCKED.search(str(error))
        if lock is None:
            raise TryElsewhere(f"the remote does not take the push: {error}") from error
        # An attempt was killed inside the remote's ref update. The lease on the story, or on main,
        # says that nobody else is pushing here, so an old lock has no owner.
        _remove_stale(Path(lock[1]))
        _push(*arguments)


def _remove_stale(lock: Path) -> None:
    """
    Remove a lock file, after giving an owner that may still live the time to finish.

    Raises: TryElsewhere, it is out of reach from here.
    """
    if not lock.parent.is_dir():
        raise TryElsewhere(f"{lock} is held, and can't be reached from here")
    while True:
        try:
            age_s = time.time() - lock.stat().st_mtime
            if age_s > STALE_LOCK_S:
                lock.unlink()
                return
        except FileNotFoundError:
            return
        except OSError as error:
            raise TryElsewhere(f"a lock can't be removed: {error}") from error
        time.sleep(0.1)


def _environment() -> dict[str, str]:
    """Return an environment in which git reads nothing of the user's or the caller's repository."""
    caller = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY"}
    own = {
        "GIT_CONFIG_GLOBAL": str(ROOT / "tools" / "gitconfig"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "LC_ALL": "C.UTF-8",
    }
    return {key: value for key, value in os.environ.items() if key not in caller} | own
