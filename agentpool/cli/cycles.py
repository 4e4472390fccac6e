"""The `agentpool cycles` commands: check and run a batch of cycles."""

import asyncio
import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import click

from agentpool.cli import show
from agentpool.client import AsyncClient, batch
from agentpool.client import cycles as runner
from agentpool.client.summary import Summary

_INTERRUPTED = 130
_file = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))


@click.group()
def cycles() -> None:
    """Run a batch of cycles: each takes its phases in order, many run at once."""


@cycles.command(epilog=show.examples("agentpool cycles check cycles.toml"))
@_file
@show.as_json
def check(*, file: Path, is_json: bool) -> None:
    """Check a batch file and list everything that is wrong with it."""
    found = _load(file, only=())
    if is_json:
        show.json_value({"cycles": len(found.cycles), "phases": len(found.phases)})
        return
    names = ", ".join(phase.name for phase in found.phases)
    click.echo(f"{file} is sound: {len(found.cycles)} cycles, each {names}.")


@cycles.command(
    epilog=show.examples(
        "agentpool cycles run cycles.toml --repo var/repo.git",
        "agentpool cycles run cycles.toml --only slugify --summary var/summary.json",
    )
)
@_file
@click.option("--repo", "repository", help="Path or address; wins over the file's.")
@click.option("--parallel", type=click.IntRange(1), help="Cycles in flight.")
@click.option("--retries", type=click.IntRange(0), help="Tries more per phase.")
@click.option("--only", multiple=True, metavar="ID", help="Only this cycle; repeatable.")
@click.option("--summary", "summary_file", type=click.Path(path_type=Path), help="Write JSON here.")
@click.option("--json", "is_json", is_flag=True, help="Print the summary as JSON, nothing else.")
def run(
    *,
    file: Path,
    repository: str | None,
    parallel: int | None,
    retries: int | None,
    only: tuple[str, ...],
    summary_file: Path | None,
    is_json: bool,
) -> None:
    """Run a batch; ends with exit code 0 when every cycle passed, else 1."""
    found = _load(file, only=only)
    found = replace(
        found,
        parallel=parallel or found.parallel,
        retries=found.retries if retries is None else retries,
    )
    view = _view(found, is_json=is_json)
    try:
        with view:
            done = asyncio.run(_run(found, repository, view))
    except batch.BatchInvalid as error:
        raise _usage_error(file, error) from error
    except KeyboardInterrupt:
        click.echo("Interrupted; the open requests are cancelled.", err=True)
        raise SystemExit(_INTERRUPTED) from None
    if summary_file is not None:
        summary_file.parent.mkdir(parents=True, exist_ok=True)
        summary_file.write_text(json.dumps(done.as_json(), indent=2) + "\n", encoding="utf-8")
    show.json_value(done.as_json()) if is_json else _tell(done)
    raise SystemExit(1 if done.failed else 0)


async def _run(found: batch.Batch, repository: str | None, view: "_View") -> Summary:
    async with AsyncClient(patience_s=runner.PATIENCE_S) as client:
        # One early question, so that a wrong token or address is told at once and once.
        await client.requests(limit=1)
        return await runner.run(
            batch=found, client=client, repository=repository, observe=view.note
        )


def _load(file: Path, *, only: tuple[str, ...]) -> batch.Batch:
    try:
        found = batch.load(file)
    except batch.BatchInvalid as error:
        raise _usage_error(file, error) from error
    known = {cycle.id for cycle in found.cycles}
    if unknown := sorted(set(only) - known):
        raise click.UsageError(f"{file} has no cycle {', '.join(unknown)}")
    chosen = tuple(cycle for cycle in found.cycles if not only or cycle.id in only)
    return replace(found, cycles=chosen)


def _usage_error(file: Path, error: batch.BatchInvalid) -> click.UsageError:
    lines = "\n".join(f"  {mistake}" for mistake in error.mistakes)
    return click.UsageError(f"{file} is no batch that can run:\n{lines}")


