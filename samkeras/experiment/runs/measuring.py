"""Runs, measured: along their training, and from their folders when they are over."""

import io
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.analysis import DataLoss
from samkeras.data.batches import Batches
from samkeras.data.examples import Examples
from samkeras.data.splits import DataInfo
from samkeras.errors import InputError
from samkeras.experiment.options.groups import Measuring
from samkeras.experiment.options.measures import ALONG, TOGETHER, VERSION
from samkeras.experiment.runs.alike import Alike
from samkeras.experiment.runs.build import build_model, in_precision, undone
from samkeras.experiment.runs.measures import Arrays, Measured, make_loss, take
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.saved import SavedRun, Which
from samkeras.experiment.tracking.record import Record
from samkeras.files import replace_file
from samkeras.model import SAMModel


class Meter:
    """Measures a run along its training.

    Args:
        run: the run.
        info: its data.
        examples: what it is trained on.
        logger: its record.
        note: told what is to be said, once.
    """

    def __init__(
        self,
        run: Run,
        info: DataInfo,
        examples: Examples,
        logger: Record,
        note: Callable[[str], None],
    ):
        self._run, self._info, self._examples = run, info, examples
        self._logger, self._note = logger, note
        self._options = Measuring.of(run.config)
        self._loss: DataLoss | None = None

    def measure(
        self, model: SAMModel, batches: Batches, epoch: int
    ) -> dict[str, float]:
        """The numbers of an epoch, counted from 0: none where none are due."""
        every, names = self._options.measure_every, self._options.measure
        is_last = epoch + 1 == self._run.config.total_epochs
        if every is None or not (is_last or (epoch + 1) % every == 0):
            return {}
        try:
            loss = self._find_loss(model)
        except ValueError as error:
            self._note(f"nothing can be measured: {error}")
            return {}
        subject = _Subject(self._run, model, loss, self._info, batches, epoch)
        numbers: dict[str, float] = {}
        for name in names:
            if name in TOGETHER:
                continue
            found = take(name, subject)
            numbers |= _known(found)
            for note in found.notes:
                self._note(note)
            if found.arrays:
                self._keep(name, epoch, found.arrays)
            if name == "trajectory":
                self._keep_start(subject)
        return numbers

    def _find_loss(self, model: SAMModel) -> DataLoss:
        if self._loss is None:
            count = self._options.measure_examples
            self._loss = make_loss(model, self._examples, count)
        return self._loss

    def _keep(self, name: str, epoch: int, arrays: Arrays) -> None:
        folder = self._logger.folder
        if name in ALONG:  # each a file of the run alone: there are many
            ((_, array),) = arrays.items()
            _save(folder / name / _name_epoch(epoch), array)
            return
        path = folder / "measures" / f"{name}_{_name_epoch(epoch)}.npz"
        _save(path, arrays)
        self._logger.log_file(path)

    def _keep_start(self, subject: "_Subject") -> None:
        path = self._logger.folder / "trajectory" / _name_epoch(-1)
        if not path.with_suffix(".npy").exists():
            _save(path, subject.loss.flatten(subject.start()))


@dataclass(frozen=True)
class _Subject:
    """A run's model, see Subject."""

    run: Run
    model: SAMModel
    loss: DataLoss
    info: DataInfo
    batches: Batches
    epoch: int

    def start(self) -> Sequence[Any]:
        with undone():
            return build_model(self.run, self.info).trainable_variables

    def step(self) -> None:
        batches = self.batches
        place = (self.epoch, batches.first_batch)
        batches.start_epoch(self.epoch + 1)
        batch = batches[0]
        batches.start_epoch(*place)
        self.model.train_on_batches([batch], batches.specs)


def _name_epoch(epoch: int) -> str:
    """Of a file: epochs that are over."""
    return f"epoch_{epoch + 1:06}"


def _known(found: Measured) -> dict[str, float]:
    return {k: float(v) for k, v in found.numbers.items() if np.isfinite(v)}


def _save(path: Path, arrays: np.ndarray | Arrays) -> Path:
    """Writes an .npy of one array, or an .npz of several, whole or not at all."""
    buffer = io.BytesIO()
    if isinstance(arrays, np.ndarray):
        np.save(buffer, arrays)
        path = path.with_suffix(".npy")
    else:
        np.savez(buffer, allow_pickle=False, **arrays)
    path.parent.mkdir(exist_ok=True)
    replace_file(path, buffer.getbuffer())
    return path


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A measure of a run that is over.

    Attributes:
        measure: its name.
        weights: of which epoch, "last" or "best".
        examples: how many it was to be on.
        of: the record of the run: one that is trained again has another.
        version: of the measures.
        numbers: what came out.
        notes: what is to be said of them.
        about: what was measured: the numbers of examples and weights, and their type.
        file: of further arrays, in the run's folder; "": there are none.
        seconds: how long it took.
    """

    measure: str
    weights: str
    examples: int
    of: str
    version: int
    numbers: dict[str, float]
    notes: list[str]
    about: dict[str, Any]
    file: str
    seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What a measure is known by."""
        return (self.measure, self.weights, self.examples, self.of, self.version)


