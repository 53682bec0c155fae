"""A run while it trains: what is kept of it."""

import io
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

from samkeras.backend import backend
from samkeras.data.batches import Batches
from samkeras.experiment.runs import checkpoint
from samkeras.experiment.runs.checkpoint import Arrays, CheckpointError, Checkpoints
from samkeras.experiment.runs.failure import NotFiniteError
from samkeras.experiment.runs.measuring import Meter
from samkeras.experiment.runs.progress import RunProgress
from samkeras.experiment.runs.result import unknown_monitor
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.schedule import Rate, rate_at
from samkeras.experiment.tracking.record import Record
from samkeras.files import replace_file
from samkeras.model import SAMModel
from samkeras.task import Validation


class Place(NamedTuple):
    """How far a run is.

    Attributes:
        epoch: the epoch that it is in, counted from 0.
        step: its steps that are done.
        logs: what is measured in training, when all are done.
        examples_per_second: the epoch's, then.
    """

    epoch: int = 0
    step: int = 0
    logs: dict[str, float] | None = None
    examples_per_second: float | None = None


class Clock:
    """The seconds that a run takes, those of the commands that it goes on from among
    them.

    Args:
        share: the run's part of the time in which several train together.

    Attributes:
        before: what the commands before took.
    """

    def __init__(self, share: float = 1.0):
        self._began, self._share, self.before = time.monotonic(), share, 0.0

    def read(self) -> float:
        return self.before + self._share * (time.monotonic() - self._began)


