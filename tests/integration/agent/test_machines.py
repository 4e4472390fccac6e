"""Virtual machines: their work, their limits, how they end, and what a killed runtime leaves."""

import concurrent.futures
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from agentpool.agent import contract
from agentpool.agent.isolation import Exit, Means, Spec, cgroup, qemu, vm
from agentpool.agent.isolation.policy import policy_of
from tests.integration.agent.tiers import little_system, needs

ROOT = Path(__file__).resolve().parents[3]
PROFILE = {
    "allowed_tools": ["read", "git", "test_execution"],
    "network_access": "none",
    "file_access": "read_write_source",
}
GRANT = {"memory_mb": 160, "cpu_cores": 1, "disk_space_mb": 30, "network": "full"}
pytestmark = [pytest.mark.timeout(240), pytest.mark.slow]
# An emulated processor beside other tests.
SLOW_S = 100.0


@pytest.fixture
def runtime() -> Iterator[str]:
    needs("virtual_machine")
    name = f"machine-{uuid.uuid4().hex[:8]}"
    yield name
    vm.remove_left(name)


def spec_of(folder: Path, runtime: str, **changes: object) -> Spec:
    lease = contract.Folder(root=folder / f"lease-{uuid.uuid4().hex[:6]}")
    lease.make()
    place = lease.root / "work"
    place.mkdir()
    return Spec(
        lease_id=uuid.uuid4().hex,
        runtime=runtime,
        folder=lease.root,
        place=place,
        policy=policy_of(profile={**PROFILE, **changes}, grant=GRANT),
        # Of all tests: what a machine starts from is made once.
        means=Means(cache=Path(os.environ.get("TMPDIR", "/tmp")) / "agentpool-test-machines"),
    )


def ended(environment: vm.Machine) -> Exit:
    until = time.monotonic() + SLOW_S
    while (found := environment.poll()) is None:
        assert time.monotonic() < until, "it did not end in time"
        time.sleep(0.01)
    return found


def all_of(number: int) -> str:
    with os.fdopen(os.dup(number), "rb") as file:
        return file.read().decode()


def test_work_prints_writes_and_ends_in_a_machine(tmp_path: Path, runtime: str) -> None:
    made = vm.create(spec_of(tmp_path, runtime))
    code = (
        "uname -r; head -c 300000 /dev/zero | tr '\\0' o; head -c 70000 /dev/zero | tr '\\0' e >&2;"
        "git init -q . && echo 1 >a && git add a;"
        "git -c user.name=a -c user.email=b commit -qm x;"
        "python3 -c 'import socket; socket.create_connection((\"10.0.2.2\", 80), 2)'; exit 7"
    )

    out, err = made.run(command=["sh", "-c", code], env={"HOME": "/tmp"}, cwd=made._spec.place)
    with concurrent.futures.ThreadPoolExecutor() as readers:
        printed, complained = readers.map(all_of, (out, err))
    found, notes = ended(made), [(each.kind, each.detail) for each in made.incidents()]
    made.destroy()

    assert found.code == 7, complained[-2000:]
    assert found.cpu_seconds > 0
    assert printed.split("\n")[0] != os.uname().release
    assert printed.count("o") >= 300_000
    assert complained.count("e") >= 70_000
    assert "unreachable" in complained[-500:]
    assert ("denied_network", "10.0.2.2 port 80") in notes
    assert (made._spec.place / ".git" / "refs" / "heads").is_dir()
    # Not by root: by the lease's own user, who alone may be on this machine.
    owner = (made._spec.place / "a").stat().st_uid
    assert owner >= 2_000_000 if os.geteuid() == 0 else owner == os.getuid()


def test_it_is_measured_resized_and_asked_to_end(tmp_path: Path, runtime: str) -> None:
    made = vm.create(spec_of(tmp_path, runtime))
    code = (
        "import signal, sys, time; held = b'x' * (60 * 2**20)\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9)); print('up', flush=True)\n"
        "time.sleep(200)"
    )

    out, _ = made.run(command=["python3", "-c", code], env={}, cwd=made._spec.place)
    assert os.read(out, 3) == b"up\n"
    can_more = made.resize(replace(made._policy, memory_mb=300))
    can_less = made.resize(replace(made._policy, memory_mb=120))
    until = time.monotonic() + SLOW_S
    while made.measure().memory_mb < 60 and time.monotonic() < until:
        time.sleep(0.1)
    used = made.measure()
    made.terminate()
    found = ended(made)
    made.destroy()

    assert not can_more
    assert can_less
    assert 60 <= used.memory_mb < 120
    assert used.cpu_seconds > 0
    assert found.code == 9
    assert found.peak_memory_mb >= 60


OVERCOME = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def tell(attempt):
    try:
        print('ESCAPED', attempt())
    except OSError as error:
        print(error.strerror)
