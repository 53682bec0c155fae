"""The runs of a study that are not finished: checked, and trained."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import keras

from samkeras.backend import backend
from samkeras.errors import InputError
from samkeras.experiment.launch import ray as cluster
from samkeras.experiment.launch.workers import (
    Job,
    give_up,
    train_here,
    train_in_workers,
)
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.groups import (
    Dropout,
    Layers,
    Linearized,
    find_first,
)
from samkeras.experiment.options.methods import DEFAULTS
from samkeras.experiment.options.session import Session
from samkeras.experiment.runs.bootstrap import check_examples
from samkeras.experiment.runs.build import measure_size, perturbs_some
from samkeras.experiment.runs.data import Memory, read_data
from samkeras.experiment.runs.failure import (
    TRACEBACK,
    Failure,
    explained,
    left_to_the_run,
)
from samkeras.experiment.runs.progress import ProgressDisplay
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.result import Result, check_measured
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies import pictures, tables
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.tracking.record import Record, Tracker
from samkeras.workload import Splits, Workload


def check_at_once(session: Session, runs: Sequence[Run], figure: Figure | None) -> None:
    """Checks what can be known without data and models.

    Raises:
        InputError: something is wrong.
    """
    with explained("read what it measures", session, runs[0].config):
        check_measured(runs[0].config, runs[0].workload)
        if figure is not None:
            configs = [run.config for run in runs]
            pictures.check_numbers(figure, runs[0].workload, configs)
    for run in runs:
        run.task.check_devices(run.config)


def prepare(
    session: Session, left: Sequence[tuple[Run, Splits]], figure: Figure | None
) -> list[Splits]:
    """Sees whether runs can be trained where the session says, before anything is
    logged.

    Args:
        session: how they are executed.
        left: each with its data, which are described.
        figure: what is drawn of them, if it is.

    Returns:
        The data of each, read.

    Raises:
        InputError: something is wrong, or the data cannot be had.
    """
    runs = [run for run, _ in left]
    check_at_once(session, runs, figure)
    check_described(session, left)
    memory: Memory = Recall()
    with explained("load its data", session, runs[0].config):
        read = [read_data(run.config, memory) for run in runs]
    for run, splits in zip(runs, read, strict=True):
        if find_first(run.config) is not None:
            check_examples(splits.train)
    return read


def with_replicas(session: Session, figure: Figure | None) -> Session:
    """The session, in which a figure's runs train together on an accelerator, where it
    does not say how many do."""
    is_jax = keras.backend.backend() == "jax"
    on_cpu = keras.distribution.list_devices()[0].startswith("cpu")
    if figure is None or session.replicas is not None or on_cpu or not is_jax:
        return session
    return dataclasses.replace(session, replicas=figure.replicas)


def check_described(session: Session, left: Sequence[tuple[Run, Splits]]) -> None:
    """Checks what can be known before the data is read.

    Raises:
        InputError: something is wrong.
    """
    for run, loaded in left:
        config = run.config
        options = (
            config.match_width,
            Linearized.of(config).alpha,
            Dropout.of(config).dropout,
            Layers.of(config).depth,
        )
        asks = any(option is not None for option in options)
        if asks or perturbs_some(config):
            with left_to_the_run():
                measure_size(run, loaded.info)
        _check_every(run, loaded)
    config, workload = left[0][0].config, left[0][0].workload
    num_processes = backend.find_process()[1]
    if num_processes > 1 and (session.workers > 1 or session.ray is not None):
        raise InputError(
            "--workers and --ray train many runs at once, several processes train one "
            f"run together. Received: both, with {num_processes} processes"
        )
    if num_processes > 1 and any(find_first(run.config) for run, _ in left):
        raise InputError(
            "--bootstrap reads what a first run has left, in one process. "
            f"Received: {num_processes} processes"
        )
    replicas = session.replicas or 1
    if replicas > 1 and keras.backend.backend() != "jax":
        raise InputError(
            "--replicas needs KERAS_BACKEND=jax. "
            f"Received: {replicas}, with {keras.backend.backend()}"
        )
    is_whole = workload.score is not None or not workload.task.is_shared
    if num_processes > 1 and is_whole:
        raise InputError(
            f"{config.target} trains in one process: its "
            f"{workload.monitor} is of all predictions or games together. "
            f"Received: {num_processes} processes"
        )


def _check_every(run: Run, loaded: Splits) -> None:
    """Checks that the steps between two perturbations are no more than the training's.

    Raises:
        InputError: they are.
    """
    config, per_epoch = run.config, run.task.steps_per_epoch(run.config, loaded)
    every = config.result_fields["sam_every"]
    own = DEFAULTS.get(config.result_fields["method"], {}).get("sam_every")
    if per_epoch is None or not config.sam or every == own:
        return
    steps = per_epoch * config.total_epochs
    if every > steps:
        raise InputError(
            f"--sam_every must be at most the {steps:,} steps of the training. "
            f"Received: {every}"
        )


def train(
    session: Session,
    runs: Sequence[Run],
    data: Mapping[int, Splits],
    figure: Figure | None,
    parent: Record | None,
    results: dict[int, Result],
    tracker: Tracker,
) -> bool:
    """Trains what is left of runs, and adds it to the results.

    Args:
        session: how they are executed.
        runs: all of them.
        data: of those that are left, by position.
        figure: what is drawn of them, if it is.
        parent: the record of the run that they are nested in, if they are.
        results: of the others, by position.
        tracker: records them.

    Returns:
        Whether it was interrupted.
    """
    session = with_replicas(session, figure)
    jobs = [Job(i, runs[i], session, splits, parent) for i, splits in data.items()]
    work = {job.number: _count_work(job.run, job.splits) for job in jobs}
    varied = varied_fields(run.config for run in runs)
    labels = {job.number: tables.label(job.run, varied) for job in jobs}
    notes = dict.fromkeys(note for job in jobs for note in job.splits.notes)
    with ProgressDisplay(work, labels, session.verbose) as progress:
        for note in notes:
            progress.say(note)
        try:
            for job, result in _train_in_order(jobs, results, tracker, progress):
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


def _train_in_order(
    jobs: list[Job],
    results: Mapping[int, Result],
    tracker: Tracker,
    progress: ProgressDisplay,
) -> Iterator[tuple[Job, Result]]:
    """Trains runs, those that have the predictions of others as their labels after
    these, and gives each result as it comes.

    Args:
        results: of all that are over, which the caller adds each result to.
    """
    firsts = {job.number: find_first(job.run.config) for job in jobs}
    for has_first in (False, True):
        failed = [r.config for r in results.values() if r.failure is not None]
        left: list[Job] = []
        for job in jobs:
            first = firsts[job.number]
            if (first is not None) is not has_first:
                continue
            if first not in failed:
                left.append(job)
                continue
            reason = "the run without --bootstrap, whose predictions it needs, failed"
            progress.start_run(job.number)
            yield job, give_up(job, tracker, Failure(reason))
        if left:
            yield from _train(left, jobs[0].session, tracker, progress)


def _train(
    jobs: list[Job], session: Session, tracker: Tracker, progress: ProgressDisplay
) -> Iterator[tuple[Job, Result]]:
    """Trains runs where the session says, and gives each result as it comes."""
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


def _count_work(run: Run, splits: Splits) -> float:
    per_epoch = run.task.steps_per_epoch(run.config, splits)
    if per_epoch is None:
        raise ValueError("a run's data are read before it trains")
    passes = 1.0
    with left_to_the_run():
        passes = run.passes
    return passes * run.config.total_epochs * per_epoch
