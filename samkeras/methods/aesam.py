"""AE-SAM: SAM where the gradient is large."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number
from samkeras.methods.method import FRACTION, Context, Role
from samkeras.methods.sam import SAM, SAMOptions
from samkeras.tensors import dot

Tensor = Any


def is_any(number: float) -> bool:
    return True


@keras.saving.register_keras_serializable(package="samkeras")
class AESAM(SAM):
    """SAM by an adaptive policy (Jiang et al. 2023, algorithm 1).

    With s = ||g||_2^2 and d = ema_decay, a step is perturbed where

        s_t >= m_t + c_t * sqrt(v_t)
        m_t = d * m_(t-1) + (1 - d) * s_t
        v_t = d * v_(t-1) + (1 - d) * (s_t - m_t)^2

    and takes g elsewhere; m and v start at zero. The authors' threshold c falls in a
    line from 1 to -1 over the training, so that a sixth of the first steps and five
    sixths of the last ones are perturbed, which `passes` counts as half:

        threshold=keras.optimizers.schedules.PolynomialDecay(1.0, num_steps, -1.0)

    With `m_sharpness` each group compares its own gradient with those of whole batches,
    which are smaller: more groups are perturbed.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, ours.
        threshold: c, a finite number or a schedule of the step. Default 0, the mean of
            the authors'.
        ema_decay: d, >= 0 and < 1, or a schedule. Default 0.9, the authors'.
        options: those of `SAM` and `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho`, `threshold` or `ema_decay` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.AESAM(rho=0.1, threshold=0.5))
    """

    threshold = Number("a finite number", is_any)
    ema_decay = Number(*FRACTION)

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        threshold: float | LearningRateSchedule = 0.0,
        ema_decay: float | LearningRateSchedule = 0.9,
        **options: Unpack[SAMOptions],
    ):
        super().__init__(rho, **options)
        self.threshold, self.ema_decay = threshold, ema_decay
        self.passes = 1 + (self.passes - 1) / 2

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._mean = self.add_state((), "squared_norm_mean")
        self._variance = self.add_state((), "squared_norm_variance")

    def is_due(self, context: Context) -> Tensor | None:
        squared, mean, variance = self._look(context)
        threshold = ops.cast(self.number(context, "threshold"), variance.dtype)
        is_large = squared >= mean + threshold * ops.sqrt(variance)
        is_turn = super().is_due(context)
        return is_large if is_turn is None else ops.logical_and(is_turn, is_large)

    def update(self, context: Context, result: list[Tensor]) -> None:
        _, mean, variance = self._look(context)
        self._mean.assign(mean)
        self._variance.assign(variance)

    def _look(self, context: Context) -> tuple[Tensor, Tensor, Tensor]:
        """The squared norm of the gradient, and its mean and variance with it."""
        squared = ops.cast(dot(context.gradient, context.gradient), "float32")
        decay = ops.cast(self.number(context, "ema_decay"), "float32")
        mean = decay * self._mean + (1 - decay) * squared
        deviation = ops.square(squared - mean)
        variance = decay * self._variance + (1 - decay) * deviation
        return squared, mean, variance
