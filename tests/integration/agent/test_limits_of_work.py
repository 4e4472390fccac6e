"""What ends or warns work beyond memory and disk, in each tier: tokens, age, resizing, secrets."""

import os
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentpool.agent import contract, guard
from agentpool.agent.control import Control, Reason
from agentpool.agent.isolation import Means, Spec, cgroup, tier
from agentpool.agent.isolation.policy import policy_of
from balancing.reports import SecurityReport
from tests.integration.agent.tiers import needs

pytestmark = pytest.mark.timeout(60)
BOTH = pytest.mark.parametrize("level", ["process", "container"])
SPENDER = """
import json, os, time
def report(tokens):
    said = {'usage': {'input_tokens': tokens, 'output_tokens': 10}}
    draft = os.environ['AGENTPOOL_PROGRESS'] + '.new'
    json.dump(said, open(draft, 'w'))
    os.replace(draft, os.environ['AGENTPOOL_PROGRESS'])
report(850); time.sleep(2.5); report(1100); time.sleep(30); print('ESCAPED')
"""


@BOTH
def test_work_is_warned_of_its_token_budget_and_ended_at_it(
    plane: Any, agent: Any, level: str
) -> None:
    needs(level)
    agent("--isolation", level)

    lease_id = plane.offer({"command": ["python3", "-c", SPENDER]})
    release = plane.release_of(lease_id, within_s=25)

    assert release["outcome"] == "failure"
    assert "1110 of 1000 tokens" in release["error"]
    assert "860 of 1000 tokens are used" in plane.printed(lease_id, "stderr")
    assert "ESCAPED" not in plane.printed(lease_id, "stdout")
    told = [each for said in plane.security[lease_id] for each in said.get("incidents", [])]
    assert "over_token_budget" in [each["kind"] for each in told]


@BOTH
def test_a_secret_comes_as_a_variable_where_that_is_asked(
    plane: Any, agent: Any, tmp_path: Path, level: str
) -> None:
    needs(level)
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "provider").write_text("s3cret")
    runtime = agent("--isolation", level, "--secrets-dir", str(tmp_path / "vault"))
    code = (
        "import os; print(os.environ['PROVIDER_KEY'])\n"
        "said = [open(f'/proc/{p}/cmdline').read() for p in os.listdir('/proc') if p.isdigit()]\n"
        "print('in argv' if any('s3' + 'cret' in each for each in said) else 'nowhere else')"
    )

    lease_id = plane.offer(
        {"command": ["python3", "-c", code], "secrets": ["provider=PROVIDER_KEY"]}
    )
    plane.release_of(lease_id)

    assert plane.printed(lease_id, "stdout") == "s3cret\nnowhere else\n"
    assert "s3cret" not in runtime.said()


@BOTH
def test_a_larger_grant_holds_in_work_that_runs(plane: Any, agent: Any, level: str) -> None:
    needs(level)
    agent("--isolation", level, "--memory-mb", "2048")
    code = (
        "import json, os, time\n"
        "read = lambda: json.load(open(os.environ['AGENTPOOL_PAYLOAD']))['lease']['grant']\n"
        "print('up', flush=True)\n"
        "while read()['memory_mb'] == 256: time.sleep(0.05)\n"
        "time.sleep(0.5); held = b'x' * (400 * 2**20); time.sleep(0.5); print('held')"
    )
    lease_id = plane.offer({"command": ["python3", "-c", code]})
    plane.wait(lambda: plane.printed(lease_id))

    plane.command(kind="resize", lease_id=lease_id, grant={"memory_mb": 700})
    release = plane.release_of(lease_id, within_s=20)

    assert release["outcome"] == "success", release
    assert plane.printed(lease_id) == "up\nheld\n"


@BOTH
def test_work_can_not_have_its_incidents_refused(plane: Any, agent: Any, level: str) -> None:
    """What the control plane would not take goes with all that is told along with it."""
    needs(level)
    agent("--isolation", level)
    command = ["sh", "-c", r"printf 'a\000b \001 \377\n' >> $AGENTPOOL_REFUSED; curl; true"]

    lease_id = plane.offer({"command": command})
    plane.release_of(lease_id, within_s=25)

    said = plane.security[lease_id]
    told = [each["detail"] for report in said for each in report.get("incidents", [])]
    assert "curl" in told
    for report in said:
        heard = SecurityReport(data=report)
        assert heard.is_valid(), heard.errors


