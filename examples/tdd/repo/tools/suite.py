"""The test suite, run in this process: is it green, or red for the right reason; its coverage."""

import importlib
import io
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from contract import TryElsewhere

# A cached module could outlive the change of its source within one second. Plugins of the machine,
# and options of whoever started the phase, must not decide what red and green mean.
sys.dont_write_bytecode = True
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
os.environ.pop("PYTEST_ADDOPTS", None)

if TYPE_CHECKING:
    import coverage

try:
    import pytest
except ImportError as error:
    raise TryElsewhere(f"{sys.executable} has no pytest") from error

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
PACKAGE = "textkit"
# Built-in plugins that this suite does not use; each costs some milliseconds a run.
UNUSED = ("cacheprovider", "doctest", "junitxml", "pastebin", "nose", "stepwise", "legacypath")

# A proof of green needs no explained failures: rewriting the asserts is a third of such a run.
QUICK = ("-x", "--assert=plain")


@dataclass
class SuiteRun:
    """What one run of the suite showed; it is also the plugin that collects it."""

    exit_code: int = 0
    passed: int = 0
    failed: int = 0
    seconds: float = 0.0
    coverage_pct: float = 0.0
    wrong_reasons: list[str] = field(default_factory=list)

    @property
    def is_green(self) -> bool:
        return self.exit_code == 0 and self.passed > 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.passed += report.when == "call" and report.passed

    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[object]
    ) -> None:
        self.failed += 1
        if call.excinfo is not None and not _is_right_reason(call.excinfo):
            self.wrong_reasons.append(f"{node.name}: {call.excinfo.exconly()}")


class TestBodies:
    """Plugin that measures only while tests run: pytest itself would be most of what is traced."""

    def __init__(self, measure: "coverage.Coverage") -> None:
        self._measure = measure

    @pytest.hookimpl(wrapper=True)
    def pytest_pyfunc_call(self) -> Iterator[None]:
        self._measure.start()
        try:
            return (yield)
        finally:
            self._measure.stop()


def run_tests(path: str) -> SuiteRun:
    """Return what the tests of one file showed, with every failure explained."""
    return _run([path])


def prove() -> SuiteRun:
    """Return what all tests showed, up to the first failure."""
    return _run(QUICK)


def prove_with_coverage() -> SuiteRun:
    """Return what all tests showed, with the share of the package's lines that they ran."""
    try:
        import coverage
    except ImportError as error:
        raise TryElsewhere(f"{sys.executable} has no coverage") from error
    measure = coverage.Coverage(data_file=None, config_file=False, source=[PACKAGE])
    measure.start()
    for path in sorted((ROOT / PACKAGE).glob("*.py")):
        importlib.import_module(f"{PACKAGE}.{path.stem}".removesuffix(".__init__"))
    measure.stop()
    suite = _run(QUICK, TestBodies(measure))
    suite.coverage_pct = measure.report(file=io.StringIO())
    return suite


def _run(arguments: Sequence[str], *plugins: object) -> SuiteRun:
    suite = SuiteRun()
    options = ["-q", "--tb=short", "--no-header", "--rootdir", str(ROOT)]
    # A module that does not exist yet is a failure of its test file, not the end of the run.
    options.append("--continue-on-collection-errors")
    options += [f"-pno:{name}" for name in UNUSED]
    began = time.perf_counter()
    suite.exit_code = int(pytest.main([*options, *arguments], plugins=[suite, *plugins]))
    suite.seconds = time.perf_counter() - began
    return suite


def _is_right_reason(excinfo: pytest.ExceptionInfo[BaseException]) -> bool:
    """
    Return whether a test failed because the package does not do yet what the test asks for.

    That is: an assertion failed, the package has no such module or name, or the package itself
    raised. A mistake in the test (syntax, a wrong name, a missing fixture) is not a right reason.
    """
    error = excinfo.value
    if isinstance(error, pytest.Collector.CollectError) and error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, AssertionError | pytest.fail.Exception):
        return True
    if isinstance(error, ImportError):
        return (error.name or "").split(".")[0] == PACKAGE
    if isinstance(error, AttributeError) and f"'{PACKAGE}." in str(error):
        return True
    if isinstance(error, TypeError) and _names_function_of_package(str(error)):
        return True
    return (ROOT / PACKAGE) in Path(excinfo.traceback[-1].path).parents


def _names_function_of_package(message: str) -> bool:
    """Return whether an error is about how a function of the package was called."""
    name = message.partition("()")[0]
    modules = [module for path, module in sys.modules.items() if path.startswith(f"{PACKAGE}.")]
    return any(hasattr(module, name) for module in modules)
