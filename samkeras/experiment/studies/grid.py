"""Many runs: those already finished skipped, their table and their figure."""

import contextlib
import dataclasses
import hashlib
import io
import math
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from samkeras.backend import backend
from samkeras.errors import InputError, find_own_line
from samkeras.experiment.launch import ray as cluster
from samkeras.experiment.launch.workers import Job, train_here, train_in_workers
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.fingerprint import Marks
from samkeras.experiment.options.groups import Dropout, Linearized
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import home, is_checkout
from samkeras.experiment.runs.build import measure_size
from samkeras.experiment.runs.data import Memory, describe_data, read_data
from samkeras.experiment.runs.failure import (
    TRACEBACK,
    Failure,
    describe,
    format_traceback,
)
from samkeras.experiment.runs.interrupt import INTERRUPTED, raise_interrupt
from samkeras.experiment.runs.progress import ProgressDisplay
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.result import Result, check_measured
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.train import without_metrics
from samkeras.experiment.studies import answer, pictures, tables
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.tracking.record import (
    FolderGoneError,
    MemoryTracker,
    Record,
    RecordedRun,
    Tracker,
)
from samkeras.experiment.tracking.tracker import MLflowTracker, default_uri
from samkeras.workload import Splits, Workload


def run_grid(session: Session, runs: list[Run], figure: Figure | None = None) -> int:
    """Trains the runs, prints their table, draws their figure's pictures and returns
    the exit code.

    Raises:
        InputError: something is wrong that can be known before training.
    """
    with _explained("read what it measures", session, runs[0]):
        check_measured(runs[0].config)
        if figure is not None:
            pictures.check_numbers(figure, runs[0].workload)
    if backend.find_process()[0] > 0:
        return _follow(session, runs)
    return _run_grid(session, runs, figure, MLflowTracker)


def _follow(session: Session, runs: list[Run]) -> int:
    """Does a further process's part of the runs, of which the first one tells and
    records: what this one records is thrown away."""
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.redirect_stdout(io.StringIO()),
    ):
        private = dataclasses.replace(session, run_dir=f"{folder}/runs", verbose=0)
        return _run_grid(private, runs, None, lambda *_: MemoryTracker())


