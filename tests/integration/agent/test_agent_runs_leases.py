"""The runtime as a real process against a control plane on real sockets."""

import json
import os
import platform
import signal
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentpool.agent.isolation import cgroup
from tests.integration.agent.conftest import Agent, Plane
from tests.integration.agent.tiers import needs, path_without

pytestmark = pytest.mark.timeout(60)
SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(60)"]


def python(code: str) -> list[str]:
    return ["python", "-c", code]


def test_an_offer_is_acknowledged_run_logged_and_released(plane: Any, agent: Any) -> None:
    agent()
    code = "import sys; print('out ü'); print('err', file=sys.stderr)"

    lease_id = plane.offer({"command": python(code)})
    release = plane.release_of(lease_id)

    assert release["outcome"] == "success"
    assert release["result"]["exit_code"] == 0
    assert plane.printed(lease_id, "stdout") == "out ü\n"
    assert plane.printed(lease_id, "stderr") == "err\n"
    assert release["usage"]["memory_mb"] > 1
    assert release["usage"]["cpu_seconds"] > 0


def test_the_websocket_carries_the_calls(plane: Any, agent: Any) -> None:
    agent()

    plane.release_of(plane.offer({"command": ["true"]}))

    assert {"ws:ack", "ws:release"} <= set(plane.ways)


def test_plain_http_carries_the_calls_when_there_is_no_websocket(plane: Any, agent: Any) -> None:
    plane.has_websocket = False
    agent()

    release = plane.release_of(plane.offer({"command": ["true"]}))

    assert release["outcome"] == "success"
    assert not [way for way in plane.ways if way.startswith("ws:")]
    plane.wait(lambda: plane.heartbeats)


def test_the_websocket_is_used_again_once_it_can_be_had(plane: Any, agent: Any) -> None:
    plane.has_websocket = False
    agent()
    plane.release_of(plane.offer({"command": ["true"]}))
    assert not [way for way in plane.ways if way.startswith("ws:")]

    plane.has_websocket = True
    # This offer ends the poll that waits for one; after a poll the websocket is tried again.
    plane.release_of(plane.offer({"command": ["true"]}))
    plane.wait(lambda: plane.sockets)
    plane.release_of(plane.offer({"command": ["true"]}))

    assert {"ws:ack", "ws:release"} <= set(plane.ways)


@pytest.mark.parametrize(
    ("code", "outcome", "retry", "says"),
    [
        (1, "failure", None, "exit code 1"),
        (75, "failure", True, "tried elsewhere"),
        (77, "failure", None, "permission"),
        (78, "failure", None, "set up wrongly"),
    ],
)
def test_an_exit_code_becomes_an_outcome(
    plane: Any, agent: Any, code: int, outcome: str, retry: bool | None, says: str
) -> None:
    agent()

    release = plane.release_of(plane.offer({"command": python(f"raise SystemExit({code})")}))

    assert release["outcome"] == outcome
    assert release.get("retry") == retry
    assert says in release["error"]
    assert release["result"]["exit_code"] == code


def test_the_error_ends_with_the_last_line_of_stderr(plane: Any, agent: Any) -> None:
    agent()

    release = plane.release_of(plane.offer({"command": python("raise ValueError('no such bean')")}))

    assert release["error"] == "exit code 1: ValueError: no such bean"


