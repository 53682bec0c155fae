"""Trains the runs of a grid: here, one after the other, or in worker processes."""

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from samkeras.backend import backend
from samkeras.errors import InputError
from samkeras.experiment.launch.groups import Replica, group, train_group
from samkeras.experiment.options.session import Session
from samkeras.experiment.runs.data import Memory, read_data
from samkeras.experiment.runs.describe import start_record
from samkeras.experiment.runs.failure import Failure, explain, record_failure
from samkeras.experiment.runs.interrupt import (
    end_at_once,
    hidden_from_children,
    raise_interrupt,
)
from samkeras.experiment.runs.progress import ProgressDisplay, RunProgress
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.train import without_metrics
from samkeras.experiment.tracking.record import Record, Tracker
from samkeras.experiment.tracking.tracker import MLflowTracker
from samkeras.workload import Splits

REACH_EVERY_SEC = 0.2
PATIENCE_SEC = 60.0
ATTEMPTS = 3  # at a run whose process dies


@dataclass(frozen=True)
class Job:
    """A run to train.

    Attributes:
        number: its place among the runs.
        run: what it is.
        session: how it is executed.
        splits: its data.
        parent: the record of the run that it is nested in, if it is.
    """

    number: int
    run: Run
    session: Session
    splits: Splits
    parent: Record | None

    @property
    def parent_id(self) -> str | None:
        return None if self.parent is None else self.parent.id


def train_here(
    jobs: list[Job], tracker: Tracker, progress: ProgressDisplay
) -> Iterator[tuple[Job, Result]]:
    """Trains runs in this process: one after the other, or a group after the other."""
    for some in _group(jobs, progress):
        members = [
            Replica(job.number, job.run, job.splits, progress.start_run(job.number))
            for job in some
        ]
        by_number = {job.number: job for job in some}
        session, parent = some[0].session, some[0].parent_id
        for number, result in train_group(members, session, tracker, parent):
            yield by_number[number], result


def _group(jobs: list[Job], progress: ProgressDisplay) -> list[list[Job]]:
    """Runs that train together."""
    runs, splits = [job.run for job in jobs], [job.splits for job in jobs]
    places = group(runs, splits, jobs[0].session, progress.say)
    return [[jobs[i] for i in some] for some in places]


def train_in_workers(
    jobs: list[Job], num_workers: int, tracker: Tracker, progress: ProgressDisplay
) -> Iterator[tuple[Job, Result]]:
    """Trains runs in processes, each of which has its share of the cores and GPUs.

    A run whose process dies is given to another one, which goes on from its
    checkpoint; the third time the run has failed.

    Raises:
        KeyboardInterrupt: this process was interrupted; the runs in training are saved.
    """
    waiting = list(reversed(_group(jobs, progress)))
    attempts = dict.fromkeys((job.number for job in jobs), 0)
    workers = [_Worker(i, num_workers) for i in range(min(num_workers, len(waiting)))]
    try:
        while waiting or any(worker.jobs for worker in workers):
            for worker in workers:
                if not worker.jobs and waiting:
                    some = waiting.pop()
                    worker.give(some)
                    for job in some:
                        attempts[job.number] += 1
                        progress.start_run(job.number)
            busy: dict[Any, _Worker] = {w.connection: w for w in workers if w.jobs}
            for connection in wait(busy):
                worker = busy[connection]
                event, *values = worker.hear()
                match event:
                    case "result":
                        number, outcome = values
                        job = worker.jobs.pop(number)
                        yield job, complete(job, tracker, outcome)
                    case "stopped":
                        raise KeyboardInterrupt
                    case "died" if attempts[min(worker.jobs)] < ATTEMPTS:
                        progress.say(f"{values[0]}; its run goes on in another one")
                        waiting.append([*worker.jobs.values()])
                        worker.start()
                    case "died":
                        lost = [*worker.jobs.values()]
                        worker.start()
                        for job in lost:
                            yield job, give_up(job, tracker, Failure(values[0]))
                    case _:
                        number, *values = values
                        progress.take(number, event, *values)
    finally:
        _stop(workers)


def complete(job: Job, tracker: Tracker, outcome: Result | Failure) -> Result:
    """The result of a run that another process has trained, or could not."""
    if isinstance(outcome, Result):
        return outcome
    return give_up(job, tracker, outcome)


def give_up(job: Job, tracker: Tracker, failure: Failure) -> Result:
    """Records a run as failed that could not do so itself."""
    with contextlib.suppress(InputError, OSError):  # such as: something still trains it
        logger, _ = start_record(
            job.run, job.session, job.splits, tracker, job.parent_id
        )
        record_failure(logger, failure)
    return without_metrics(job.run, job.splits.info, failure)