assert os.getuid() == 0 and os.listdir('/proc/1/fd'), 'this is no root'
os.makedirs('/run/again')
assert libc.mount(b'/', b'/run/again', None, 4096, None) == 0  # what is below our own mounts
for place in (b'/', b'/lease', b'/lease/in', b'/lease/work', b'/usr/bin'):
    libc.mount(None, place, None, 32, None)  # read-write again
for path in ('/lease/in/payload.json', '/lease/work/a.py', '/usr/bin/new', '/etc/passwd', '/new',
             '/lease/in/new', '/lease/work/new', '/lease/new'):
    tell(lambda: open(path, 'a').write('x'))
for path in ('/run/again/proc', '/run/again/dev', '/run/again/run'):
    if os.listdir(path):
        print('ESCAPED', path, os.listdir(path))
print('parts', sorted(os.listdir('/lease')))
tell(lambda: os.mknod('/lease/out/device', 0o20666, os.makedev(10, 232)))
open('/lease/out/mine', 'w').write('x') if not os.path.exists('/lease/out/mine') else None
"""


def test_a_guest_that_was_overcome_meets_the_walls_around_it(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work that is root in its guest, with every right and no filter, as after a kernel's hole."""
    told = vm.Machine._told
    root = {"uid": 0, "filter": b""}
    monkeypatch.setattr(vm.Machine, "_told", lambda *words: {**told(*words), **root})
    spec = spec_of(tmp_path, runtime, file_access="read_only")
    (spec.place / "a.py").write_text("x = 1\n")
    (spec.folder / "in" / "payload.json").write_text("{}")
    made = vm.create(spec)
    before = sorted(path for path in spec.folder.rglob("*"))

    out, err = made.run(command=["python3", "-c", OVERCOME], env={}, cwd=spec.place)
    printed, complained = all_of(out), all_of(err)
    ended(made)
    made.destroy()

    assert "ESCAPED" not in printed, printed
    # Root of the guest is nobody out here: not even what the work may write is its own.
    assert "PermissionError" in complained, complained
    assert "Read-only file system" in printed
    assert "parts ['home', 'in', 'out', 'refusals', 'tmp', 'work']" in printed
    assert (spec.place / "a.py").read_text() == "x = 1\n"
    assert not [p for p in spec.folder.rglob("*") if p not in before and p.parent.name == "in"]
    assert not (spec.folder / "out" / "device").exists()