def test_work_sees_its_contract_and_nothing_of_the_runtime(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    agent(AGENTPOOL_TOKEN="operator-secret", PRIVATE="x")
    code = "import json, os; print(json.dumps(dict(os.environ)))"

    lease_id = plane.offer({"command": python(code), "env": {"COLOUR": "blue"}})
    plane.release_of(lease_id)
    seen = json.loads(plane.printed(lease_id))

    assert seen["COLOUR"] == "blue"
    assert seen["AGENTPOOL_CYCLE"] == "c1"
    assert seen["AGENTPOOL_PHASE"] == "code"
    assert seen["AGENTPOOL_TYPE"] == "code"
    assert seen["AGENTPOOL_FENCING_TOKEN"] == "41"
    assert seen["AGENTPOOL_TOKEN_BUDGET"] == "1000"
    assert seen["AGENTPOOL_DEADLINE"] == plane.leases[lease_id]["hard_end_at"]
    assert seen["HOME"] in ("/lease/home", str(tmp_path / f"agent/leases/{lease_id}/home"))
    assert not {"AGENTPOOL_TOKEN", "AGENTPOOL_ENROLMENT_TOKEN", "PRIVATE"} & set(seen)
    assert "credential" not in json.dumps(seen)


def test_the_result_file_comes_back_with_its_tokens(plane: Any, agent: Any) -> None:
    agent()
    code = (
        "import json, os\n"
        "json.dump({'summary': 'done', 'usage': {'input_tokens': 7, 'output_tokens': 5,"
        " 'cost_usd': 0.25}}, open(os.environ['AGENTPOOL_RESULT'], 'w'))"
    )

    release = plane.release_of(plane.offer({"command": python(code)}))

    assert release["result"]["summary"] == "done"
    assert release["usage"]["tokens_in"] == 7
    assert release["usage"]["tokens_out"] == 5
    assert release["usage"]["cost_usd"] == 0.25


def test_progress_reaches_the_heartbeat(plane: Any, agent: Any) -> None:
    agent()
    code = (
        "import json, os, time\n"
        "json.dump({'counter': 3, 'phase': 'red', 'note': 'n'},"
        " open(os.environ['AGENTPOOL_PROGRESS'], 'w'))\n"
        # The kernel sums up what a control group holds every two seconds.
        "time.sleep(4)"
    )
    lease_id = plane.offer({"command": python(code)})

    plane.release_of(lease_id)

    reports = [each for beat in plane.heartbeats for each in beat["leases"]]
    assert {"counter": 3, "phase": "red", "note": "n"} in [each.get("progress") for each in reports]
    assert any(each.get("usage", {}).get("memory_mb", 0) > 1 for each in reports)


def test_cancel_ends_the_work_and_says_so(plane: Any, agent: Any) -> None:
    agent()
    lease_id = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(lease_id))

    plane.command(kind="cancel", lease_id=lease_id, reason="not wanted")
    release = plane.release_of(lease_id)

    assert release["outcome"] == "cancelled"
    assert release["error"] == "not wanted"
    assert "retry" not in release


def test_a_resized_grant_is_found_in_the_payload_file(plane: Any, agent: Any) -> None:
    agent()
    code = (
        "import json, os, time\n"
        "read = lambda: json.load(open(os.environ['AGENTPOOL_PAYLOAD']))['lease']['grant']\n"
        "print(read()['memory_mb'], flush=True)\n"
        "while read()['memory_mb'] == 256: time.sleep(0.05)\n"
        "print(read()['memory_mb'], read()['token_budget'])"
    )
    lease_id = plane.offer({"command": python(code)})
    plane.wait(lambda: plane.printed(lease_id))

    plane.command(kind="resize", lease_id=lease_id, grant={"memory_mb": 512})
    plane.release_of(lease_id)

    assert plane.printed(lease_id) == "256\n512 1000\n"


def test_a_lost_lease_kills_its_whole_tree_and_reports_nothing(plane: Any, agent: Any) -> None:
    runtime = agent()
    mark = uuid.uuid4().hex
    code = (
        "import os, subprocess, sys, time, signal\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen(['sh', '-c', 'sleep 60; true', '{mark}'], start_new_session=True)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    lease_id = plane.offer({"command": python(code)})
    plane.wait(lambda: plane.printed(lease_id))
    assert _running(mark)
    plane.leases[lease_id]["status"] = "lost"

    plane.wait(lambda: not _running(mark))
    plane.wait(lambda: "lease.dropped" in runtime.said())

    plane.wait(lambda: not any((runtime.workdir / "leases").iterdir()))

    assert plane.releases == []


def test_a_daemon_left_behind_does_not_outlive_its_lease(plane: Any, agent: Any) -> None:
    agent()
    mark = uuid.uuid4().hex
    code = (
        "import subprocess\n"
        f"subprocess.Popen(['sh', '-c', 'sleep 60; true', '{mark}'], start_new_session=True)\n"
        "print(1)"
    )

    release = plane.release_of(plane.offer({"command": python(code)}))

    assert release["outcome"] == "success"
    assert not _running(mark)


def test_work_stops_before_a_lease_that_nobody_renews_runs_out(plane: Any, agent: Any) -> None:
    plane.term_s = 4.0
    agent()
    lease_id = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(lease_id))
    plane.mute_heartbeats = True
    last_renewal = time.monotonic()

    release = plane.release_of(lease_id)

    assert time.monotonic() - last_renewal < 4.0
    assert release["outcome"] == "cancelled"
    assert release["retry"] is True
    assert "control plane was away" in release["error"]


