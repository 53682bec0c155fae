"""Many runs: those already finished skipped, their table and their figure."""

import contextlib
import dataclasses
import hashlib
import io
import math
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from samkeras.errors import InputError
from samkeras.experiment.launch.start import (
    broadcast,
    find_process,
    import_keras,
    start_backend,
)
from samkeras.experiment.options.fingerprint import Marks
from samkeras.experiment.options.groups import Measuring
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import Target
from samkeras.experiment.place import complain, home, is_checkout
from samkeras.experiment.runs.data import Memory, describe_data
from samkeras.experiment.runs.failure import Failure, explained
from samkeras.experiment.runs.interrupt import INTERRUPTED, raise_interrupt
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies import answer, measured, pictures, tables
from samkeras.experiment.studies.crosstab import Crosstab
from samkeras.experiment.studies.crosstabs import draw_crosstab
from samkeras.experiment.studies.curves import with_curves
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.tracking.record import (
    FolderGoneError,
    MemoryTracker,
    Record,
    RecordedRun,
    Tracker,
)
from samkeras.experiment.tracking.tracker import MLflowTracker, default_uri
from samkeras.workload import Splits

# What imports keras is imported where something trains or is drawn: runs that are
# finished are found without it, and it takes seconds.


def run_grid(session: Session, runs: list[Run], figure: Figure | None = None) -> int:
    """Trains the runs, prints their table, draws their figure's pictures and returns
    the exit code.

    Raises:
        InputError: something is wrong that can be known before training.
    """
    _ = runs[0].workload  # whose options may not be those of its task
    measured.check(runs)
    if find_process()[0] > 0:
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
    with explained("load its data", session, runs[0].config):
        splits = [describe_data(run.config, described) for run in runs]
    if session.dry_run:
        return _say_what_would_run(session, runs, splits, figure)
    _check_places(session, target)
    tracker = make_tracker(
        session.tracking_uri, session.experiment or target.experiment
    )
    tracker.deliver_pending(Path(session.run_dir))
    marks = [run.find_marks(each) for run, each in zip(runs, splits, strict=True)]
    place = _find_place(session, marks, figure)
    finished, ended = _find_finished(tracker, session, runs, marks, place)
    results = broadcast({i: result for i, (result, _) in finished.items()})
    if results and session.verbose:
        print(f"{len(results)} of {len(runs)} runs already finished")
    left = {i: (runs[i], splits[i]) for i in range(len(runs)) if i not in results}
    data = _prepare(session, left, figure) if left else {}
    is_grid = len(runs) > 1 or figure is not None
    tracker.save_view(answer.choose_view(runs, place.folder.name if is_grid else None))
    if session.rerun:
        tracker.scatter(place.folder.name)
    elif len(runs) > 1:
        tracker.gather(place.folder.name, [found for _, found in finished.values()])
    signal.signal(signal.SIGTERM, raise_interrupt)
    parent = None
    if figure is not None or (is_grid and (left or ended is None)):
        parent = _start_parent(tracker, session, runs, place, figure)
    interrupted = _train(session, runs, data, figure, parent, results, tracker)
    folders = {} if interrupted else _find_unmeasured(session, runs, marks, results)
    stopped, failed = _measure(session, folders, results, tracker)
    failed |= any(result.failure for result in results.values())
    found = [results[i] for i in sorted(results)]
    drawn: list[_Drawn] = []
    try:
        if parent is not None:
            whole = _complete(runs, splits, results)
            answer.record_answer(parent, found, whole, figure is not None)
            if figure is not None:
                drawn = _draw(
                    figure,
                    with_curves(
                        tracker, session.run_dir, runs, marks, whole, figure.pictures
                    ),
                    session,
                    parent,
                )
                failed |= len(drawn) < len(figure.pictures) + len(figure.tables)
            parent.end(_name_end(interrupted or stopped, failed))
    except (OSError, FolderGoneError) as error:  # such as a full disk
        failed = True
        complain(f"cannot record the runs together: {error}")
    tables.print_table(found, len(runs), session.verbose)
    tables.print_measured(found)
    tracker.close()
    _say_where(drawn, tracker, parent or ended)
    if interrupted or stopped:
        complain("interrupted; the same command goes on")
        return INTERRUPTED
    return 1 if failed else 0


class _Drawn(NamedTuple):
    """A picture or table of a study."""

    path: Path
    lines: Sequence[str]
    """what is printed of a table"""


def _name_end(interrupted: bool, failed: bool) -> str:
    return "KILLED" if interrupted else "FAILED" if failed else "FINISHED"


def _say_where(
    drawn: Sequence[_Drawn], tracker: Tracker, parent: Record | RecordedRun | None
) -> None:
    for path, lines in drawn:
        for line in lines:
            print(line)
        what = "table" if lines else "figure"
        print(f"The {what} and its numbers: {path}")
    print_address(tracker, parent)


