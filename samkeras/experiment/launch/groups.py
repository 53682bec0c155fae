"""Runs that train together: their steps are one program."""

import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from samkeras.backend import backend
from samkeras.experiment.options.groups import Config, Measuring
from samkeras.experiment.options.session import Session
from samkeras.experiment.runs.alike import find_shape
from samkeras.experiment.runs.build import in_precision, measure_size
from samkeras.experiment.runs.checkpoint import find_common_place
from samkeras.experiment.runs.data import can_be_resident
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.progress import RunProgress
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.train import train
from samkeras.experiment.runs.turns import train_together
from samkeras.experiment.tracking.record import Tracker
from samkeras.workload import Splits


@dataclass(frozen=True)
class Replica:
    """A run of a group.

    Attributes:
        number: its place among all runs.
        run: what it is.
        splits: its data.
        progress: told how far it is.
    """

    number: int
    run: Run
    splits: Splits
    progress: RunProgress


def group(
    runs: Sequence[Run],
    splits: Sequence[Splits],
    session: Session,
    say: Callable[[str], None],
) -> list[list[int]]:
    """The places of runs that train together, `--replicas` of them at most.

    Args:
        runs: all of them.
        splits: the data of each.
        session: how they are executed.
        say: told why some do not.
    """
    size = session.replicas or 1
    if size == 1:
        return [[i] for i in range(len(runs))]
    is_here = session.workers == 1
    if is_here and keras.distribution.list_devices()[0].startswith("cpu"):
        say("--replicas gains little on a CPU, where one run keeps all cores busy")
    alike: dict[Any, list[int]] = {}
    reasons: dict[str, None] = {}
    for i, (run, loaded) in enumerate(zip(runs, splits, strict=True)):
        reason = _find_hindrance(run, loaded, session)
        key = i if reason else _shape(run.config)
        alike.setdefault(key, []).append(i)
        if reason is not None:
            reasons[reason] = None
    for reason in reasons:
        say(f"--replicas: {reason} train one after the other")
    return [
        places[start : start + size]
        for places in alike.values()
        for start in range(0, len(places), size)
    ]


def _find_hindrance(run: Run, splits: Splits, session: Session) -> str | None:
    """Which runs do not train together, if this is one."""
    if not run.config.target.is_house:
        # What it makes of its numbers may be constants of its program.
        return "runs of workloads of your own"
    if Measuring.of(run.config).measure_every is not None:
        return "runs that are measured along their training"
    if len(run.task.devices()) > 1:
        return "runs on several devices, unless each worker of --workers has one,"
    if not can_be_resident((splits.train, splits.validation), session.resident_data):
        return "runs whose batches come from the host"
    try:
        convolves = measure_size(run, splits.info).convolves
    except Exception:
        return "runs that cannot be built"  # each says why
    return "convolutions, which fill the device alone," if convolves else None


def _shape(config: Config) -> Hashable:
    """What runs that train together have the same. Their program takes the schedules of
    all their learning rates."""
    return find_shape(dataclasses.replace(config, learning_rate=1.0))


def train_group(
    members: Sequence[Replica],
    session: Session,
    tracker: Tracker,
    parent: str | None,
) -> Iterator[tuple[int, Result]]:
    """Trains runs, together where they are several, in the scope of their devices, and
    gives the number and the result of each as it ends.

    Raises:
        KeyboardInterrupt: a stop was requested; all are saved.
    """
    stop = StopRequest()
    newest = None
    if len(members) > 1:
        folders = [_find_folder(each, session) for each in members]
        newest = find_common_place(folders)
    trainings = [
        train(
            each.run,
            session,
            each.splits,
            tracker,
            parent,
            each.progress,
            stop,
            newest,
            share=1 / len(members),
        )
        for each in members
    ]
    first = members[0].run
    with in_precision(first.config), backend.split_batches(first.task.devices()):
        for place, result in train_together(trainings):
            yield members[place].number, result


def _find_folder(member: Replica, session: Session) -> Path:
    marks = member.run.find_marks(member.splits)
    return member.run.find_folder(session.run_dir, marks)[0]