def _run_grid(
    session: Session,
    runs: list[Run],
    figure: Figure | None,
    make_tracker: Callable[[str | None, str], Tracker],
) -> int:
    target = runs[0].config.target
    described: Memory = Recall()
    with _explained("load its data", session, runs[0]):
        splits = [describe_data(run.config, described) for run in runs]
    if session.dry_run:
        with _explained("build its model", session, runs[0]):
            tables.print_dry_run(runs, splits)
        return 0
    _check(session, runs, splits)
    # A data set that cannot be had is bad input, and known before anything is logged.
    memory: Memory = Recall()
    with _explained("load its data", session, runs[0]):
        splits = [read_data(run.config, memory) for run in runs]
    if session.ray is not None:
        cluster.connect(session, target)
    tracker = make_tracker(
        session.tracking_uri, session.experiment or target.experiment
    )
    tracker.deliver_pending(Path(session.run_dir))
    marks = [run.find_marks(each) for run, each in zip(runs, splits, strict=True)]
    place = _find_place(session, marks, figure)
    is_grid = len(runs) > 1 or figure is not None
    group = place.folder.name if is_grid else None
    tracker.save_view(answer.choose_view(runs, group))
    results, ended = _find_finished(tracker, session, runs, marks, place)
    results = backend.broadcast(results)
    signal.signal(signal.SIGTERM, raise_interrupt)
    remaining = [i for i in range(len(runs)) if i not in results]
    parent = None
    if figure is not None or (is_grid and (remaining or ended is None)):
        parent = _start_parent(tracker, session, runs, place, figure)
    jobs = [Job(i, runs[i], session, splits[i], parent) for i in remaining]
    interrupted = _train_all(jobs, session, runs, results, tracker)
    failed = any(result.failure for result in results.values())
    found = [results[i] for i in sorted(results)]
    drawn: list[Path] = []
    try:
        if parent is not None:
            whole = _complete(runs, splits, results)
            answer.record_answer(parent, found, whole, figure is not None)
            if figure is not None:
                drawn = _draw(figure, whole, session, parent)
                failed |= len(drawn) < len(figure.pictures)
            parent.end("KILLED" if interrupted else "FAILED" if failed else "FINISHED")
    except (OSError, FolderGoneError) as error:  # such as a full disk
        failed = True
        print(f"run.py: cannot record the runs together: {error}", file=sys.stderr)
    tables.print_table(found, len(runs), session.verbose)
    tracker.close()
    for path in drawn:
        print(f"The figure and its numbers: {path}")
    print_address(tracker, parent or ended)
    if interrupted:
        print("run.py: interrupted; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    return 1 if failed else 0


@contextlib.contextmanager
def _explained(what: str, session: Session, run: Run) -> Iterator[None]:
    """Makes bad input of any error of a workload's own code.

    Args:
        what: that code does.
        session: how much is to be printed of it.
        run: one of the workload.

    Raises:
        InputError: there was one.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if session.verbose == 2:
            print(format_traceback(error), file=sys.stderr)
        raise InputError(
            f"{run.config.target} cannot {what}: {describe(error)} "
            f"({find_own_line(error)})"
            f"{'' if session.verbose == 2 else '; --verbose 2 prints the traceback'}"
        ) from None


def _check(session: Session, runs: list[Run], splits: list[Splits]) -> None:
    """Checks what can be known before the data is read.

    Raises:
        InputError: something is wrong.
    """
    for run, loaded in zip(runs, splits, strict=True):
        config = run.config
        options = (config.match_width, Linearized.of(config).alpha)
        if any(o is not None for o in (*options, Dropout.of(config).dropout)):
            _check_model(run, loaded)
    workload = runs[0].workload
    num_processes = backend.find_process()[1]
    if num_processes > 1 and (session.workers > 1 or session.ray is not None):
        raise InputError(
            "--workers and --ray train many runs at once, several processes train one "
            f"run together. Received: both, with {num_processes} processes"
        )
    is_whole = workload.score is not None or not workload.task.is_shared
    if num_processes > 1 and is_whole:
        raise InputError(
            f"{runs[0].config.target} trains in one process: its "
            f"{workload.monitor} is of all predictions or games together. "
            f"Received: {num_processes} processes"
        )
    _check_writable(Path(session.run_dir))


def _check_model(run: Run, splits: Splits) -> None:
    """Builds a run's model without its weights.

    Raises:
        InputError: its options do not allow it.
    """
    try:
        measure_size(run, splits.info)
    except InputError:
        raise
    except Exception:
        pass  # A fault in its code: the run says so, and the others train.


def _train_all(
    jobs: list[Job],
    session: Session,
    runs: list[Run],
    results: dict[int, Result],
    tracker: Tracker,
) -> bool:
    """Trains what is left and adds it to the results. Returns whether it was
    interrupted."""
    work = {job.number: _count_work(job.run, job.splits) for job in jobs}
    varied = varied_fields(run.config for run in runs)
    labels = {job.number: tables.label(job.run, varied) for job in jobs}
    notes = dict.fromkeys(note for job in jobs for note in job.splits.notes)
    with ProgressDisplay(work, labels, session.verbose) as progress:
        for note in notes:
            progress.say(note)
        if results:
            progress.say(f"{len(results)} of {len(runs)} runs already finished")
        try:
            for job, result in _train(jobs, session, tracker, progress):
                results[job.number] = result
                if result.failure:
                    _say_failure(job, result, progress)
                    if backend.find_process()[1] > 1:
                        break  # The other processes may still be in this run.
                progress.end_run(job.number, _find_best(results, runs[0].workload))
        except KeyboardInterrupt:
            return True
    return False


def _say_failure(job: Job, result: Result, progress: ProgressDisplay) -> None:
    """Says why a run failed, and where its traceback is, if there is one: printed where
    each epoch is."""
    place = ""
    if result.traceback is not None:
        marks = job.run.find_marks(job.splits)
        folder, _ = job.run.find_folder(job.session.run_dir, marks)
        place = f"; traceback: {folder / TRACEBACK}"
    progress.fail_run(job.number, f"{result.failure}{place}")
    if result.traceback is not None and job.session.verbose == 2:
        progress.say(result.traceback)


def _train(
    jobs: list[Job], session: Session, tracker: Tracker, progress: ProgressDisplay
) -> Iterator[tuple[Job, Result]]:
    """Trains runs where the session says, and gives each result as it comes."""
    if not jobs:
        return iter(())
    if session.ray is not None:
        return cluster.train_on_ray(jobs, session, tracker, progress)
    if session.workers > 1:
        return train_in_workers(jobs, session.workers, tracker, progress)
    return train_here(jobs, tracker, progress)


def _find_best(results: dict[int, Result], workload: Workload) -> float | None:
    values = [result.best for result in results.values() if result.failure is None]
    if not values:
        return None
    return max(values) if workload.mode == "max" else min(values)


def _complete(
    runs: list[Run], splits: list[Splits], results: dict[int, Result]
) -> list[Result]:
    """The results of all runs, of those too that are not trained yet."""
    return [
        results[i]
        if i in results
        else without_metrics(run, loaded.info, Failure("not trained yet"))
        for i, (run, loaded) in enumerate(zip(runs, splits, strict=True))
    ]


def _draw(
    figure: Figure, results: list[Result], session: Session, parent: Record
) -> list[Path]:
    """Draws a figure's pictures, of what there is, and records them. Returns the paths
    of those that can be drawn."""
    drawn: list[Path] = []
    for picture in figure.pictures:
        run_dir = Path(session.run_dir)
        try:
            paths = pictures.draw_picture(figure, picture, results, run_dir)
        except InputError as error:
            print(f"run.py: {error}", file=sys.stderr)
            continue
        for path in paths:
            parent.log_file(path)
        drawn.append(paths[0])
    return drawn


def print_address(tracker: Tracker, parent: Record | RecordedRun | None) -> None:
    """Says how to open the runs, and what they say together, in MLflow's user
    interface."""
    start = ""
    if tracker.uri == default_uri() and is_checkout(home()):
        folder = "" if home() == Path.cwd() else f"-C {home()} "
        start = f"make {folder}ui, then open "
    elif not tracker.uri.startswith("http"):
        start = f"mlflow ui --backend-store-uri {tracker.uri}, then open "
    print(f"Compare the runs: {start}{tracker.view_url}")
    run_id = None if parent is None else parent.run_id
    page = None if run_id is None else tracker.page_url(run_id)
    if page is not None:
        print(f"What they say together: {page}")


def _count_work(run: Run, splits: Splits) -> float:
    per_epoch = run.task.steps_per_epoch(run.config, splits)
    if per_epoch is None:
        raise ValueError("a run's data are read before it trains")
    try:
        passes = run.passes
    except InputError:
        raise
    except Exception:
        passes = 1.0  # A fault in a method of its own: the run says so.
    return passes * run.config.total_epochs * per_epoch


def _check_writable(folder: Path) -> None:
    parent = folder.absolute()
    while not parent.exists():
        parent = parent.parent
    try:
        # A file that is gone at once: permissions alone do not tell for root, nor on
        # file systems mounted read-only.
        tempfile.TemporaryFile(dir=parent).close()
    except OSError as error:
        raise InputError(
            f"--run_dir {folder} cannot be written: {error.strerror}"
        ) from None


class _Place(NamedTuple):
    """Where a study's runs are recorded together."""

    folder: Path
    mark: str
    """what their parent is known by"""


def _find_finished(
    tracker: Tracker,
    session: Session,
    runs: list[Run],
    marks: list[Marks],
    place: _Place,
) -> tuple[dict[int, Result], RecordedRun | None]:
    """The results of the runs that MLflow holds as finished, by position, and their
    parent if that is finished; none that are to be trained again. The view of a study
    gets them."""
    if session.rerun:
        tracker.scatter(place.folder.name)
        return {}, None
    *found, parent = tracker.find_finished([*marks, (place.mark,)])
    finished, taken = {}, []
    for i, (run, recorded) in enumerate(zip(runs, found, strict=True)):
        result = recorded and _read_result(run, recorded)
        if recorded is not None and result is not None:
            finished[i] = result
            taken.append(recorded)
    if len(runs) > 1:
        tracker.gather(place.folder.name, taken)
    return finished, parent


def _read_result(run: Run, found: RecordedRun) -> Result | None:
    """The result that is recorded of a run; None if it is none, or not whole."""
    params, metrics = found.params, found.metrics
    seconds = max(0, (found.ended or found.started) - found.started) / 1000
    try:
        result = Result(
            run.config,
            num_params=int(params["num_params"]),
            num_nonzero=int(params["num_nonzero_params"]),
            numbers={**metrics, "seconds": seconds},
        )
        reported = (result.best, result.final)
    except (KeyError, ValueError):
        return None
    numbers = [value for name, value in metrics.items() if name.startswith("val_")]
    return result if all(map(math.isfinite, (*reported, *numbers))) else None


def _start_parent(
    tracker: Tracker,
    session: Session,
    runs: list[Run],
    place: _Place,
    figure: Figure | None,
) -> Record:
    """Starts the record of the runs together.

    Raises:
        InputError: it cannot be written.
    """
    name = answer.name_study(runs, figure)
    tags = {
        "workload": runs[0].config.workload,
        "fingerprint": place.mark,
        "grid": answer.describe_grid(runs),
        **runs[0].source,
    }
    if figure is not None:
        tags["figure"] = figure.name
    try:
        parent = tracker.start(name, tags, None, place.folder, fresh=session.rerun)
        parent.log_params(answer.list_params(runs))
    except OSError as error:
        raise InputError(f"--run_dir cannot be written: {error}") from None
    return parent


def _find_place(session: Session, marks: list[Marks], figure: Figure | None) -> _Place:
    """The place of the runs together; the one of 0.1 where that version has begun
    it."""

    def find(of_runs: list[str]) -> _Place:
        names = sorted(of_runs)
        if figure is not None:
            names.append(figure.name)
        digest = hashlib.sha256(" ".join(names).encode()).hexdigest()[:16]
        return _Place(Path(session.run_dir) / f"grid_{digest[:8]}", digest)

    now, old = find([each.now for each in marks]), find([each.old for each in marks])
    return old if old.folder.exists() and not now.folder.exists() else now