class _Worker:
    """A process that trains one run at a time, or one group.

    Attributes:
        jobs: the runs that it trains, by their numbers; none while it waits.
        process: itself.
        connection: on which it tells of the run.
    """

    def __init__(self, number: int, num_workers: int):
        self._place = (number, num_workers)
        self.start()

    def start(self) -> None:
        """Starts the process, again if it has died."""
        # A forked one would share the backend's threads, which do not survive it.
        context = multiprocessing.get_context("spawn")
        self.jobs: dict[int, Job] = {}
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, *self._place))
        with hidden_from_children():
            self.process.start()
        theirs.close()

    def give(self, jobs: list[Job]) -> None:
        self.jobs = {job.number: job for job in jobs}
        runs = {job.number: job.run for job in jobs}
        first = jobs[0]
        parent = first.parent and first.parent.folder
        with contextlib.suppress(BrokenPipeError):  # hear() says that it died
            self.connection.send((runs, first.session, parent, first.parent_id))

    def hear(self) -> tuple:
        """The next that the process says: a run's progress, its number second,
        ("result", number, result), ("stopped",) or ("died", why)."""
        try:
            return self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            code = self.process.exitcode or 0
            reason = signal.Signals(-code).name if code < 0 else f"exit code {code}"
            return "died", f"a worker process died ({reason})"


def _stop(workers: list[_Worker]) -> None:
    """Ends the processes, and the runs that they train at the end of a step."""
    for worker in workers:
        if not worker.jobs:
            worker.connection.close()
        else:
            worker.process.terminate()
    for worker in workers:
        while worker.process.is_alive():
            try:
                if not worker.jobs:
                    worker.process.join()
                else:  # what nobody reads would hold it up
                    worker.hear()
            except KeyboardInterrupt:  # the user's second: at once
                for other in workers:
                    other.process.terminate()


def _work(connection: Connection, number: int, num_workers: int) -> None:
    """The life of a worker process, which its first process has stop by SIGTERM."""
    os.setpgrp()
    share_machine(number, num_workers)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    memory: Memory = Recall()
    told_at: dict[int, float] = {}

    def tell(number: int, event: str, *values: Any) -> None:
        if event == "reach":  # each step does
            if time.monotonic() - told_at.get(number, 0.0) < REACH_EVERY_SEC:
                return
            told_at[number] = time.monotonic()
        with contextlib.suppress(BrokenPipeError):  # _end_with_parent stops the run
            connection.send((event, number, *values))

    with contextlib.suppress(EOFError, KeyboardInterrupt, BrokenPipeError):
        signal.signal(signal.SIGTERM, raise_interrupt)
        while True:
            runs, session, parent, parent_id = connection.recv()
            outcomes = train_apart(runs, session, parent, parent_id, memory, tell)
            try:
                for outcome in outcomes:
                    connection.send(("result", *outcome))
            except KeyboardInterrupt:
                connection.send(("stopped",))
                break
    end_at_once()


def train_apart(
    runs: dict[int, Run],
    session: Session,
    parent: Path | None,
    parent_id: str | None,
    memory: Memory,
    tell: Callable[..., None],
) -> Iterator[tuple[int, Result | Failure]]:
    """Trains and records runs that belong to a grid of another process, as a group, or
    says why they could not begin. Gives the number and the result of each.

    Args:
        runs: what they are, by their numbers.
        session: how they are executed.
        parent: the folder of the grid, as that process knows it.
        parent_id: the id of its record.
        memory: of the data that this process has read already.
        tell: takes a run's number and progress, see RunProgress.
    """
    backend.cache_programs()
    first = next(iter(runs.values())).config
    experiment = session.experiment or first.target.experiment
    try:
        members = [
            # Which data a node may not have.
            Replica(
                n, run, read_data(run.config, memory), RunProgress(partial(tell, n))
            )
            for n, run in runs.items()
        ]
        # A process that died, or its node, may not have let go of the run yet.
        tracker = MLflowTracker(session.tracking_uri, experiment, patience=PATIENCE_SEC)
    except Exception as error:
        yield from dict.fromkeys(runs, explain(error, first)).items()
        return
    try:
        if parent is not None and parent_id is not None:
            tracker.know(parent, parent_id)
        yield from train_group(members, session, tracker, parent_id)
    finally:
        tracker.close()


def _end_with_parent() -> None:
    """Stops this process when the one that started it has ended, however it did."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


def share_machine(number: int, num_workers: int) -> None:
    """Takes a worker's share of the cores and of the GPUs, before a backend starts."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number % len(cores) :: num_workers])
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    if gpus is None:
        names = sorted(path.name for path in Path("/dev").glob("nvidia[0-9]*"))
        gpus = ",".join(name.removeprefix("nvidia") for name in names)
    gpus = [gpu for gpu in gpus.split(",") if gpu]
    if gpus:
        mine = gpus[number % len(gpus) :: num_workers]
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
    if num_workers > len(gpus) > 0:
        # JAX would take most of a GPU's memory for the first worker alone.
        share = 0.9 * len(gpus) / num_workers
        os.environ["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{share:.2f}"
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