def test_work_over_its_limit_ends_as_timeout(plane: Any, agent: Any) -> None:
    agent()

    release = plane.release_of(plane.offer({"command": SLEEP}, hard_end_s=1.0))

    assert release["outcome"] == "timeout"


def test_a_release_survives_the_absence_of_the_control_plane(plane: Any, agent: Any) -> None:
    agent()
    lease_id = plane.offer({"command": python("import time; time.sleep(1); print('done')")})
    plane.wait(lambda: plane.leases[lease_id]["status"] == "active")

    plane.stop()
    time.sleep(2.0)
    plane.start()
    release = plane.release_of(lease_id)

    assert release["outcome"] == "success"
    assert plane.printed(lease_id) == "done\n"


def test_exec_replaces_the_command_of_the_payload(plane: Any, agent: Any, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    script = shared / "wrapper.py"
    script.write_text(
        "import json, os, sys\n"
        "payload = json.load(open(os.environ['AGENTPOOL_PAYLOAD']))\n"
        "print(sys.argv[1], payload['prompt'], payload['lease']['cycle_id'])"
    )
    agent("--exec", f"python {script} $AGENTPOOL_CYCLE", "--expose", str(shared))

    lease_id = plane.offer({"prompt": "do it"})
    plane.release_of(lease_id)

    assert plane.printed(lease_id) == "c1 do it c1\n"


def test_secrets_come_as_private_files(plane: Any, agent: Any, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    (vault / "api.key").write_text("s3cret")
    agent("--secrets-dir", str(vault))
    code = (
        "import os; p = os.environ['AGENTPOOL_SECRET_API_KEY_FILE']\n"
        "print(open(p).read(), oct(os.stat(p).st_mode & 0o777),"
        " oct(os.stat(os.environ['AGENTPOOL_SECRETS']).st_mode & 0o777))"
    )

    lease_id = plane.offer({"command": python(code), "secrets": ["api.key"]})
    plane.release_of(lease_id)

    assert plane.printed(lease_id) == "s3cret 0o600 0o700\n"


def test_a_missing_secret_is_a_fault_that_names_it(plane: Any, agent: Any) -> None:
    agent()

    release = plane.release_of(plane.offer({"command": ["true"], "secrets": ["api.key"]}))

    assert release["outcome"] == "failure"
    assert "'api.key'" in release["error"]
    assert release["result"] == {"exit_code": 78}


def test_a_missing_program_is_a_fault_that_names_it(plane: Any, agent: Any) -> None:
    agent()

    release = plane.release_of(plane.offer({"command": ["no-such-program"]}))

    assert release["outcome"] == "failure"
    assert "no-such-program" in release["error"]
    assert release["result"] == {"exit_code": 78}


def test_a_proxy_is_not_asked_for_this_machine(plane: Any, agent: Any) -> None:
    agent(HTTP_PROXY="http://127.0.0.1:9", http_proxy="http://127.0.0.1:9", NO_PROXY="")

    plane.release_of(plane.offer({"command": ["true"]}))

    assert {"ws:ack", "ws:release"} <= set(plane.ways)


def test_a_message_that_makes_no_sense_stops_nothing(plane: Any, agent: Any) -> None:
    agent("--slots", "2")
    lease_id = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(lease_id))

    plane.push({"push": "command", "command": "nonsense"})
    # With the answer to a heartbeat.
    plane.commands = [{"kind": "resize", "lease_id": lease_id, "grant": {"memory_mb": "lots"}}]
    plane.wait(lambda: not plane.commands)
    seen = len(plane.heartbeats)

    plane.wait(lambda: len(plane.heartbeats) > seen + 2)
    assert plane.release_of(plane.offer({"command": ["true"]}))["outcome"] == "success"


def test_work_happens_in_a_clone_that_can_push(
    plane: Any, agent: Any, repository: Path, git_command: Callable[..., str]
) -> None:
    runtime = agent("--name", "bee")
    script = "echo new > new.txt && git add . && git commit -qm three && git push -q && pwd"

    lease_id = plane.offer(
        {
            "command": ["sh", "-ec", script],
            "workspace": {"git": str(repository), "ref": "story/one"},
            "files": {"extra/plan.md": "plan"},
        }
    )
    release = plane.release_of(lease_id)

    assert release.get("error") is None
    shown = git_command(repository, "log", "-1", "--format=%an %s", "story/one")
    assert shown == "bee three"
    assert git_command(repository, "show", "story/one:extra/plan.md") == "plan"
    plane.wait(lambda: not any((runtime.workdir / "leases").iterdir()))


def test_a_lease_whose_id_is_a_path_is_not_taken(plane: Any, agent: Any, tmp_path: Path) -> None:
    """Its folder is emptied before and removed after the work, with the rights of the runtime."""
    runtime = agent()
    (tmp_path / "others").mkdir()
    way = os.path.relpath(tmp_path / "others", runtime.workdir / "leases")

    plane.offer({"command": ["true"]}, id=way)
    plane.release_of(plane.offer({"command": ["true"]}))

    assert "event=offer.unreadable" in runtime.said()
    assert (tmp_path / "others").is_dir()


def test_files_of_a_payload_lead_no_git_of_the_runtime_elsewhere(
    plane: Any, agent: Any, repository: Path, git_command: Callable[..., str], tmp_path: Path
) -> None:
    """A repository's folder may name another one as its own: git would write the origin there."""
    agent()
    git_command(tmp_path, "init", "--quiet", "other")
    git_command(tmp_path / "other", "remote", "add", "origin", "https://git.example.org/other.git")

    lease_id = plane.offer(
        {
            "command": ["true"],
            "workspace": {"git": str(repository)},
            "files": {".git/commondir": str(tmp_path / "other" / ".git")},
        }
    )

    assert plane.release_of(lease_id)["outcome"] == "success"
    origin = git_command(tmp_path / "other", "remote", "get-url", "origin")
    assert origin == "https://git.example.org/other.git"


def test_a_ref_that_is_not_there_fails_with_its_name(
    plane: Any, agent: Any, repository: Path
) -> None:
    agent()

    release = plane.release_of(
        plane.offer({"command": ["true"], "workspace": {"git": str(repository), "ref": "nope"}})
    )

    assert release["outcome"] == "failure"
    assert "'nope'" in release["error"]


def test_an_offer_that_asks_for_more_isolation_is_handed_back(plane: Any, agent: Any) -> None:
    agent()

    release = plane.release_of(
        plane.offer({"command": ["true"]}, requirements={"isolation_level": "virtual_machine"})
    )

    assert release["retry"] is True
    assert "virtual_machine" in release["error"]


def test_a_runtime_without_bubblewrap_starts_only_when_told_to(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    path = path_without("bwrap", tmp_path / "bin")

    refused = agent(PATH=path, AGENTPOOL_ALLOW_BARE="")
    assert refused.exit_code() == 1
    assert "apt-get install bubblewrap" in refused.said()
    assert plane.registrations == []

    agent("--allow-bare", PATH=path, AGENTPOOL_ALLOW_BARE="")
    lease_id = plane.offer({"command": ["true"]})
    plane.release_of(lease_id)
    assert plane.registrations[0]["isolation_levels"] == ["process"]
    assert plane.security[lease_id][0]["enforcement"]["tier"] == "bare"


@pytest.mark.parametrize(
    ("level", "program"),
    [("container", "podman"), ("virtual_machine", f"qemu-system-{platform.machine()}")],
)
def test_a_level_that_is_not_here_ends_the_start(
    plane: Any, agent: Any, tmp_path: Path, level: str, program: str
) -> None:
    runtime = agent("--isolation", level, PATH=path_without(program, tmp_path / "bin"))

    assert runtime.exit_code() == 1
    assert f"isolation {level}" in runtime.said()
    assert plane.registrations == []


def test_two_slots_work_at_once(plane: Any, agent: Any) -> None:
    agent("--slots", "2")

    both = [plane.offer({"command": SLEEP}) for _ in range(2)]

    plane.wait(lambda: all(plane.printed(each) for each in both))


def test_a_restart_comes_back_as_the_same_agent(plane: Any, agent: Any) -> None:
    first = agent()
    plane.wait(lambda: plane.heartbeats)
    first.signal(signal.SIGKILL)
    first.exit_code()

    agent(AGENTPOOL_ENROLMENT_TOKEN="used up")
    plane.wait(lambda: len(plane.registrations) == 2)

    assert plane.registrations[0]["agent_id"] == plane.registrations[1]["agent_id"]
    plane.wait(lambda: plane.heartbeats[-1]["incarnation"] == 2)


ENVIRONMENTS = 20


@pytest.mark.parametrize("tier", ["bare", "process", "container"])
def test_work_of_a_killed_runtime_is_ended(
    plane: Any, agent: Any, tmp_path: Path, tier: str
) -> None:
    words, variables = ["--slots", str(ENVIRONMENTS)], {}
    if tier == "bare":
        variables = {"PATH": path_without("bwrap", tmp_path / "bin")}
    else:
        needs(tier)
        words += ["--isolation", tier]
    first = agent(*words, **variables)
    mark = uuid.uuid4().hex
    code = (
        "import subprocess, time\n"
        f"subprocess.Popen(['sh', '-c', 'sleep 60; true', '{mark}'], start_new_session=True)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    leases = [plane.offer({"command": python(code)}) for _ in range(ENVIRONMENTS)]
    plane.wait(lambda: all(plane.printed(each) for each in leases), within_s=30)
    assert len(_running(mark)) >= ENVIRONMENTS

    first.signal(signal.SIGKILL)
    first.exit_code()
    agent(*words, **variables)

    plane.wait(lambda: not _running(mark), within_s=10)
    plane.wait(lambda: not any((first.workdir / "leases").glob("*")), within_s=10)
    host = cgroup.host()
    for folder in {*host.parents.values(), *host.top().values()}:
        groups = [found for each in leases for found in folder.glob(f"agentpool/*/{each}")]
        plane.wait(lambda groups=groups: not any(each.exists() for each in groups), within_s=10)


def test_a_runtime_leaves_its_namesake_of_another_control_plane_alone(
    plane: Any, agent: Any, tmp_path: Path
) -> None:
    agent("--name", "bee")
    lease_id = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(lease_id))
    other_plane = Plane()
    other_plane.start()
    namesake = Agent(other_plane, tmp_path / "namesake", "--name", "bee")

    other_plane.wait(lambda: other_plane.heartbeats)
    namesake.signal(signal.SIGTERM)
    assert namesake.exit_code() == 0
    other_plane.stop()
    seen = len(plane.heartbeats)
    plane.wait(lambda: len(plane.heartbeats) > seen + 2)

    assert plane.releases == []


def test_a_newer_incarnation_cuts_the_old_one_off(plane: Any, agent: Any) -> None:
    old = agent()
    plane.wait(lambda: plane.heartbeats)

    plane.incarnation += 1

    assert old.exit_code() == 29
    assert plane.retired == []


def test_the_first_signal_drains(plane: Any, agent: Any) -> None:
    runtime = agent()
    lease_id = plane.offer(
        {"command": python("print('up', flush=True); import time; time.sleep(2)")}
    )
    plane.wait(lambda: plane.printed(lease_id))

    runtime.signal(signal.SIGTERM)
    release = plane.release_of(lease_id)

    assert release["outcome"] == "success"
    assert runtime.exit_code() == 0
    assert any(beat.get("draining") for beat in plane.heartbeats)
    assert plane.retired == ["row-1"]


def test_a_closed_terminal_drains_however_often_it_says_so(plane: Any, agent: Any) -> None:
    runtime = agent()
    lease_id = plane.offer(
        {"command": python("print('up', flush=True); import time; time.sleep(2)")}
    )
    plane.wait(lambda: plane.printed(lease_id))

    runtime.signal(signal.SIGHUP)
    time.sleep(0.3)
    runtime.signal(signal.SIGHUP)
    release = plane.release_of(lease_id)

    assert release["outcome"] == "success"
    assert runtime.exit_code() == 0
    assert plane.retired == ["row-1"]


def test_a_runtime_under_nohup_stays_when_the_terminal_closes(plane: Any, agent: Any) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        runtime = agent()
    finally:
        signal.signal(signal.SIGHUP, before)
    lease_id = plane.offer({"command": python("print('up', flush=True)")})
    plane.release_of(lease_id)

    runtime.signal(signal.SIGHUP)

    assert plane.release_of(plane.offer({"command": ["true"]}))["outcome"] == "success"
    assert not any(beat.get("draining") for beat in plane.heartbeats)


def test_the_second_signal_cancels_and_gives_the_lease_back(plane: Any, agent: Any) -> None:
    runtime = agent()
    lease_id = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(lease_id))

    runtime.signal(signal.SIGTERM)
    time.sleep(0.3)
    runtime.signal(signal.SIGTERM)
    release = plane.release_of(lease_id)

    assert release["outcome"] == "cancelled"
    assert release["retry"] is True
    assert runtime.exit_code() == 0


def test_sigquit_ends_even_work_that_ignores_sigterm(plane: Any, agent: Any) -> None:
    runtime = agent()
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('up', flush=True); time.sleep(60)"
    )
    lease_id = plane.offer({"command": python(code)})
    plane.wait(lambda: plane.printed(lease_id))

    runtime.signal(signal.SIGQUIT)

    assert runtime.exit_code(within_s=4) == 0
    assert plane.release_of(lease_id).get("retry") is True, plane.release_of(lease_id)


