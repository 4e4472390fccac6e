"""
What every driver must do, as tests that any driver can run, those of others, too.

    class TestNomad(DriverKit):
        @pytest.fixture
        def driver(self):
            return NomadDriver()

The runtimes are real ones; the control plane that they are told of is not there, so they wait for
it. A driver whose runtimes live on another machine overrides `root` with a folder there.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest

from scaling.drivers.base import Driver, DriverError, Handle, Spec

Start = Callable[[Spec], Handle]


class DriverKit:
    """The contract of `scaling.drivers.base.Driver`; subclass it and give a fixture `driver`."""

    # Within how many seconds what was asked of a driver must be seen.
    within_s = 20.0

    @pytest.fixture
    def another(self, driver: Driver) -> Driver:
        """The same driver as another process has it: it knows nothing that the first remembers."""
        return type(driver)()

    @pytest.fixture
    def root(self, tmp_path: object) -> str:
        """The folder below which runtimes keep their files."""
        return str(tmp_path)

    @pytest.fixture
    def spec(self, root: str) -> Spec:
        """A small runtime."""
        return Spec(
            launch_id=f"kit-{time.monotonic_ns()}",
            agent_id=f"kit-{time.monotonic_ns()}",
            agent_type="code",
            slots=1,
            exec="",
            root=root,
            env={"AGENTPOOL_URL": "http://127.0.0.1:9", "AGENTPOOL_ENROLMENT_TOKEN": "ap_none"},
            offers={"cpu_cores": 0.1, "memory_mb": 64},
        )

    @pytest.fixture
    def impossible(self, spec: Spec) -> Spec | None:
        """A runtime that can't be started; None: this driver starts anything."""
        return None

    @pytest.fixture
    def start(self, driver: Driver) -> Iterator[Start]:
        """Start runtimes that are gone after the test."""
        started: list[Handle] = []

        def go(spec: Spec) -> Handle:
            started.append(driver.start(spec))
            return started[-1]

        yield go
        for handle in started:
            driver.kill(handle)
            self.eventually(partial(_is_over, driver, handle))
            driver.clean(handle)

    def eventually(self, is_so: Callable[[], bool]) -> None:
        """Wait until something is so; fails when it is not within `within_s`."""
        deadline = time.monotonic() + self.within_s
        while not is_so():
            assert time.monotonic() < deadline, f"not within {self.within_s:g} s"
            time.sleep(0.1)

    def test_a_started_runtime_lives_and_its_handle_is_json(
        self, driver: Driver, start: Start, spec: Spec
    ) -> None:
        """It lives as soon as it was started, and its handle can be stored."""
        handle = start(spec)

        stored = json.loads(json.dumps(handle))
        assert stored == handle
        assert driver.reaches(stored)
        assert driver.is_alive(stored)

    def test_a_start_that_was_never_stored_is_found_by_its_launch(
        self, another: Driver, start: Start, spec: Spec
    ) -> None:
        """A job worker that died right after the start has left a runtime: it is adopted."""
        handle = start(spec)

        found = another.find(spec.launch_id)

        assert found is not None
        assert another.is_alive(found)
        another.kill(found)
        self.eventually(lambda: not another.is_alive(handle))

    def test_an_unknown_launch_is_not_found(self, driver: Driver, start: Start, spec: Spec) -> None:
        """Nobody's launch is not found among others."""
        start(spec)

        assert driver.find("of-nobody") is None

    def test_a_runtime_that_is_stopped_ends_by_itself(
        self, driver: Driver, start: Start, spec: Spec
    ) -> None:
        """Stop is a wish that it follows; all may be repeated."""
        handle = start(spec)

        driver.stop(handle, urgent=True)
        self.eventually(lambda: not driver.is_alive(handle))

        driver.stop(handle, urgent=True)
        driver.clean(handle)
        driver.clean(handle)

    def test_a_runtime_that_is_killed_is_gone_and_may_be_killed_again(
        self, driver: Driver, start: Start, spec: Spec
    ) -> None:
        """Kill ends it at once; all may be repeated."""
        handle = start(spec)

        driver.kill(handle)
        self.eventually(lambda: not driver.is_alive(handle))

        driver.kill(handle)
        driver.clean(handle)
        assert driver.find(spec.launch_id) is None

    def test_an_ended_runtime_is_not_confused_with_the_next(
        self, driver: Driver, start: Start, spec: Spec
    ) -> None:
        """An agent's next runtime does not make the handle of its last one live again."""
        first = start(spec)
        driver.kill(first)
        self.eventually(lambda: not driver.is_alive(first))

        second = start(replace(spec, launch_id=f"{spec.launch_id}-again"))

        assert driver.is_alive(second)
        assert not driver.is_alive(first)

    def test_what_cannot_be_started_says_why_and_leaves_nothing(
        self, driver: Driver, impossible: Spec | None
    ) -> None:
        """A start that fails says why in words, and leaves nothing to be found."""
        if impossible is None:
            pytest.skip("this driver starts anything")

        with pytest.raises(DriverError, match=r"\w+ \w+ \w+"):
            driver.start(impossible)

        assert driver.find(impossible.launch_id) is None


def _is_over(driver: Driver, handle: Handle) -> bool:
    return not driver.is_alive(handle)