def _say_what_would_run(
    session: Session, runs: list[Run], splits: list[Splits], figure: Figure | None
) -> int:
    start_backend(session)
    from samkeras.experiment.studies import dry_run, training

    training.check_at_once(session, runs, figure)
    training.check_described(session, [*zip(runs, splits, strict=True)])
    with explained("build its model", session, runs[0].config):
        dry_run.print_dry_run(runs, splits)
    return 0


def _prepare(
    session: Session, left: dict[int, tuple[Run, Splits]], figure: Figure | None
) -> dict[int, Splits]:
    """Sees whether the runs that are left can be trained. Returns the data of each,
    read, by position.

    Raises:
        InputError: they cannot.
    """
    start_backend(session)
    from samkeras.experiment.studies import training

    read = training.prepare(session, [*left.values()], figure)
    return dict(zip(left, read, strict=True))


def _train(
    session: Session,
    runs: list[Run],
    data: dict[int, Splits],
    figure: Figure | None,
    parent: Record | None,
    results: dict[int, Result],
    tracker: Tracker,
) -> bool:
    """Trains what is left of the runs. Returns whether it was interrupted."""
    if not data:
        return False
    from samkeras.experiment.studies import training

    return training.train(session, runs, data, figure, parent, results, tracker)


def _find_unmeasured(
    session: Session, runs: list[Run], marks: list[Marks], results: dict[int, Result]
) -> dict[int, Path]:
    """The folders of the finished runs that `--measure` asks for more of than they have
    of their training, by position. Of several processes none takes it, and the first
    one says so."""
    number, num_processes = find_process()
    if num_processes > 1:
        left = [run for run in runs if measured.asks_at_end(Measuring.of(run.config))]
        if left and number == 0:
            complain(
                "several processes do not measure runs that are over: the same command "
                "in one process does, and --measure_every along the training"
            )
        return {}
    return {
        i: runs[i].find_folder(session.run_dir, marks[i])[0]
        for i in sorted(results)
        if results[i].failure is None and Measuring.of(runs[i].config).measure
    }


def _measure(
    session: Session,
    folders: dict[int, Path],
    results: dict[int, Result],
    tracker: Tracker,
) -> tuple[bool, bool]:
    """Measures runs, and adds what comes out to their results. Returns whether it was
    interrupted, and whether something could not be measured."""
    if not folders:
        return False, False
    start_backend(session)
    try:
        whole = measured.measure_results(folders, results, tracker, session.verbose)
    except KeyboardInterrupt:
        return True, False
    return False, not whole


def _complete(
    runs: list[Run], splits: list[Splits], results: dict[int, Result]
) -> list[Result]:
    """The results of all runs, of those too that are not trained yet."""
    if len(results) == len(runs):
        return [results[i] for i in range(len(runs))]
    from samkeras.experiment.runs.train import without_metrics

    return [
        results[i]
        if i in results
        else without_metrics(run, loaded.info, Failure("not trained yet"))
        for i, (run, loaded) in enumerate(zip(runs, splits, strict=True))
    ]


def _draw(
    figure: Figure, results: list[Result], session: Session, parent: Record
) -> list[_Drawn]:
    """Draws a study's pictures and tells its tables, of what there is, and records
    them. Returns those that could be."""
    start_backend(session)  # whose machine the pictures name
    drawn: list[_Drawn] = []
    run_dir = Path(session.run_dir)
    for each in (*figure.pictures, *figure.tables):
        lines: Sequence[str] = ()
        try:
            if isinstance(each, Crosstab):
                lines, paths = draw_crosstab(figure, each, results, run_dir)
            else:
                paths = pictures.draw_picture(figure, each, results, run_dir)
        except InputError as error:
            complain(str(error))
            continue
        for path in paths:
            parent.log_file(path)
        drawn.append(_Drawn(paths[0], lines))
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


def _check_places(session: Session, target: Target) -> None:
    """Checks where runs are kept and trained, before anything is made.

    Raises:
        InputError: the one cannot be written, or the other not reached.
    """
    _check_writable(Path(session.run_dir))
    if session.ray is not None:
        import_keras()
        from samkeras.experiment.launch import ray as cluster

        cluster.connect(session, target)


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
) -> tuple[dict[int, tuple[Result, RecordedRun]], RecordedRun | None]:
    """The runs that MLflow holds as finished, by position, each with its result, and
    their parent if that is finished; none that are to be trained again."""
    if session.rerun:
        return {}, None
    *found, parent = tracker.find_finished([*marks, (place.mark,)])
    finished: dict[int, tuple[Result, RecordedRun]] = {}
    for i, (run, recorded) in enumerate(zip(runs, found, strict=True)):
        result = recorded and _read_result(run, recorded)
        if recorded is not None and result is not None:
            finished[i] = result, recorded
    return finished, parent


def _read_result(run: Run, found: RecordedRun) -> Result | None:
    """The result that is recorded of a run; None if it is none, or not whole."""
    params, metrics = found.params, found.metrics
    # Of records of old, which do not say.
    seconds = max(0, (found.ended or found.started) - found.started) / 1000
    try:
        result = Result(
            run.config,
            num_params=int(params["num_params"]),
            num_nonzero=int(params["num_nonzero_params"]),
            numbers={"seconds": seconds, **metrics},
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