def test_an_offer_while_draining_is_handed_back_at_once(plane: Any, agent: Any) -> None:
    runtime = agent("--slots", "2")
    first = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(first))
    runtime.signal(signal.SIGTERM)
    plane.wait(lambda: any(beat.get("draining") for beat in plane.heartbeats))

    release = plane.release_of(plane.offer({"command": ["true"]}), within_s=3)

    assert release["retry"] is True


def test_once_takes_one_lease_and_leaves(plane: Any, agent: Any) -> None:
    runtime = agent("--once")

    release = plane.release_of(plane.offer({"command": ["true"]}))

    assert release["outcome"] == "success"
    assert runtime.exit_code() == 0


def test_once_without_work_says_so_by_its_exit_code(plane: Any, agent: Any) -> None:
    runtime = agent("--once", "--disconnect-after-idle", "0.5")

    assert runtime.exit_code() == 27


def test_stop_ends_the_runtime(plane: Any, agent: Any) -> None:
    runtime = agent()
    lease_id = plane.offer({"command": SLEEP})
    plane.wait(lambda: plane.printed(lease_id))

    plane.command(kind="stop")

    assert plane.release_of(lease_id)["outcome"] == "cancelled"
    assert runtime.exit_code() == 0


def test_the_credential_is_kept_in_a_private_file(plane: Any, agent: Any) -> None:
    runtime = agent()
    plane.wait(lambda: plane.heartbeats)

    state = runtime.workdir / "agent.json"

    assert state.stat().st_mode & 0o777 == 0o600
    assert json.loads(state.read_text())["credential"] == "credential-1"


def test_a_wrong_token_is_told_in_one_line(plane: Any, agent: Any) -> None:
    runtime = agent(AGENTPOOL_ENROLMENT_TOKEN="wrong")

    assert runtime.exit_code() == 1
    assert "no accepted token: enrolment token" in runtime.said()
    assert "Traceback" not in runtime.said()


def test_a_workdir_belongs_to_one_runtime(plane: Any, agent: Any) -> None:
    agent()
    plane.wait(lambda: plane.heartbeats)

    second = agent()

    assert second.exit_code() == 1
    assert "another agent works in" in second.said()


def _running(mark: str) -> list[psutil.Process]:
    """Return the live processes that have a mark among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        is_dead = process.info["status"] == psutil.STATUS_ZOMBIE
        if mark in (process.info["cmdline"] or []) and not is_dead:
            found.append(process)
    return found