# --- what a person sees meanwhile -----------------------------------------------------------------


class _View(Protocol):
    """Shows the progress of a run."""

    def note(self, progress: runner.Progress) -> None:
        """Show one more thing that happened."""

    def __enter__(self) -> "_View": ...
    def __exit__(self, *_: object) -> None: ...


class _Silent:
    """Shows nothing."""

    def note(self, progress: runner.Progress) -> None:
        """Ignore it."""

    def __enter__(self) -> _View:
        return self

    def __exit__(self, *_: object) -> None:
        return


class _Lines(_Silent):
    """One line for each thing that happened; for pipes and logs."""

    def __init__(self) -> None:
        self._began_at = time.monotonic()

    def note(self, progress: runner.Progress) -> None:
        """Print it, unless it is of no interest to anybody."""
        if progress.kind == "asked":
            return
        at = f"{time.monotonic() - self._began_at:8.1f}s"
        agent = f" on {progress.agent_id}" if progress.agent_id else ""
        remark = f": {progress.note}" if progress.note else ""
        line = f"{at}  {progress.cycle:<24} {progress.phase:<10} {progress.kind}{agent}{remark}"
        click.echo(line)


class _Bars(_Silent):
    """A bar for all phases together and one for each phase; for terminals."""

    def __init__(self, found: batch.Batch) -> None:
        # Imported here: the bars are of no use to a pipe.
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeElapsedColumn as Elapsed

        self._bars = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(),
            MofNCompleteColumn(),
            Elapsed(),
            TextColumn("{task.fields[now]}"),
        )
        count = len(found.cycles)
        self._all = self._bars.add_task("all", total=count * len(found.phases), now="")
        self._tasks = {
            phase.name: self._bars.add_task(phase.name, total=count, now="")
            for phase in found.phases
        }
        self._running: dict[str, set[str]] = {phase.name: set() for phase in found.phases}

    def __enter__(self) -> _View:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def note(self, progress: runner.Progress) -> None:
        """Move the bars; print what went wrong above them."""
        running = self._running[progress.phase]
        running.discard(progress.cycle)
        if progress.kind == "running":
            running.add(progress.cycle)
        if progress.kind == "passed":
            self._bars.advance(self._tasks[progress.phase])
            self._bars.advance(self._all)
        if progress.kind in ("failed", "retrying"):
            what = f"{progress.cycle} {progress.phase} {progress.kind}: {progress.note}"
            self._bars.console.print(what, style="red", markup=False, highlight=False)
        now = f"{len(running)} running" if running else ""
        self._bars.update(self._tasks[progress.phase], now=now)


def _view(found: batch.Batch, *, is_json: bool) -> _View:
    if is_json:
        return _Silent()
    if sys.stdout.isatty():
        return _Bars(found)
    return _Lines()


def _tell(done: Summary) -> None:
    columns = ("phase", "done", "retried", "wait p50", "wait p95", "run p50", "run p95")
    rows = [
        (
            line.phase,
            line.done,
            line.retried,
            show.duration(line.wait_p50_s),
            show.duration(line.wait_p95_s),
            show.duration(line.run_p50_s),
            show.duration(line.run_p95_s),
        )
        for line in done.by_phase
    ]
    click.echo()
    show.table(columns, rows, empty="No phases.")
    click.echo(
        f"\n{done.passed} of {done.cycles} cycles passed in {show.duration(done.wall_s)}; "
        f"{done.phases} phases, {done.retried} retried, at most {done.peak_parallel} at once on "
        f"{done.agents_peak} agents."
    )
    for failure in done.failures:
        click.echo(
            f"failed: {failure['cycle']} {failure['phase']}: {failure['outcome']} "
            f"{failure['error']}"
            + (f" (agentpool logs {failure['lease_id']})" if failure["lease_id"] else ""),
            err=True,
        )
