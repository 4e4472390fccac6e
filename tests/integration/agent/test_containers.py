"""Containers with an image, their output, their end, and what a killed runtime leaves."""

import concurrent.futures
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker
import pytest

from agentpool.agent import contract
from agentpool.agent.isolation import Exit, Means, Spec, container, engine
from agentpool.agent.isolation.policy import policy_of
from tests.integration.agent.tiers import little_system, needs

ROOT = Path(__file__).resolve().parents[3]
PROFILE = {"allowed_tools": ["read"], "network_access": "none", "file_access": "read_write_source"}
GRANT = {"memory_mb": 200, "cpu_cores": 1, "disk_space_mb": 20, "network": "none"}
pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module")
def image() -> Iterator[str]:
    """An image of our own with next to nothing in it: a shell, and what it needs."""
    needs("container")
    name = f"localhost/agentpool-test-{os.getpid()}:latest"
    found = little_system()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for inside, real in found.items():
            tar.add(real, inside, recursive=False)
    words = ["podman", "import", "--quiet", "--change", "ENV PATH=/bin", "-", name]
    done = subprocess.run(words, input=packed.getvalue(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    yield name
    subprocess.run(["podman", "rmi", "--force", name], capture_output=True, check=True)


@pytest.fixture
def runtime() -> Iterator[str]:
    name = f"contained-{uuid.uuid4().hex[:8]}"
    yield name
    container.remove_left(name)


def spec_of(tmp_path: Path, runtime: str, *, image: str = "", **changes: object) -> Spec:
    folder = contract.Folder(root=tmp_path / "lease")
    folder.make()
    place = folder.root / "work"
    place.mkdir()
    policy = policy_of(profile={**PROFILE, **changes}, grant=GRANT)
    return Spec(
        lease_id=uuid.uuid4().hex,
        runtime=runtime,
        folder=folder.root,
        place=place,
        policy=policy,
        means=Means(cache=tmp_path / "cache", image=image),
    )


def ended(environment: container.Container, within_s: float = 30.0) -> Exit:
    until = time.monotonic() + within_s
    while (found := environment.poll()) is None:
        assert time.monotonic() < until, "it did not end in time"
        time.sleep(0.01)
    return found


def all_of(number: int) -> str:
    with os.fdopen(os.dup(number), "rb") as file:
        return file.read().decode()


def test_work_runs_in_an_image_and_is_told_of_refused_tools(
    image: str, tmp_path: Path, runtime: str
) -> None:
    made = container.create(spec_of(tmp_path, runtime, image=image))
    code = "id -u; echo here >made; git status; echo $?; cat /etc/resolv.conf; exit 7"

    env = {"AGENTPOOL_REFUSED": str(contract.Folder(root=Path("/lease")).refused)}
    out, err = made.run(command=["sh", "-c", code], env=env, cwd=made._spec.place)
    found, printed, complained = ended(made), all_of(out), all_of(err)
    incidents = made.incidents()
    made.destroy()

    assert found.code == 7
    uid, refused = printed.split()
    assert int(uid) >= 2_000_000
    assert refused == "126"
    assert "not in the security profile" in complained
    assert ("tool_refused", "git") in [(each.kind, each.detail) for each in incidents]
    assert (tmp_path / "lease" / "work" / "made").read_text() == "here\n"
    assert "tools" in made.enforcement.declared
    assert "files" in made.enforcement.enforced


class Hasty:
    """The engine, whose first look at a container finds that its process has just ended."""

    def __init__(self, engine: Any) -> None:
        self._engine, self.looks = engine, 0

    def inspect_container(self, name: str) -> Any:
        self.looks += 1
        if self.looks == 1:
            said = "read /proc/1/cgroup: no such process"
            raise docker.errors.APIError("500", explanation=said)
        return self._engine.inspect_container(name)


def test_work_that_ends_while_it_is_looked_at_has_its_own_code(
    image: str, tmp_path: Path, runtime: str
) -> None:
    made = container.create(spec_of(tmp_path, runtime, image=image))
    made.run(command=["sh", "-c", "exit 7"], env={}, cwd=made._spec.place)
    assert made._client is not None
    hasty = Hasty(made._client)

    assert made._code(hasty) == 7  # type: ignore[arg-type]
    assert hasty.looks >= 2
    assert ended(made).code == 7
    made.destroy()


def test_an_image_that_is_not_here_is_named_with_what_fetches_it() -> None:
    needs("container")

    why = container.missing(Means(cache=Path(os.devnull), image="localhost/there-is-none:1"))

    assert "podman pull localhost/there-is-none:1" in why


def test_a_program_that_is_not_in_the_image_is_told(
    image: str, tmp_path: Path, runtime: str
) -> None:
    made = container.create(spec_of(tmp_path, runtime, image=image))

    _, err = made.run(command=["nosuch"], env={}, cwd=made._spec.place)
    found, complained = ended(made), all_of(err)
    made.destroy()

    assert found.code != 0
    assert "No such file" in complained


def test_much_output_of_both_kinds_arrives_whole(tmp_path: Path, runtime: str) -> None:
    needs("container")
    made = container.create(spec_of(tmp_path, runtime, allowed_tools=["read", "test_execution"]))
    code = "import sys; sys.stdout.write('o' * 300_000); sys.stderr.write('e' * 70_000)"

    out, err = made.run(command=["python3", "-c", code], env={}, cwd=made._spec.place)
    with concurrent.futures.ThreadPoolExecutor() as readers:
        printed, complained = readers.map(all_of, (out, err))
    found = ended(made)
    made.destroy()

    assert (len(printed), len(complained), found.code) == (300_000, 70_000, 0)
    assert found.cpu_seconds > 0


def test_it_is_resized_measured_and_killed(tmp_path: Path, runtime: str) -> None:
    needs("container")
    made = container.create(spec_of(tmp_path, runtime, allowed_tools=["read", "test_execution"]))
    code = "import time; held = b'x' * (60 * 2**20); print('up', flush=True); time.sleep(60)"

    out, _ = made.run(command=["python3", "-c", code], env={}, cwd=made._spec.place)
    assert os.read(out, 3) == b"up\n"
    is_larger = made.resize(replace(made._policy, memory_mb=300))
    is_too_small = made.resize(replace(made._policy, memory_mb=20))
    until = time.monotonic() + 10  # the kernel sums it up every other second
    while (used := made.measure().memory_mb) < 60 and time.monotonic() < until:
        time.sleep(0.1)
    made.kill()
    found = ended(made)
    made.destroy()

    assert is_larger
    assert not is_too_small
    assert used >= 60
    assert found.code == -signal.SIGKILL


def test_a_container_is_removed_also_when_the_sockets_beside_it_are_gone(
    image: str, runtime: str
) -> None:
    """As after a loss of power: /run is empty, the container with its secrets is still there."""
    words = ["podman", "create", "--label", f"{engine.LABEL}={runtime}", image, "/bin/id"]
    made = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    assert container.remove_left(runtime) == 1
    assert subprocess.run(["podman", "container", "exists", made], check=False).returncode == 1


def test_the_keeper_removes_the_container_of_a_killed_runtime(tmp_path: Path, runtime: str) -> None:
    needs("container")
    program = f"""
import time
from pathlib import Path
from typing import Any
from agentpool.agent.isolation import container
from tests.integration.agent.test_containers import spec_of
made = container.create(spec_of(Path({str(tmp_path)!r}), {runtime!r}))
made.run(command=["sleep", "60"], env={{}}, cwd=made._spec.place)
print(made._pid, flush=True)
time.sleep(60)
"""
    doomed = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert doomed.stdout is not None
    pid = int(doomed.stdout.readline())
    doomed.kill()
    doomed.wait()
    doomed.stdout.close()

    until = time.monotonic() + 10
    words = ["podman", "ps", "--all", "--quiet", "--filter", f"label=agentpool.agent={runtime}"]
    while subprocess.run(words, capture_output=True, check=True).stdout or _lives(pid):
        assert time.monotonic() < until, "the container is still there"
        time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
