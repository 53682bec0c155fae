"""What happens beside training a run: its metrics, checkpoints and best weights."""

import math
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import keras
import numpy as np

from samkeras.backend import backend
from samkeras.data.atari import Game
from samkeras.data.batches import Batches
from samkeras.experiment.options.groups import Config
from samkeras.experiment.runs import checkpoint
from samkeras.experiment.runs.checkpoint import CheckpointError, Checkpoints
from samkeras.experiment.runs.interrupt import StopRequest
from samkeras.experiment.runs.progress import RunProgress
from samkeras.experiment.runs.schedule import learning_rate_at
from samkeras.experiment.tracking.record import Record
from samkeras.workload import Workload


class NotFiniteError(RuntimeError):
    """A number of training or validation is infinite or not a number."""


class Recorder(keras.callbacks.Callback):
    """Trains a run: from its checkpoint, if there is one, to its end.

    After each epoch its metrics are logged and a checkpoint is saved. When a stop is
    requested, the step is finished, a checkpoint is saved and KeyboardInterrupt raised.

    Attributes:
        best: the best of the monitored metric, None before the first epoch's end.
        best_epoch: its epoch.
        best_weights: its weights, none before.
        final: the metric's last value.
    """

    # Keras then calls on_train_batch_end without waiting for the step's results.
    async_safe = True

    def __init__(
        self,
        config: Config,
        workload: Workload,
        *,
        passes: float,
        logger: Record,
        checkpoints: Checkpoints,
        progress: RunProgress,
        stop: StopRequest,
    ):
        super().__init__()
        self.best = self.best_epoch = self.final = None
        self.best_weights: list[np.ndarray] = []
        self.monitor, self._mode = workload.monitor, workload.mode
        self._score = workload.score
        self._config: Any = config  # of the groups that its task needs
        self._logger, self._progress = logger, progress
        self._passes = passes
        self._checkpoints, self._stop = checkpoints, stop
        self._finite_logs: dict[str, float] = {}
        self._restored: checkpoint.Arrays | None = None
        process, self._num_processes = backend.find_process()
        self._is_first = process == 0

    def fit(
        self,
        model: keras.Model,
        batches: Batches,
        validation: Batches | Game,
    ) -> None:
        """Trains to the end of the run's epochs."""
        self.set_model(model)
        # A task makes its own kind of them.
        self._batches: Any = batches
        self._validation: Any = validation
        epoch, step = self._resume()
        if 0 < step < batches.left:
            batches.start_epoch(epoch, step)
            self._fit(epoch, epoch + 1)
            epoch += 1
        elif step:  # Interrupted while validating.
            self._epoch = epoch
            self.on_epoch_end(epoch, {**self._logs, **self._validate()})
            epoch += 1
        if epoch < self._config.total_epochs:
            batches.start_epoch(epoch)
            self._fit(epoch, self._config.total_epochs)
        self._checkpoints.wait()
        # After the last epoch too: a grid must not go on with its next run.
        self._stop_if_requested()

    def illustrate(self, folder: Path) -> list[Path]:
        """Writes files that show what the model does with its best weights."""
        return []

    def _fit(self, first_epoch: int, end_epoch: int) -> None:
        self.model.fit(
            backend.make_input(self._batches),
            initial_epoch=first_epoch,
            epochs=end_epoch,
            validation_data=self._validation_input,
            callbacks=[self],
            # The batches' own order is a function of the epoch; keras would shuffle it.
            shuffle=False,
            verbose=0,
        )

    def _validate(self) -> dict[str, float]:
        """Scores of the validation set, named as fit logs them."""
        scores = self.model.evaluate(
            self._validation_input, verbose=0, return_dict=True
        )
        return {f"val_{name}": value for name, value in scores.items()}

    @cached_property
    def _validation_input(self) -> Any:
        return backend.make_input(self._validation)

    def on_epoch_begin(self, epoch, logs=None):
        if self._restored is not None:
            checkpoint.restore_metrics(self.model, self._restored)
            self._restored = None
        else:
            self._batches.start_epoch(epoch)
        self._epoch, self._started = epoch, time.monotonic()

    def on_train_batch_begin(self, batch, logs=None):
        if self._may_stop_within_epoch:
            step = self._batches.first_batch + batch
            if step > 0:  # else the checkpoint of the epoch before is as far
                self._save(self._epoch, step)
            raise KeyboardInterrupt

    def on_train_batch_end(self, batch: int, logs: Any = None):
        # On JAX, keras calls this late and from another thread, and raises in fit what
        # is raised here.
        step = self._batches.first_batch + batch + 1
        if not math.isfinite(logs["loss"]):
            steps = self._epoch * self._batches.total + step
            raise NotFiniteError(
                f"loss is {logs['loss']:g} by step {steps:,}, in epoch "
                f"{self._epoch + 1}; {self._advice()}"
            )
        self._reach(step)

    def on_test_begin(self, logs=None):
        seconds = time.monotonic() - self._started
        count = self._count_examples(self._batches.left)
        self._examples_per_second = count / seconds
        results = {
            **self.model.get_metrics_result(),
            **self.model.get_gradient_metrics_result(),
        }
        self._logs = {name: float(value) for name, value in results.items()}

    def on_test_batch_begin(self, batch, logs=None):
        if self._may_stop_within_epoch:
            self._save(
                self._epoch,
                self._batches.total,
                logs=self._logs,
                examples_per_second=self._examples_per_second,
            )
            raise KeyboardInterrupt

    def _scored(self, logs: dict[str, float]) -> dict[str, float]:
        """An epoch's logs, with what is measured on the whole validation set."""
        if self._score is None:
            return logs
        predictions = self.model.predict(self._validation_input, verbose=0)
        scores = self._score(*self._validation_labels, predictions)
        for name, score in scores.items():
            if math.isnan(score):
                raise NotFiniteError(
                    f"val_{name} is nan: the validation examples do not define it; "
                    "validate on more of them"
                )
        return {**logs, **{f"val_{name}": score for name, score in scores.items()}}

    @cached_property
    def _validation_labels(self) -> list[np.ndarray]:
        """The labels and weights of the whole validation set."""
        batches = self._validation
        _, *parts = zip(*(batches[i] for i in range(batches.left)), strict=True)
        return [np.concatenate(arrays) for arrays in parts]

    def on_epoch_end(self, epoch: int, logs: Any = None):
        if all(map(math.isfinite, logs.values())):
            logs = self._scored(logs)
        steps = self._batches.total
        last_step = (epoch + 1) * steps - 1
        metrics = {
            **logs,
            "learning_rate": learning_rate_at(self._config, last_step, steps),
            "examples_per_second": self._examples_per_second,
        }
        self._logger.log_metrics(metrics, step=self._log_step(epoch))
        self._check_finite(epoch, logs)
        self.final, self._finite_logs = logs[self.monitor], logs
        if self._is_best(self.final):
            self.best, self.best_epoch = self.final, epoch
            # Copies, because the backend reuses the memory of the weights.
            self.best_weights = [np.array(w) for w in self.model.get_weights()]
        self._reach(self._batches.total)
        shown = {name: logs[name] for name in ("loss", self.monitor)}
        self._progress.end_epoch(epoch, self._config.total_epochs, shown)
        self._save(epoch + 1, 0)
        self._stop_if_requested()

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

    def _resume(self) -> tuple[int, int]:
        """Goes back to the checkpoint: the epoch to go on with, and its steps done."""
        found = self._checkpoints.load(self._check) if self._is_first else None
        found = backend.broadcast(found)
        if found is None:
            return 0, 0
        arrays, values = found
        checkpoint.check(self.model, arrays, self._example_batch())
        checkpoint.restore(self.model, arrays)
        self.best, self.best_epoch = values["best"], values["best_epoch"]
        self.final, self._logs = values["final"], values["logs"]
        self._examples_per_second = values["examples_per_second"]
        if self.best is not None:
            count = len(self.model.weights)
            self.best_weights = [arrays[f"best/{i}"] for i in range(count)]
        epoch, step = values["epoch"], values["step"]
        if 0 < step < self._batches.left:
            self._restored = arrays
        self._progress.say(f"going on after {epoch} epochs and {step} steps")
        return epoch, step

    def _check(self, arrays: checkpoint.Arrays, values: dict) -> None:
        """Checks that a checkpoint's content is of this run.

        Raises:
            CheckpointError: it is of another.
        """
        missing = {*self._values(), "epoch", "step"} - values.keys()
        missing |= self._capture().keys() - arrays.keys()
        if missing:
            raise CheckpointError(f"has no {', '.join(sorted(missing))}")
        checkpoint.check(self.model, arrays, self._example_batch())
        if values["best"] is not None:
            checkpoint.check_group("best", self.model.weights, arrays)

    def _save(self, epoch: int, step: int, **values: Any) -> None:
        if not self._is_first:
            return
        arrays = {**checkpoint.capture(self.model), **self._capture()}
        for i, weight in enumerate(self.best_weights):
            arrays[f"best/{i}"] = weight
        self._checkpoints.save(epoch, step, arrays, {**self._values(), **values})

    def _values(self) -> dict[str, Any]:
        """What a checkpoint holds beside arrays."""
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "final": self.final,
            "logs": None,
            "examples_per_second": None,
        }

    def _example_batch(self) -> tuple:
        return self._batches[0]

    def _capture(self) -> checkpoint.Arrays:
        """What a checkpoint holds beside the model."""
        return {}

    def _count_examples(self, num_batches: int) -> int:
        return num_batches * self._config.batch_size

    def _log_step(self, epoch: int) -> int:
        """What MLflow draws an epoch's metrics over: steps, or epochs."""
        if self._config.steps:
            return (epoch + 1) * self._batches.total
        return epoch

    def _stop_if_requested(self) -> None:
        if backend.broadcast(self._stop.requested):
            raise KeyboardInterrupt

    @property
    def _may_stop_within_epoch(self) -> bool:
        """Whether to stop now. Of several processes, which must all stop at the same
        step, the first one decides after an epoch."""
        return self._stop.requested and self._num_processes == 1

    def _advice(self) -> str:
        numbers = [f"{k}={v:.4g}" for k, v in self._finite_logs.items()]
        last = f"last finite: {' '.join(numbers)}; " if numbers else ""
        lower = "learning_rate or rho" if self._config.sam else "learning_rate"
        return f"{last}try a lower {lower}"

    def _reach(self, step: int) -> None:
        """Shows how far the run is: at the `step`-th step of the current epoch."""
        per_epoch = self._batches.total
        steps = self._epoch * per_epoch + min(step, per_epoch)
        self._progress.reach(steps * self._passes)
