"""Workspaces: clones at branches, tags and commits; files that stay inside."""

import fcntl
import hashlib
import os
import subprocess
import threading
from pathlib import Path

import pytest

from agentpool.agent import workspace

pytestmark = pytest.mark.timeout(60)


def sh(cwd: Path, *arguments: str) -> str:
    identity = {
        f"GIT_{who}_{what}": "t@t.invalid"
        for who in ("AUTHOR", "COMMITTER")
        for what in ("NAME", "EMAIL")
    }
    done = subprocess.run(
        arguments,
        cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(cwd), **identity},
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    source, bare = tmp_path / "source", tmp_path / "repo.git"
    sh(tmp_path, "git", "init", "-q", "-b", "main", str(source))
    (source / "a.txt").write_text("one")
    sh(source, "git", "add", ".")
    sh(source, "git", "commit", "-qm", "one")
    sh(source, "git", "tag", "v1")
    (source / "a.txt").write_text("two")
    sh(source, "git", "commit", "-qam", "two")
    sh(tmp_path, "git", "clone", "-q", "--bare", str(source), str(bare))
    return bare


@pytest.fixture
def git(tmp_path: Path) -> workspace.Git:
    return workspace.Git(mirrors=tmp_path / "mirrors", is_stopped=lambda: False)


def lease_folder(tmp_path: Path, name: str = "lease") -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_a_branch_is_tracked(tmp_path: Path, repository: Path, git: workspace.Git) -> None:
    wanted = {"git": str(repository), "ref": "main"}

    place = workspace.prepare(wanted=wanted, folder=lease_folder(tmp_path), git=git)

    assert (place / "a.txt").read_text() == "two"
    assert sh(place, "git", "rev-parse", "--abbrev-ref", "main@{upstream}") == "origin/main"


@pytest.mark.parametrize("kind", ["tag", "commit"])
def test_a_tag_or_commit_is_checked_out_detached(
    tmp_path: Path, repository: Path, git: workspace.Git, kind: str
) -> None:
    ref = "v1" if kind == "tag" else sh(repository, "git", "rev-parse", "v1")
    wanted = {"git": str(repository), "ref": ref}

    place = workspace.prepare(wanted=wanted, folder=lease_folder(tmp_path), git=git)

    assert (place / "a.txt").read_text() == "one"


def test_an_address_goes_through_a_mirror_that_is_brought_up_to_date(
    tmp_path: Path, repository: Path, git: workspace.Git
) -> None:
    wanted = {"git": f"file://{repository}", "ref": "main"}
    first = workspace.prepare(wanted=wanted, folder=lease_folder(tmp_path, "one"), git=git)
    (first / "a.txt").write_text("three")
    sh(first, "git", "commit", "-qam", "three")
    sh(first, "git", "push", "-q")

    second = workspace.prepare(wanted=wanted, folder=lease_folder(tmp_path, "two"), git=git)

    assert (second / "a.txt").read_text() == "three"
    assert sh(second, "git", "remote", "get-url", "origin") == f"file://{repository}"
    assert len(list((tmp_path / "mirrors").glob("*.git"))) == 1


def test_many_clones_at_once_survive_pushes(
    tmp_path: Path, repository: Path, git: workspace.Git
) -> None:
    pusher = workspace.prepare(
        wanted={"git": str(repository), "ref": "main"},
        folder=lease_folder(tmp_path, "pusher"),
        git=git,
    )
    failures: list[BaseException] = []

    def clone(number: int) -> None:
        for turn in range(3):
            folder = lease_folder(tmp_path, f"{number}-{turn}")
            try:
                wanted = {"git": str(repository), "ref": "main"}
                workspace.prepare(wanted=wanted, folder=folder, git=git)
            except workspace.WorkspaceFailed as error:
                failures.append(error)

    threads = [threading.Thread(target=clone, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sh(pusher, "git", "commit", "-q", "--allow-empty", "-m", "more")
        sh(pusher, "git", "push", "-q")
    for thread in threads:
        thread.join()

    assert failures == []


def test_a_ref_that_looks_like_an_option_is_refused(
    tmp_path: Path, repository: Path, git: workspace.Git
) -> None:
    wanted = {"git": str(repository), "ref": "--upload-pack=touch /x"}

    with pytest.raises(workspace.WorkspaceFailed):
        workspace.prepare(wanted=wanted, folder=lease_folder(tmp_path), git=git)


def test_a_repository_that_is_not_there_is_named(tmp_path: Path, git: workspace.Git) -> None:
    wanted = {"git": str(tmp_path / "none.git"), "ref": "main"}

    with pytest.raises(workspace.WorkspaceFailed, match=r"none\.git"):
        workspace.prepare(wanted=wanted, folder=lease_folder(tmp_path), git=git)


def test_a_clone_ends_when_the_work_is_stopped(tmp_path: Path, repository: Path) -> None:
    stopped = workspace.Git(mirrors=tmp_path, is_stopped=lambda: True)
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\nsleep 60\n")
    slow.chmod(0o755)

    with pytest.raises(workspace.Stopped):
        stopped.run("-c", f"core.sshCommand={slow}", "ls-remote", "ssh://host.invalid/x")


def test_who_waits_for_a_mirror_ends_when_the_work_is_stopped(tmp_path: Path) -> None:
    url = "https://git.example.org/x"
    mirrors = tmp_path / "mirrors"
    mirrors.mkdir()
    stopped = workspace.Git(mirrors=mirrors, is_stopped=lambda: True)
    failed: list[Exception] = []

    def prepare() -> None:
        try:
            folder = lease_folder(tmp_path)
            workspace.prepare(wanted={"git": url}, folder=folder, git=stopped)
        except workspace.Stopped as error:
            failed.append(error)

    with (mirrors / f"{hashlib.sha256(url.encode()).hexdigest()[:24]}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # another lease clones it just now
        waiting = threading.Thread(target=prepare, daemon=True)
        waiting.start()
        waiting.join(5)

    assert len(failed) == 1


def test_nothing_wanted_is_an_empty_folder(tmp_path: Path, git: workspace.Git) -> None:
    place = workspace.prepare(wanted=None, folder=lease_folder(tmp_path), git=git)

    assert list(place.iterdir()) == []


def test_a_path_is_used_where_it_is(tmp_path: Path, git: workspace.Git) -> None:
    wanted = {"path": str(tmp_path)}

    assert workspace.prepare(wanted=wanted, folder=tmp_path / "x", git=git) == tmp_path


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "link/out", "."])
def test_files_can_not_leave_the_workspace(tmp_path: Path, name: str) -> None:
    place = lease_folder(tmp_path)
    (place / "link").symlink_to(tmp_path)

    with pytest.raises(workspace.WorkspaceFailed):
        workspace.write_files(files={name: "x"}, place=place)

    assert not (tmp_path / "out").exists()


def test_what_is_read_only_is_removed_too(tmp_path: Path) -> None:
    folder = lease_folder(tmp_path)
    (folder / "deep").mkdir()
    (folder / "deep" / "file").write_text("x")
    (folder / "deep").chmod(0o500)

    workspace.remove(folder)

    assert not folder.exists()


def test_links_that_lead_out_are_not_followed_when_removing(tmp_path: Path) -> None:
    folder, outside = lease_folder(tmp_path), tmp_path / "outside"
    outside.write_text("stays")
    outside.chmod(0o400)
    (folder / "link").symlink_to(outside)

    workspace.remove(folder)

    assert outside.read_text() == "stays"
    assert outside.stat().st_mode & 0o777 == 0o400
