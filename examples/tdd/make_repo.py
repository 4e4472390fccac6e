"""Builds the bare repository of the demo: main holds textkit, its stories and the phases' tools."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parent / "repo"
# The same author and time each time, so that the same files give the same commit.
MOMENT = "2024-01-01T00:00:00Z"
MARK = "textkit-demo"
SETTINGS = {
    # A push must not be slowed down, or be killed, by a collection of garbage.
    "receive.autogc": "false",
    "gc.auto": "0",
    "receive.denyDeletes": "true",
    "receive.fsckObjects": "true",
    # Every lease copies the objects; one pack a push is far fewer files than one an object, and on
    # a filesystem under many new and removed files each further one costs a search.
    "receive.unpackLimit": "1",
    "pack.writeReverseIndex": "false",
}


class NotOurs(Exception):
    """The folder holds something that this program did not build, so it is left alone."""


def make_repo(*, folder: Path) -> str:
    """
    Return the commit of main in a new bare repository, which replaces one built before.

    The new repository is built beside the old one and takes its place by a rename.

    Raises: NotOurs, the folder exists and is neither empty nor built by this program;
        subprocess.CalledProcessError, a git command failed.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise NotOurs(f"{folder} was not built by make_repo.py; it stays as it is")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as workshop:
        draft = Path(workshop) / "new"
        commit = _build(draft)
        if folder.exists():
            folder.rename(Path(workshop) / "old")
        draft.rename(folder)
    return commit


def main(arguments: list[str]) -> int:
    """Build the repository in the folder that the arguments name; return the exit code."""
    if len(arguments) != 1:
        print("usage: make_repo.py DIR", file=sys.stderr)
        return 2
    folder = Path(arguments[0]).absolute()
    try:
        commit = make_repo(folder=folder)
    except NotOurs as error:
        print(error, file=sys.stderr)
        return 1
    stories = sum(1 for _ in (SOURCE / "stories").iterdir())
    print(f"{arguments[0]}: main at {commit[:12]} with {stories} stories")
    return 0


def _build(draft: Path) -> str:
    tree = draft.parent / "tree"
    shutil.copytree(SOURCE, tree, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
    _git(draft.parent, "init", "--quiet", "--bare", "--initial-branch=main", str(draft))
    for name, value in SETTINGS.items():
        _git(draft, "config", name, value)
    (draft / MARK).write_text("built by make_repo.py, which may replace it\n")
    in_tree = ("--git-dir", str(draft), "--work-tree", str(tree))
    _git(tree, *in_tree, "add", "--all")
    _git(tree, *in_tree, "commit", "--quiet", "--message", "textkit, its stories and its tools")
    (draft / "index").unlink()
    _git(draft, "repack", "-a", "-d", "--quiet")
    return _git(draft, "rev-parse", "main").strip()


def _git(folder: Path, *arguments: str) -> str:
    """Return what git prints, with nothing read from the machine's configuration."""
    identity = {
        f"GIT_{role}_{part}": value
        for role in ("AUTHOR", "COMMITTER")
        for part, value in (
            ("NAME", "textkit"),
            ("EMAIL", "textkit@example.org"),
            ("DATE", MOMENT),
        )
    }
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    ours = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **identity}
    done = subprocess.run(
        ("git", *arguments),
        cwd=folder,
        env=inherited | ours,
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
