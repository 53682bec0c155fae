"""Perturbations along the gradient whose length depends on it."""

from collections.abc import Callable, Sequence
from typing import Any, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number
from samkeras.methods.method import (
    NORM_EPSILON,
    Context,
    Perturbation,
    PerturbationOptions,
    Role,
)
from samkeras.tensors import dot, global_norm, scale

Tensor = Any


def is_from_0_to_1(number: float) -> bool:
    return 0 <= number <= 1


@keras.saving.register_keras_serializable(package="samkeras")
class UnifiedSAM(Perturbation):
    """SAM and its unnormalized variant in one (Oikonomou and Loizou 2025).

        epsilon = rho * (1 - lam + lam / (||g||_2 + 1e-12)) * g

    which is SAM for lam = 1 and UnnormalizedSAM for lam = 0.

    Args:
        rho: a number >= 0 or a schedule. Default 0.05, ours.
        lam: how far it is normalized, a number from 0 to 1, or a keras
            LearningRateSchedule of the step. Default 0.5, ours.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `lam` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.UnifiedSAM(rho=0.1, lam=0.9))
    """

    lam = Number("a number from 0 to 1", is_from_0_to_1)

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        lam: float | LearningRateSchedule = 0.5,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        self.lam = lam

    def epsilon(self, context: Context) -> list[Tensor]:
        lam = self.number(context, "lam")

        def ascend(rho: Tensor, gradient: list[Tensor]) -> list[Tensor]:
            norm = global_norm(gradient) + NORM_EPSILON
            share = ops.cast(lam, norm.dtype)
            return scale(gradient, rho * (1 - share) + rho * share / norm)

        return self.in_scope(context, ascend, context.gradient)


@keras.saving.register_keras_serializable(package="samkeras")
class MongeSAM(Perturbation):
    """Monge SAM (Jacobsen and Arvanitidis 2025): ascent of length rho in the metric
    I + g g^T of the loss' graph.

        epsilon = rho * g / ((||g||_2 + 1e-12) * sqrt(1 + ||g||_2^2))

    which is SAM near a stationary point, and shorter where the loss is steep. The
    formula is derived from the metric, and not compared with the authors' code.

    Args:
        rho: radius in the metric, a number >= 0 or a schedule. Default 0.05, ours.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.MongeSAM(rho=0.1))
    """

    def epsilon(self, context: Context) -> list[Tensor]:
        def ascend(rho: Tensor, gradient: list[Tensor]) -> list[Tensor]:
            square = dot(gradient, gradient)
            norm = ops.sqrt(square) + NORM_EPSILON
            return scale(gradient, rho / (norm * ops.sqrt(1 + square)))

        return self.in_scope(context, ascend, context.gradient)


@keras.saving.register_keras_serializable(package="samkeras")
class LightSAM(Perturbation):
    """The perturbation of LightSAM (Cheng et al. 2025), whose length needs no tuning.

        epsilon = rho * g_t / sqrt(a_t)
        a_t = a_(t-1) + ||g_t||_2^2,    a_(-1) = 1e-16

    as AdaGrad-Norm has it, so that it becomes shorter with the steps. The other half of
    their algorithm, the same for the descent, is the optimizer's affair, such as of
    keras' Adagrad.

    Args:
        rho: a number >= 0 or a schedule. Default 0.05, ours.
        only, every, start: see `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("adagrad", "mse", method=samkeras.LightSAM(rho=0.5))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        only: str | Callable[[keras.Variable, Role], bool] = "all",
        every: int = 1,
        start: int = 0,
    ):
        # The sum is of one vector: there is no scope.
        super().__init__(rho, only=only, every=every, start=start)

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._sum = self.add_state((), "sum_of_squares")
        self._sum.assign(1e-16)

    def epsilon(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        length = ops.sqrt(self._grow(gradient))
        return scale(gradient, self.radius(context) / length)

    def update(self, context: Context, result: list[Tensor]) -> None:
        self._sum.assign(self._grow(self.restrict(context).gradient))

    def _grow(self, gradient: list[Tensor]) -> Tensor:
        return self._sum + ops.cast(dot(gradient, gradient), self._sum.dtype)
