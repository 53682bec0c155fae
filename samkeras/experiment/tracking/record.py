"""What records runs: what it offers to those who train them, and one in memory."""

import os
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from samkeras.experiment.options.values import plain_text

STARTED = time.time() - time.monotonic()


class FolderGoneError(RuntimeError):
    """A run's folder was removed or moved while it trained."""


@dataclass(kw_only=True)
class RecordedRun:
    """What is recorded of a run.

    Attributes:
        params: its parameters, as plain_text writes them.
        metrics: the last value of each metric.
        status: RUNNING, FINISHED, FAILED or KILLED.
        started: when it began, in milliseconds since 1970.
        ended: when it ended, if it has.
        tags: its tags.
        run_id: the store's name for it, if it has it.
    """

    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    status: str = "RUNNING"
    started: int
    ended: int | None = None
    tags: dict[str, str] = field(default_factory=dict)
    run_id: str | None = None


@dataclass(frozen=True)
class View:
    """Which of an experiment's runs one looks at, and what of them: the best first.

    Attributes:
        workload: whose runs they are.
        group: the tag of those of a grid, its folder's name; None: all.
        varied: the parameters that set them apart.
        params: those that one also wants to see.
        monitor: the metric that is reported.
        mode: whether "max" or "min" of it is best.
    """

    workload: str
    group: str | None
    varied: Sequence[str]
    params: Sequence[str]
    monitor: str
    mode: str


class Record(Protocol):
    """The record of one run, while it trains."""

    @property
    def id(self) -> str:
        """What names it, to nest others in it."""
        ...

    @property
    def folder(self) -> Path:
        """The run's own directory."""
        ...

    @property
    def run_id(self) -> str | None:
        """The store's name for it, once it has it."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """The last value of each metric."""
        ...

    @property
    def last_step(self) -> int:
        """The last step that metrics were recorded at; -1 before."""
        ...

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Records parameters; those of a run that goes on stay what they were."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Records the metrics of a step, once: a run that goes on may repeat steps."""
        ...

    def log_file(self, path: Path) -> None:
        """Records a file, again if it was replaced since it was recorded."""
        ...

    def set_tag(self, key: str, value: str) -> None:
        """Records a tag, in place of the one of that name."""
        ...

    def end(self, status: str, reason: str | None = None) -> None:
        """Ends the run as FINISHED, FAILED or KILLED, the last two with the reason.

        Raises:
            OSError: that cannot be recorded, as on a full disk.
        """
        ...


class Tracker(Protocol):
    """Where the runs of one experiment are recorded."""

    @property
    def uri(self) -> str:
        """The store."""
        ...

    @property
    def view_url(self) -> str:
        """Where one looks at the runs."""
        ...

    def save_view(self, view: View) -> None:
        """Saves the view that `view_url` opens."""
        ...

    def page_url(self, run_id: str) -> str | None:
        """Where one looks at a run of the store, if it answers."""
        ...

    def find_finished(
        self, fingerprints: Sequence[Sequence[str]]
    ) -> list[RecordedRun | None]:
        """The experiment's finished run of each of several, or None.

        Args:
            fingerprints: those that each may be recorded under, the first one first.
        """
        ...

    def read_curves(
        self, folder: Path, fingerprints: Sequence[str], names: Iterable[str]
    ) -> dict[str, dict[int, float]]:
        """The values of a finished run's metrics, at each step that they were recorded
        at.

        Args:
            folder: the run's own directory, which it was trained in or would be.
            fingerprints: those that it may be recorded under, the first one first.
            names: of the metrics.
        """
        ...

    def gather(self, group: str, runs: Iterable[RecordedRun]) -> None:
        """Has the view of a group show finished runs that were trained for others."""
        ...

    def scatter(self, group: str) -> None:
        """Has the view of a group show none of its runs so far."""
        ...

    def deliver_pending(self, run_dir: Path) -> None:
        """Delivers what earlier commands recorded under `run_dir` for this store and
        could not deliver; what another command is recording there is left to it."""
        ...

    def know(self, folder: Path, id: str) -> None:
        """Takes note of the record of that id that another process keeps in `folder`,
        the parent of runs here."""
        ...

    def start(
        self,
        name: str,
        tags: dict[str, str],
        parent: str | None,
        folder: Path,
        fresh: bool = False,
    ) -> Record:
        """Starts a run, or goes on with the one that its folder holds.

        Args:
            name: the run's name.
            tags: its tags, which a run that goes on gets too.
            parent: id of the record of the run that it is nested in, the name of whose
                folder becomes a tag.
            folder: the run's own directory, made if it is not there yet.
            fresh: start a new run, whatever the folder holds.

        Raises:
            InputError: another command is at this run.
        """
        ...

    def amend(self, folder: Path) -> AbstractContextManager[Record]:
        """The record in a folder of a run that is over, which it stays: more is
        recorded of it.

        Raises:
            InputError: there is none, or another command is at this run.
        """
        ...

    def close(self) -> None:
        """Delivers what is left, if the store answers, and says in one line what an
        unreachable one has not got."""
        ...


