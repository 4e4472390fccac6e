"""The smaller parts of the runtime: log, usage, environment, options, dependencies."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agentpool.agent import contract, execution, lease_log, options, usage, workspace
from agentpool.client import errors, gateway
from balancing.reports import HeartbeatLease

pytestmark = pytest.mark.timeout(30)


class Wire:
    """Collects what is sent, or fails when told to."""

    def __init__(self) -> None:
        self.sent: list[Mapping[str, Any]] = []
        self.is_away = threading.Event()

    def send(self, chunks: list[Mapping[str, Any]]) -> None:
        if self.is_away.is_set():
            raise errors.Unreachable("away")
        self.sent.extend(chunks)

    def text(self) -> str:
        return "".join(str(chunk["text"]) for chunk in self.sent)


def test_a_log_keeps_its_order_and_is_complete_at_the_end() -> None:
    wire = Wire()
    log = lease_log.LeaseLog(wire.send, is_void=lambda: False)

    for number in range(500):
        log.write("stdout", f"{number}\n")
    log.finish()

    assert wire.text() == "".join(f"{number}\n" for number in range(500))


def test_a_log_waits_out_an_absence_with_bounded_memory() -> None:
    wire = Wire()
    wire.is_away.set()
    log = lease_log.LeaseLog(wire.send, is_void=lambda: False)

    for _ in range(100):
        log.write("stdout", "x" * 20_000)
    log.write("stdout", "the end")
    wire.is_away.clear()
    log.finish()

    assert wire.text().endswith("the end")
    assert "characters dropped" in wire.text()
    assert len(wire.text()) < 700_000


def test_a_log_of_a_lost_lease_gives_up() -> None:
    wire = Wire()
    wire.is_away.set()
    log = lease_log.LeaseLog(wire.send, is_void=lambda: True)
    log.write("stdout", "x")
    began = time.monotonic()

    log.finish()

    assert time.monotonic() - began < 2


def test_text_split_inside_a_character_comes_out_whole() -> None:
    written: list[str] = []
    stream = execution.Stream("stdout", lambda _, text: written.append(text))
    content = "grün".encode()

    stream.feed(content[:3], now=0)
    stream.flush(now=0, is_due=True)
    stream.feed(content[3:], now=0, is_last=True)
    stream.flush(now=0, is_due=True)

    assert "".join(written) == "grün"


def test_bytes_that_are_no_text_are_replaced() -> None:
    written: list[str] = []
    stream = execution.Stream("stdout", lambda _, text: written.append(text))

    stream.feed(b"a\xff\x00b", now=0, is_last=True)
    stream.flush(now=0, is_due=True)

    assert written == ["a\ufffd\ufffdb"]


def test_output_is_held_for_a_moment_only() -> None:
    written: list[str] = []
    stream = execution.Stream("stdout", lambda _, text: written.append(text))

    stream.feed(b"a", now=0)
    stream.flush(now=0.9 * execution.FLUSH_S)
    stream.feed(b"b", now=0.9 * execution.FLUSH_S)
    stream.flush(now=1.1 * execution.FLUSH_S)

    assert written == ["ab"]


@pytest.mark.parametrize("content", ["", "[1]", "{", "nan", '{"a": ' * 5000, "x" * 300_000])
def test_a_file_that_is_no_object_reads_as_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_text(content)

    assert usage.read_json(path) == {}


def test_a_pipe_or_a_link_in_place_of_the_result_is_not_followed(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "real").write_text('{"a": 1}')
    (tmp_path / "link").symlink_to(tmp_path / "real")

    assert usage.read_json(tmp_path / "pipe") == {}
    assert usage.read_json(tmp_path / "link") == {}


def test_tokens_are_read_and_nonsense_is_dropped() -> None:
    reported = {"input_tokens": 5, "output_tokens": -1, "cost_usd": "9"}

    assert usage.tokens(reported) == {"tokens_in": 5}
    assert usage.tokens("much") == {}


@pytest.mark.parametrize(
    "wrote",
    [
        {"counter": 10**14, "phase": "a\0b", "note": "c\0d\ud800" * 300},
        {"usage": {"cost_usd": 10**9, "tokens_in": 10**14, "output_tokens": 1e14}},
        {"counter": -1, "phase": 7, "usage": {"cost_usd": float("nan"), "tokens_in": True}},
    ],
)
def test_what_work_wrote_of_itself_never_spoils_a_heartbeat(wrote: dict[str, Any]) -> None:
    """One that is refused would keep the progress of all other leases from being told."""
    told = {
        "lease_id": "11111111-1111-4111-8111-111111111111",
        "fencing_token": 1,
        "progress": usage.progress(wrote),
        "usage": usage.tokens(wrote.get("usage")),
    }

    heard = HeartbeatLease(data=json.loads(gateway.encoded(told)))

    assert heard.is_valid(), heard.errors


def test_exec_fills_in_names_and_keeps_words_apart() -> None:
    env = {"AGENTPOOL_CYCLE": "a b; rm"}

    command = contract.command_of(payload={}, exec_line="run '$AGENTPOOL_CYCLE' $HOME_X", env=env)

    assert command == ["run", "a b; rm", "$HOME_X"]


def test_no_command_at_all_is_said() -> None:
    with pytest.raises(ValueError, match="no command"):
        contract.command_of(payload={}, exec_line=None, env={})


@pytest.mark.parametrize("name", ["../passwd", ".hidden", "", "a/b", "/etc/passwd"])
def test_a_secret_has_a_plain_name(tmp_path: Path, name: str) -> None:
    folder = contract.Folder(root=tmp_path / "lease")
    folder.make()

    with pytest.raises(contract.SecretMissing):
        contract.place_secrets(names=[name], source=tmp_path, folder=folder)


def test_a_secret_that_pool_and_payload_both_name_is_given_in_both_ways(tmp_path: Path) -> None:
    folder = contract.Folder(root=tmp_path / "lease")
    folder.make()
    (tmp_path / "key").write_text("secret\n")

    given = contract.place_secrets(names=["key", "key=API_KEY"], source=tmp_path, folder=folder)

    assert given == {"API_KEY": "secret"}
    assert (folder.secrets / "key").read_text() == "secret\n"
    assert (folder.secrets / "key").stat().st_mode & 0o777 == 0o600


def test_the_payload_can_not_replace_what_the_runtime_says(tmp_path: Path) -> None:
    env = contract.environment(
        agent_id="bee",
        agent_type="code",
        url="http://pool",
        lease={"id": "l1", "fencing_token": 7, "cycle_id": None, "grant": {}},
        payload={"env": {"AGENTPOOL_FENCING_TOKEN": "8", "GIT_AUTHOR_NAME": "me"}},
        folder=contract.Folder(root=tmp_path),
    )

    assert env["AGENTPOOL_FENCING_TOKEN"] == "7"
    assert env["AGENTPOOL_CYCLE"] == ""
    assert env["GIT_AUTHOR_NAME"] == "me"
    assert env["PATH"].split(":")[0] == str(Path(sys.executable).parent)


def test_options_are_read() -> None:
    said = options.parse(
        ["--pool", "code", "--slots", "2", "--label", "zone=a", "--tool", "git", "--tool", "rg"]
    )

    about = said.registration(["process"])
    assert (said.pool, about["max_concurrent"]) == ("code", 2)
    assert about["labels"] == {"zone": "a"}
    assert about["tools"] == ["git", "rg"]
    assert about["isolation_levels"] == ["process"]
    assert "memory_mb" not in about


@pytest.mark.parametrize("wrong", [["--slots", "0"], ["--label", "zone"], ["--name", "a b"], []])
def test_wrong_options_are_usage_errors(wrong: list[str]) -> None:
    pool = ["--pool", "code"] if wrong else []

    with pytest.raises(SystemExit) as caught:
        options.parse([*pool, *wrong])

    assert caught.value.code == 2


def test_the_runtime_loads_no_web_framework_and_no_http_client() -> None:
    code = (
        "import sys, agentpool.agent.runtime\n"
        "heavy = {'django', 'rest_framework', 'psycopg', 'httpx', 'click', 'rich', 'asyncio'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_what_is_no_plain_file_is_not_read_and_costs_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("/etc/hostname")
    os.mkfifo(tmp_path / "pipe")
    held = os.open(tmp_path / "pipe", os.O_RDWR)
    before = len(os.listdir("/proc/self/fd"))

    for name in ("folder", "link", "pipe", "absent"):
        assert usage.read_json(tmp_path / name) == {}
        with pytest.raises(OSError, match=name):
            usage.read_plain(tmp_path / name)

    assert len(os.listdir("/proc/self/fd")) == before
    os.close(held)


@pytest.fixture
def bottomless(tmp_path: Path) -> Iterator[Path]:
    """A folder nested too deep for Python; gone afterwards, for pytest could not remove it."""
    place = tmp_path / "lease"
    place.mkdir()
    here = os.open(place, os.O_DIRECTORY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_DIRECTORY, dir_fd=here), here
        os.close(above)
    os.close(here)
    yield place
    subprocess.run(["rm", "-rf", "--", str(place)], check=True)


def test_a_folder_that_is_nested_without_end_is_removed(bottomless: Path) -> None:
    workspace.remove(bottomless)

    assert not bottomless.exists()


@pytest.mark.parametrize(
    "source", ["mirrors/a.git", "../x", "file:///srv/x", "{own}/leases/b/work"]
)
def test_what_is_the_agents_own_is_not_cloned(tmp_path: Path, source: str) -> None:
    (tmp_path / "leases" / "b" / "work").mkdir(parents=True)

    with pytest.raises(workspace.WorkspaceFailed):
        workspace.refuse_private(source.format(own=tmp_path), private=[tmp_path, None])


@pytest.mark.parametrize("source", ["https://git.example/x", "git@git.example:x", "/srv/repo.git"])
def test_other_repositories_may_be_cloned(tmp_path: Path, source: str) -> None:
    workspace.refuse_private(source, private=[tmp_path, None])
