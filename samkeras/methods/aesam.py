"""AE-SAM: SAM where the gradient is large."""

import sys
from collections.abc import Sequence
from typing import Any, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import is_number
from samkeras.methods.method import Context, Role
from samkeras.methods.sam import SAM, SAMOptions
from samkeras.tensors import dot

Tensor = Any


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
        ema_decay: d, >= 0 and < 1. Default 0.9, the authors'.
        options: those of `SAM` and `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.AESAM(rho=0.1, threshold=0.5))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        threshold: float | LearningRateSchedule = 0.0,
        ema_decay: float = 0.9,
        **options: Unpack[SAMOptions],
    ):
        super().__init__(rho, **options)
        is_schedule = isinstance(threshold, LearningRateSchedule)
        if not is_schedule and not is_number(threshold, -sys.float_info.max):
            raise ValueError(
                "threshold must be a finite number or a keras LearningRateSchedule. "
                f"Received: threshold={threshold!r}"
            )
        if not is_number(ema_decay, 0) or ema_decay >= 1:
            raise ValueError(
                "ema_decay must be a number >= 0 and < 1. "
                f"Received: ema_decay={ema_decay!r}"
            )
        self.threshold = threshold
        self.ema_decay = float(ema_decay)
        self.passes = 1 + (self.passes - 1) / 2

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._mean = self.add_state((), "squared_norm_mean")
        self._variance = self.add_state((), "squared_norm_variance")

    def is_due(self, context: Context) -> Tensor | None:
        squared, mean, variance = self._look(context)
        threshold = self.threshold
        if isinstance(threshold, LearningRateSchedule):
            threshold = ops.cast(threshold(context.step), variance.dtype)
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
        mean = self.ema_decay * self._mean + (1 - self.ema_decay) * squared
        deviation = ops.square(squared - mean)
        variance = self.ema_decay * self._variance + (1 - self.ema_decay) * deviation
        return squared, mean, variance

    def get_config(self) -> dict[str, Any]:
        threshold = keras.saving.serialize_keras_object(self.threshold)
        own = {"threshold": threshold, "ema_decay": self.ema_decay}
        return {**super().get_config(), **own}