@dataclass(kw_only=True, eq=False)
class MemoryRecord(RecordedRun):
    """The record of one run in the memory of this process.

    Attributes:
        id: what names it, to nest others in it.
        name: the run's name.
        parent: id of the record of the run that it is nested in, if it is.
        folder: the run's own directory.
        curves: each metric's value at the steps that it was logged at.
        files: the names of its files in its folder.
    """

    name: str
    parent: str | None
    folder: Path
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    files: set[str] = field(default_factory=set)

    @property
    def last_step(self) -> int:
        return max((max(curve) for curve in self.curves.values()), default=-1)

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params = {k: plain_text(v) for k, v in params.items()} | self.params

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            curve = self.curves.setdefault(name, {})
            curve.setdefault(step, float(value))
            self.metrics[name] = curve[max(curve)]

    def log_file(self, path: Path) -> None:
        self.files.add(os.path.relpath(path, self.folder))

    def set_tag(self, key: str, value: str) -> None:
        self.tags[key] = value

    def end(self, status: str, reason: str | None = None) -> None:
        if reason is not None:
            self.set_tag("failure", reason)
        self.status, self.ended = status, now()

    def go_on(self) -> None:
        """Forgets that the run has ended, and why."""
        self.status, self.ended = "RUNNING", None
        self.tags.pop("failure", None)


class MemoryTracker:
    """Records runs in the memory of this process.

    Args:
        records: what is recorded so far; what will be is added to it.
    """

    uri = view_url = "memory:"

    def __init__(self, records: list[MemoryRecord] | None = None):
        self.records = [] if records is None else records

    def save_view(self, view: View) -> None:
        """There is nothing that opens it."""

    def page_url(self, run_id: str) -> str | None:
        """There is no page."""

    def find_finished(
        self, fingerprints: Sequence[Sequence[str]]
    ) -> list[RecordedRun | None]:
        finished = {
            record.tags.get("fingerprint"): record
            for record in self.records
            if record.status == "FINISHED"
        }
        found = [[finished.get(mark) for mark in marks] for marks in fingerprints]
        return [next(filter(None, each), None) for each in found]

    def read_curves(
        self, folder: Path, fingerprints: Sequence[str], names: Iterable[str]
    ) -> dict[str, dict[int, float]]:
        held = [
            record.curves
            for record in self.records
            if record.tags.get("fingerprint") in fingerprints
            and record.status == "FINISHED"
        ]
        return {name: held[-1].get(name, {}) for name in names} if held else {}

    def gather(self, group: str, runs: Iterable[RecordedRun]) -> None:
        for run in runs:
            run.tags[group] = "true"

    def scatter(self, group: str) -> None:
        for record in self.records:
            record.tags.pop(group, None)

    def deliver_pending(self, run_dir: Path) -> None:
        """There is nobody to deliver to."""

    def know(self, folder: Path, id: str) -> None:
        """Another process' records are not here."""

    def start(
        self,
        name: str,
        tags: dict[str, str],
        parent: str | None,
        folder: Path,
        fresh: bool = False,
    ) -> MemoryRecord:
        folder.mkdir(parents=True, exist_ok=True)
        groups = {r.folder.name: "true" for r in self.records if r.id == parent}
        tags = {**tags, **groups}
        held = [record for record in self.records if record.folder == folder]
        if held and not fresh:
            held[-1].go_on()
            held[-1].tags.update(tags)
            return held[-1]
        record = MemoryRecord(
            name=name, tags=tags, parent=parent, folder=folder, started=now()
        )
        self.records.append(record)
        return record

    @contextmanager
    def amend(self, folder: Path) -> Iterator[MemoryRecord]:
        yield next(each for each in reversed(self.records) if each.folder == folder)

    def close(self) -> None:
        """There is nothing left to deliver."""


def now() -> int:
    """Milliseconds since 1970, which go on evenly while a process' clock is set."""
    return int((STARTED + time.monotonic()) * 1000)