class Member:
    """A run in a loop: its record, best weights, checkpoints, and whether its numbers
    are finite.

    Args:
        run: the run.
        rate: its learning rate.
        logger: its record.
        checkpoints: its checkpoints.
        progress: told how far it is.
        meter: what measures it.
        clock: its time.

    Attributes:
        monitor: the metric that is reported.
        best: the best of it, None before the first epoch's end.
        best_epoch: its epoch, counted from 0.
        best_weights: its weights, on the device or the host; none before.
        final: the metric's last value.
    """

    def __init__(
        self,
        run: Run,
        rate: Rate,
        logger: Record,
        checkpoints: Checkpoints,
        progress: RunProgress,
        meter: Meter,
        clock: Clock,
    ):
        self.monitor, self._mode = run.workload.monitor, run.workload.mode
        self.best: float | None = None
        self.best_epoch: int | None = None
        self.best_weights: list[Any] = []
        self.final: float | None = None
        self._run, self._config, self._rate = run, run.config, rate
        self._logger, self._progress = logger, progress
        self._checkpoints, self._meter, self._clock = checkpoints, meter, clock
        self._finite_logs: dict[str, float] = {}
        self._is_first_process = backend.find_process()[0] == 0

    def end_steps(self, place: Place, per_epoch: int, loss: float) -> None:
        """Notes that steps are done.

        Args:
            place: where they end.
            per_epoch: steps of an epoch.
            loss: the epoch's so far.

        Raises:
            NotFiniteError: the loss is not finite.
        """
        steps = place.epoch * per_epoch + place.step
        if not math.isfinite(loss):
            raise NotFiniteError(
                f"loss is {loss:g} by step {steps:,}, in epoch {place.epoch + 1}; "
                f"{self._advice()}"
            )
        self._progress.reach(steps * self._run.passes)

    def end_epoch(
        self,
        model: SAMModel,
        batches: Batches,
        place: Place,
        scores: dict[str, float],
    ) -> None:
        """Records an epoch and saves a checkpoint.

        Args:
            model: as it is then.
            batches: what it is trained on.
            place: its last step.
            scores: of the validation.

        Raises:
            NotFiniteError: a number is not finite.
            InputError: the metric to report is none of the scores.
        """
        epoch, steps = place.epoch, batches.total
        logs = {**(place.logs or {}), **scores}
        metrics = {
            **logs,
            "learning_rate": rate_at(self._rate, (epoch + 1) * steps - 1),
            "examples_per_second": place.examples_per_second,
        }
        log_step = self._config.log_step(epoch, steps)
        self._logger.log_metrics(metrics, step=log_step)
        self._check_finite(epoch, logs)
        if self.monitor not in scores:
            raise unknown_monitor(self._config, scores)
        measured = self._meter.measure(model, batches, epoch)
        measured = {**measured, "seconds": self._clock.read()}
        self._logger.log_metrics(measured, step=log_step)
        self.final, self._finite_logs = scores[self.monitor], logs
        if self._is_best(self.final):
            self.best, self.best_epoch = self.final, epoch
            self.best_weights = backend.copy_values(model.weights)
        self._progress.reach((epoch + 1) * steps * self._run.passes)
        shown = {self.monitor: self.final, "best": self.best, "loss": logs["loss"]}
        self._progress.end_epoch(epoch, self._config.total_epochs, shown)
        self.save(model, batches, Place(epoch + 1))

    def _check_finite(self, epoch: int, logs: dict[str, float]) -> None:
        for name, value in logs.items():
            if not math.isfinite(value):
                raise NotFiniteError(
                    f"{name} is {value:g} after epoch {epoch + 1}; {self._advice()}"
                )

    def _is_best(self, value: float) -> bool:
        """Whether a value is the best so far; of equal ones the earliest is."""
        if self.best is None:
            return True
        return value > self.best if self._mode == "max" else value < self.best

    def _advice(self) -> str:
        numbers = [f"{k}={v:.4g}" for k, v in self._finite_logs.items()]
        last = f"last finite: {' '.join(numbers)}; " if numbers else ""
        lower = "learning_rate or rho" if self._config.sam else "learning_rate"
        return f"{last}try a lower {lower}"

    def go_back(self, model: SAMModel, batches: Batches) -> Place:
        """Sets the model and the batches to the run's checkpoint, if it has one, and
        returns where to go on."""

        def check(arrays: Arrays, values: dict[str, Any]) -> None:
            missing = {*self._values(Place())} - values.keys() - {"seconds"}
            missing |= batches.capture().keys() - arrays.keys()
            if missing:
                raise CheckpointError(f"has no {', '.join(sorted(missing))}")
            checkpoint.check(model, arrays, batches.example)
            if values["best"] is not None:
                checkpoint.check_group("best", model.weights, arrays)

        found = self._checkpoints.load(check) if self._is_first_process else None
        found = backend.broadcast(found)
        if found is None:
            return Place()
        arrays, values = found
        checkpoint.check(model, arrays, batches.example)
        checkpoint.restore(model, arrays)
        batches.restore(arrays)
        self.best, self.best_epoch = values["best"], values["best_epoch"]
        self.final = values["final"]
        # Checkpoints of old do not say.
        self._clock.before = values.get("seconds", 0.0)
        if self.best is not None:
            count = len(model.weights)
            self.best_weights = [arrays[f"best/{i}"] for i in range(count)]
        place = Place(*(values[name] for name in Place._fields))
        steps = place.epoch * batches.total + place.step
        self._progress.resume(steps * self._run.passes)
        self._progress.say(
            f"going on after {place.epoch} epochs and {place.step} steps"
        )
        return place

    def save(self, model: SAMModel, batches: Batches, place: Place) -> None:
        """Saves a checkpoint, in the background, to go on with from a place."""
        if not self._is_first_process:
            return
        arrays = {**checkpoint.capture(model), **batches.capture()}
        for i, weight in enumerate(self.best_weights):
            arrays[f"best/{i}"] = weight
        values = self._values(place)
        self._checkpoints.save(place.epoch, place.step, arrays, values)

    def wait(self) -> None:
        """Waits until the last checkpoint is saved."""
        self._checkpoints.wait()

    def finish(self, model: SAMModel, validation: Validation) -> None:
        """Records what came out, and the last and best weights, which the model has
        then."""
        folder, best_epoch = self._logger.folder, self.best_epoch
        metrics = {
            f"best_{self.monitor}": self.best,
            # As the progress counts epochs.
            "best_epoch": None if best_epoch is None else best_epoch + 1,
            f"final_{self.monitor}": self.final,
            "compiled_programs": model.count_programs(),
            "passes": self._run.passes,
        }
        if "seconds" not in self._logger.metrics:  # all its epochs are of old
            metrics["seconds"] = self._clock.read()
        # One value each, which MLflow draws as bars.
        self._logger.log_metrics(metrics, step=0)
        last = _save_weights(model, folder / "last.weights.h5")
        model.set_weights(self.best_weights)
        best = _save_weights(model, folder / "best.weights.h5")
        for path in (last, best, *validation.illustrate(folder)):
            self._logger.log_file(path)

    def _values(self, place: Place) -> dict[str, Any]:
        """What a checkpoint holds beside arrays."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "final": self.final,
            "seconds": self._clock.read(),
            **place._asdict(),
        }


def _save_weights(model: SAMModel, path: Path) -> Path:
    weights = _WeightsFile()
    model.save_weights(weights)
    replace_file(path, weights.getbuffer())
    return path


class _WeightsFile(io.BytesIO):
    """A file in memory for keras' weights. HDF5 leaves a file that it could not write,
    as on a full disk, open, and crashes at the process' end."""

    def __str__(self):
        return "a.weights.h5"  # keras looks at the ending of its name
