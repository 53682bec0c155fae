"""Validation on examples."""

import contextlib
import math
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np

from samkeras.calls import Call, Steps, Training
from samkeras.data.batches import Batches
from samkeras.experiment.runs.failure import NotFiniteError
from samkeras.model import SAMModel


class ExampleValidation:
    """Validation on examples. See samkeras.task.Validation.

    Args:
        model: what is validated.
        batches: of all the examples.
        score: see samkeras.workload.Workload.
    """

    def __init__(
        self,
        model: SAMModel,
        batches: Batches,
        score: Callable[..., dict[str, float]] | None,
    ):
        self._model, self._batches, self._score = model, batches, score
        self._predict = model.make_call_function()

    def evaluate(self, pause: Callable[[], None]) -> Training[dict[str, float]]:
        """The metrics, and what is measured on the whole set at once.

        Raises:
            NotFiniteError: the examples do not define a score.
        """
        model, like = self._model, self._batches.specs
        model.reset_metrics()
        steps: Steps | None = None
        with contextlib.closing(self._batches.take(model.steps_per_execution)) as parts:
            for part in parts:
                rest = part
                while len(rest):
                    pause()
                    taken = yield Call(model, rest, like, is_training=False)
                    if steps is not None:  # the device is at the ones after
                        steps.wait()
                    steps, rest = taken, rest[taken.count :]
        scores = {} if steps is None else steps.wait()
        if self._score is not None and all(map(math.isfinite, scores.values())):
            scores |= self._measure(self._score, pause)
        return {f"val_{name}": value for name, value in scores.items()}

    def _measure(
        self, score: Callable[..., dict[str, float]], pause: Callable[[], None]
    ) -> dict[str, float]:
        """A score of the predictions for the whole set."""
        predictions, labels = [], []
        for index in range(self._batches.left):
            pause()
            x, y, *weights = self._batches[index]
            predictions.append(keras.ops.convert_to_numpy(self._predict(x)))
            labels.append((y, *(weights or [np.ones(len(y))])))
        columns = [np.concatenate(arrays) for arrays in zip(*labels, strict=True)]
        scores = score(*columns, np.concatenate(predictions))
        scores = {name: float(value) for name, value in scores.items()}
        for name, value in scores.items():
            if math.isnan(value):
                raise NotFiniteError(
                    f"val_{name} is nan: the validation examples do not define it; "
                    "validate on more of them"
                )
        return scores

    def illustrate(self, folder: Path) -> list[Path]:
        return []