class Ledger:
    """What is measured of a run that is over, in its folder's measures.json.

    Args:
        folder: the run's.
        of: its record.
        weights: of which epoch.
        examples: on how many.
    """

    def __init__(self, folder: Path, of: str, weights: Which, examples: int):
        self.folder = folder
        self._place = (weights, examples, of, VERSION)
        self._path = folder / "measures.json"
        self._known: dict[tuple[Any, ...], Entry] = {}
        try:
            entries = [Entry(**each) for each in json.loads(self._path.read_text())]
            self._known = {entry.key: entry for entry in entries}
        except (FileNotFoundError, ValueError, TypeError):
            pass  # of none, or of another version: they are measured again

    def find(self, name: str) -> Entry | None:
        """A measure that is taken."""
        entry = self._known.get((name, *self._place))
        is_whole = entry is not None and (
            not entry.file or (self.folder / entry.file).is_file()
        )
        return entry if is_whole else None

    def add(self, name: str, found: Measured, loss: DataLoss, seconds: float) -> Entry:
        """Keeps a measure."""
        weights, examples, of, version = self._place
        file = ""
        if found.arrays:
            file = f"measures/{name}_{weights}_{examples}.npz"
            _save(self.folder / file, found.arrays)
        entry = Entry(
            measure=name,
            weights=weights,
            examples=examples,
            of=of,
            version=version,
            numbers=_known(found),
            notes=found.notes,
            about=loss.measured,
            file=file,
            seconds=round(seconds, 3),
        )
        self._known[entry.key] = entry
        text = json.dumps([vars(each) for each in self._known.values()], indent=1)
        replace_file(self._path, text.encode())
        return entry


def measure_run(
    saved: SavedRun, names: Sequence[str], weights: Which, examples: int
) -> tuple[list[Entry], list[str]]:
    """Measures a run that is over, as far as it is not measured yet.

    Args:
        saved: the run.
        names: of the measures.
        weights: of which epoch.
        examples: on how many of its training examples, at most.

    Returns:
        The measures, in the order of their names, and the names of the new ones.

    Raises:
        InputError: its data or weights are no longer there, or there is no loss to
            measure.
    """
    ledger = Ledger(saved.folder, saved.record, weights, examples)
    missing = [name for name in names if ledger.find(name) is None]
    if missing:
        try:
            with in_precision(saved.config):
                _measure(saved, missing, ledger, weights, examples)
        except ValueError as error:
            raise InputError(str(error)) from None
    found = [entry for name in names if (entry := ledger.find(name)) is not None]
    return found, missing


def _measure(
    saved: SavedRun, names: Sequence[str], ledger: Ledger, which: Which, examples: int
) -> None:
    run, data = saved.run, saved.data
    new = saved.model(which)
    batches = run.task.batches(run.config, data.train, "order", new)
    alike = Alike(run, data.info)
    model = alike.take(new, batches)
    loss = make_loss(model, data.train, examples)
    epoch = run.config.total_epochs - 1
    subject = _Subject(run, model, loss, data.info, batches, epoch)
    for name in names:
        started = time.monotonic()
        found = take(name, subject)
        ledger.add(name, found, loss, time.monotonic() - started)
    alike.keep(model)


def record(logger: Record, entries: Sequence[Entry], usual: int) -> None:
    """Records the measures of a run that is over, those of other weights or examples
    than the usual ones under names that say so: no table may mix them.

    Args:
        logger: its record.
        entries: the measures.
        usual: on how many examples the run says that it is measured.
    """
    for entry in entries:
        suffix = "" if entry.weights == "last" else f"_at_{entry.weights}"
        suffix += "" if entry.examples == usual else f"_of_{entry.examples}"
        own = {f"{name}{suffix}": value for name, value in entry.numbers.items()}
        new = {k: v for k, v in own.items() if logger.metrics.get(k) != v}
        if new:
            # Of a metric, the one of the last step counts.
            is_first = new.keys().isdisjoint(logger.metrics)
            logger.log_metrics(new, step=0 if is_first else logger.last_step + 1)
            if entry.file:
                logger.log_file(logger.folder / entry.file)
            logger.log_file(logger.folder / "measures.json")