@BOTH
def test_an_environment_that_is_too_old_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: str
) -> None:
    needs(level)
    monkeypatch.setattr(guard, "LONGEST_LIFE_S", 1.0)
    folder = contract.Folder(root=tmp_path / "lease")
    folder.make()
    (folder.root / "work").mkdir()
    policy = policy_of(profile={}, grant={"memory_mb": 200})
    spec = Spec(
        lease_id=uuid.uuid4().hex,
        runtime=f"aged-{uuid.uuid4().hex[:8]}",
        folder=folder.root,
        place=folder.root / "work",
        policy=replace(policy, pids=64),
        means=Means(cache=tmp_path / "cache"),
    )
    environment, control, told = tier(level).create(spec), Control(), list[Any]()
    environment.run(command=["sleep", "60"], env={}, cwd=spec.place)
    watcher = guard.Guard(
        environment=environment,
        folder=folder,
        control=control,
        policy=lambda: policy,
        report=lambda held, incidents: told.extend(incidents),
        warn=lambda text: None,
        is_void=threading.Event().is_set,
    )
    try:
        watcher.look()
        was_left_alone = control.reason() is None
        time.sleep(1.2)
        watcher.look()
    finally:
        environment.destroy()
        watcher.finish()
        tier(level).remove_left(spec.runtime)

    assert was_left_alone
    assert control.reason() is Reason.LIMIT
    assert "timed_out" in [each["kind"] for each in told]


HOLDER = """
import sys, time
held = bytearray(300 * 2**20)
print('up', flush=True)
time.sleep(6)
print('done')
"""


@BOTH
def test_a_smaller_grant_is_acknowledged_and_one_that_would_kill_is_refused(
    plane: Any, agent: Any, level: str
) -> None:
    needs(level)
    agent("--isolation", level, "--memory-mb", "2048")
    lease_id = plane.offer(
        {"command": ["python3", "-c", HOLDER]}, grant={"memory_mb": 900, "cpu_cores": 1}
    )
    plane.wait(lambda: plane.printed(lease_id))
    time.sleep(2.5)  # a control group's count of memory may be two seconds old

    plane.command(kind="resize", lease_id=lease_id, grant={"memory_mb": 200})
    plane.wait(lambda: len(limits_told(plane, lease_id)) == 2)
    plane.command(kind="resize", lease_id=lease_id, grant={"memory_mb": 500})
    plane.wait(lambda: len(limits_told(plane, lease_id)) == 3)

    assert limits_told(plane, lease_id) == [900, 900, 500]
    release = plane.release_of(lease_id, within_s=20)
    assert release["outcome"] == "success", release


def limits_told(plane: Any, lease_id: str) -> list[int]:
    told = [
        said["enforcement"] for said in plane.security.get(lease_id, []) if "enforcement" in said
    ]
    return [each["policy"]["memory_mb"] for each in told if each]


def test_what_the_work_says_of_refused_tools_costs_the_runtime_little(tmp_path: Path) -> None:
    """It is read again and again, by a thread that is not in the group of the lease."""
    needs("process")
    folder = contract.Folder(root=tmp_path / "lease")
    folder.make()
    spec = Spec(
        lease_id=uuid.uuid4().hex,
        runtime=f"told-{uuid.uuid4().hex[:8]}",
        folder=folder.root,
        place=folder.root / "work",
        policy=policy_of(profile={}, grant={}),
        means=Means(cache=tmp_path / "cache"),
    )
    environment = tier("process").create(spec)
    folder.refused.write_text("curl\n" + " ".join(f"{n:x}" for n in range(60_000)))
    try:
        began = time.process_time()
        found = [each for _ in range(20) for each in environment.incidents()]

        assert time.process_time() - began < 0.5
        assert found[0].detail == "curl"
    finally:
        environment.destroy()


# In a group of the machine's that has one processor, as a container with --cpus 1 is.
IN_A_NARROW_GROUP = """
import pathlib, sys
from agentpool.agent.isolation import cgroup
above = pathlib.Path("/sys/fs/cgroup/cpu") / sys.argv[1]
above.mkdir()
(above / "cpu.cfs_quota_us").write_text("100000")
(above / "cgroup.procs").write_text("0")
group = cgroup.Group(runtime=sys.argv[1], lease_id="lease")
try:
    group.make(memory_mb=100, cpu_cores=2, pids=10)
    group.resize(memory_mb=100, cpu_cores=0.5)
    print((above / "agentpool" / sys.argv[1] / "lease" / "cpu.cfs_quota_us").read_text())
finally:
    group.remove()
    (above / "agentpool").rmdir()
    (above.parent / "cgroup.procs").write_text("0")
    above.rmdir()
"""


def test_more_processors_than_the_group_above_has_are_no_fault_of_the_lease() -> None:
    if not cgroup.host().works or cgroup.host().version != 1:
        pytest.skip("only version 1 refuses a group more than the one above it has")
    words = [sys.executable, "-c", IN_A_NARROW_GROUP, f"narrow-{os.getpid()}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)

    assert done.stdout.strip() == "50000", done.stderr
