"""Hostile work in each tier, as root and as an ordinary user: everything is refused."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from agentpool.agent.isolation import cgroup
from tests.integration.agent import attacks
from tests.integration.agent.tiers import needs

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 65533
pytestmark = pytest.mark.timeout(120)
HARMLESS = "(no attack) reach a host that is on the list"


@pytest.fixture(
    scope="module",
    params=[
        ("process", "the user of the tests"),
        ("process", "another user"),
        ("container", "the user of the tests"),
    ],
    ids=lambda each: f"{each[0]}, {each[1]}",
)
def outcome(request: pytest.FixtureRequest) -> Any:
    """Run all attacks on a tier, as whoever runs the tests or (as root only) an ordinary user."""
    level, who = request.param
    return _attacked(level, who)


@pytest.mark.parametrize("name", [name for name in attacks.ATTACKS if name != HARMLESS])
def test_an_attack_gets_nowhere(outcome: Any, name: str) -> None:
    _judge(outcome, name)
    assert not Path("oom").exists()  # what an engine's monitor leaves where its starter stood


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(560)
@pytest.mark.parametrize("who", ["the user of the tests", "another user"])
def test_no_attack_gets_out_of_a_virtual_machine(who: str) -> None:
    """All in one test: machines start slowly, and two test processes would start them twice."""
    # For an ordinary user those that differ by who the runtime is.
    groups = () if who == "the user of the tests" else ("peaceful", "odd")
    outcome = _attacked("virtual_machine", who, *groups)

    assert len(outcome["attacks"]) == len(attacks.of_groups(groups))
    for name in outcome["attacks"]:
        if name != HARMLESS:
            _judge(outcome, name)
    test_what_is_allowed_works(outcome)


def test_what_is_allowed_works(outcome: Any) -> None:
    found = outcome["attacks"][HARMLESS]

    assert found["printed"] == "REACHED\n", found
    assert found["notes"] == []


def test_an_ordinary_user_is_told_that_containers_are_not_for_it() -> None:
    words, env = _as_nobody()
    code = "from agentpool.agent.isolation import engine; print(engine.fails())"

    done = subprocess.run(
        [*words, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )

    assert "root" in done.stdout


def _attacked(level: str, who: str, *groups: str) -> Any:
    """Run the attacks on a tier; return what happened."""
    needs(level)
    words, env = [sys.executable], {**os.environ}
    if who == "another user":
        words, env = _as_nobody()
    done = subprocess.run(
        [*words, "-m", "tests.integration.agent.attacks", level, *groups],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        timeout=540 if level == "virtual_machine" else 100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _judge(outcome: Any, name: str) -> None:
    """Fail where an attack got somewhere, or was not noted as it should be."""
    found, attack = outcome["attacks"][name], attacks.ATTACKS[name]
    assert "ESCAPED" not in found["printed"], found
    assert "Traceback" not in found["complained"] + found["printed"], found
    assert found["left"] == [], found
    is_counted = _has_groups(outcome["uid"]) or outcome["level"] == "virtual_machine"
    if attack.notes and (name != "fork bomb" or is_counted):
        told = [each for each in found["notes"] if each.startswith(f"{attack.notes} ")]
        assert any(attack.about in each for each in told), found


def _has_groups(uid: int) -> bool:
    """Whether the kernel counts the refused forks: without a control group nobody does."""
    return uid == os.geteuid() and cgroup.host().works


def _as_nobody() -> tuple[list[str], dict[str, str]]:
    """Return how to run Python as an ordinary user, who must be able to reach it and this code."""
    if os.geteuid() != 0:
        pytest.skip("only root may start a process as another user")
    ids = ["--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    places = os.pathsep.join([str(ROOT), sysconfig.get_path("purelib")])
    env = {**os.environ, "PYTHONPATH": places, "PATH": "/usr/bin:/bin"}
    env |= {"HOME": "/", "PYTHONDONTWRITEBYTECODE": "1"}
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    others = filter(None, (shutil.which(name, path=p) for p in ("/usr/local/bin", "/usr/bin")))
    for python in (str(Path(sys.executable).resolve()), *others):
        # By way of env: setpriv itself still has the rights of root.
        words = ["setpriv", *ids, "env", python]
        tried = subprocess.run(
            [*words, "-c", "import tests, psutil"], env=env, cwd="/", check=False
        )
        if tried.returncode == 0:
            return words, env
    pytest.skip(f"every {name} here, or {ROOT}, is closed to other users")