def test_groups_of_version_2_hold_where_a_kernel_has_them(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = vm.Machine._told
    # Root of the guest, for nobody else may mount them.
    root = {"uid": 0, "filter": b""}
    monkeypatch.setattr(vm.Machine, "_told", lambda *words: {**told(*words), **root})
    spec = spec_of(tmp_path, runtime)
    made = vm.create(replace(spec, means=replace(spec.means, exposed=(ROOT,))))

    command = ["python3", "-B", "-m", "tests.integration.agent.groups_in_a_guest"]
    out, err = made.run(command=command, env={"PYTHONPATH": str(ROOT)}, cwd=made._spec.place)
    printed, complained = all_of(out), all_of(err)
    ended(made)
    made.destroy()

    assert printed.splitlines()[0] == "beside another True /run/groups", complained
    assert "alone True /run/groups/work" in printed, printed
    assert "moved 0::/work/agentpool-runtime" in printed
    assert "short of pids True" in printed
    assert "cpu True" in printed, printed
    assert 0 < printed.find("was killed False") < printed.find("killed -9"), printed
    assert "was killed True" in printed
    assert printed.endswith("left []\n")


def test_a_machine_that_cannot_start_says_why(
    tmp_path: Path, runtime: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qemu, "_told_kernel", lambda *_: "console=ttyS0 panic=-1 rdinit=/nothing")
    made = vm.create(spec_of(tmp_path, runtime))

    _, err = made.run(command=["sh", "-c", "true"], env={}, cwd=made._spec.place)
    complained, found = all_of(err), ended(made)
    made.destroy()

    assert found.code == 125
    assert "the virtual machine has ended" in complained
    assert "anic" in complained


def test_work_runs_in_an_image_and_is_told_of_refused_tools(tmp_path: Path, runtime: str) -> None:
    if not (make := shutil.which("mkfs.ext4", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")):
        why = "mkfs.ext4 is not here: apt-get install e2fsprogs"
        pytest.fail(why) if os.environ.get("CI") == "true" else pytest.skip(why)
    root, disk = tmp_path / "root", tmp_path / "disk"
    for name, real in little_system().items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(real, root / name)
    (root / "etc").mkdir()
    (root / "etc" / "resolv.conf").write_text("nameserver 192.0.2.1\n")
    subprocess.run([make, "-q", "-d", str(root), str(disk), "24M"], check=True)
    spec = spec_of(tmp_path, runtime)
    made = vm.create(replace(spec, means=replace(spec.means, disk=disk)))
    code = (
        "id -u; echo here >made; git status; echo $?; cat /etc/resolv.conf; echo 1 >/mine; exit 7"
    )

    env = {"AGENTPOOL_REFUSED": str(contract.Folder(root=Path("/lease")).refused)}
    out, err = made.run(command=["sh", "-c", code], env=env, cwd=made._spec.place)
    printed, complained, found = all_of(out), all_of(err), ended(made)
    incidents = [(each.kind, each.detail) for each in made.incidents()]
    made.destroy()

    assert found.code == 7, complained
    assert printed.split()[1:] == ["127"]  # git is allowed, and the image has none
    assert "/mine" in complained
    assert ("denied_write", "/mine") in incidents
    assert (made._spec.place / "made").read_text() == "here\n"
    assert "tools" in made.enforcement.declared


def test_a_machine_with_the_whole_network_reaches_this_one(tmp_path: Path, runtime: str) -> None:
    made = vm.create(spec_of(tmp_path, runtime, network_access="full"))
    code = (
        "import socket, sys; door = socket.create_connection(('10.0.2.2', int(sys.argv[1])), 20)\n"
        "print(door.recv(9).decode(), open('/etc/resolv.conf').read())"
    )
    import socket

    with socket.create_server(("127.0.0.1", 0)) as door:
        port = str(door.getsockname()[1])
        out, _ = made.run(command=["python3", "-c", code, port], env={}, cwd=made._spec.place)
        door.settimeout(SLOW_S)
        near, _ = door.accept()
        with near:
            near.sendall(b"hello")
        printed = all_of(out)
    ended(made)
    made.destroy()

    assert printed == "hello nameserver 10.0.2.3\n\n"
    assert "network" in made.enforcement.declared


def test_secrets_and_results_go_through_the_runtime(plane: Any, agent: Any, tmp_path: Path) -> None:
    needs("virtual_machine")
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "provider").write_text("s3cret")
    runtime = agent("--isolation", "virtual_machine", "--secrets-dir", str(tmp_path / "vault"))
    code = (
        "import json, os; print(os.environ['PROVIDER_KEY'])\n"
        "print(open(os.environ['AGENTPOOL_SECRETS'] + '/provider').read())\n"
        "json.dump({'summary': 'done'}, open(os.environ['AGENTPOOL_RESULT'], 'w'))"
    )

    lease_id = plane.offer(
        {"command": ["python3", "-c", code], "secrets": ["provider=PROVIDER_KEY"]}
    )
    release = plane.release_of(lease_id, within_s=SLOW_S)

    assert release["outcome"] == "success", release
    assert release["result"]["summary"] == "done"
    assert plane.printed(lease_id, "stdout") == "s3cret\ns3cret\n"
    assert "s3cret" not in runtime.said()
    held = [each["enforcement"] for each in plane.security[lease_id] if each.get("enforcement")]
    assert held[0]["tier"] == "virtual_machine"
    assert {"memory", "files", "cpu", "syscalls"} <= set(held[0]["enforced"])


@pytest.mark.kill
def test_nothing_is_left_of_a_killed_runtime_with_machines(tmp_path: Path, runtime: str) -> None:
    program = f"""
import os, sys, threading, time
from pathlib import Path
from agentpool.agent.isolation import vm
from tests.integration.agent.test_machines import spec_of
made = [vm.create(spec_of(Path({str(tmp_path)!r}), {runtime!r})) for _ in range(3)]
outs = [each.run(command=["sh", "-c", "echo up; sleep 300"], env={{}}, cwd=each._spec.place)[0]
        for each in made]
assert [os.read(out, 3) for out in outs] == [b"up\\n"] * 3
print("up", flush=True)
time.sleep(300)
"""
    doomed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert doomed.stdout is not None
    assert doomed.stdout.readline() == b"up\n"
    were = _machines_of(runtime)
    doomed.kill()
    doomed.wait()
    doomed.stdout.close()

    until = time.monotonic() + 10
    vm.remove_left(runtime)
    while _machines_of(runtime):
        assert time.monotonic() < until, "machines are still there"
        time.sleep(0.1)
    assert len(were) >= 3
    for parent in cgroup.host().parents.values():
        assert not (parent / "agentpool" / runtime).exists()


def _machines_of(runtime: str) -> list[int]:
    """Return the sandboxes of an agent's machines, and what is in them."""
    found = []
    for each in psutil.process_iter(["cmdline"]):
        try:
            if each.environ().get("AGENTPOOL_RUNTIME") == runtime:
                found += [each.pid, *(child.pid for child in each.children(recursive=True))]
        except psutil.Error:
            continue
    return found
