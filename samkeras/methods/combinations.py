"""Methods that combine the gradient at w with SAM's, at w + epsilon."""

from typing import Any, Unpack

import keras
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number
from samkeras.methods.method import FRACTION, NORM_EPSILON, Context
from samkeras.methods.sam import SAM, SAMOptions
from samkeras.tensors import add, dot, global_norm, scale

Tensor = Any


@keras.saving.register_keras_serializable(package="samkeras")
class GSAM(SAM):
    """Surrogate gap guided SAM (Zhuang et al. 2022, algorithm 1).

    With SAM's gradient g_s and the part of g orthogonal to it, g_o,

        result = g_s - alpha * g_o,    g_o = g - (<g, g_s> / ||g_s||_2^2) * g_s

    which descends on the surrogate gap, L(w + epsilon) - L(w), too, at no cost for
    L(w + epsilon). The authors let rho follow the learning rate, from rho_max down to
    rho_min: give it a schedule. Not so the option of their code that adds a part of g_s
    to g.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, ours; in
            big_vision it falls from 0.6 to 0.1.
        alpha: weight of g_o, a number >= 0 or a schedule. Default 0.4, that of the
            authors' class; 0.6 for vision transformers in big_vision.
        options: those of `SAM` and `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `alpha` is neither a number nor a schedule.

    Examples:
        >>> model.compile("adamw", "mse", method=samkeras.GSAM(rho=0.1, alpha=0.6))
    """

    alpha = Number()

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        alpha: float | LearningRateSchedule = 0.4,
        **options: Unpack[SAMOptions],
    ):
        super().__init__(rho, **options)
        self.alpha = alpha

    def combine(self, context: Context, perturbed: list[Tensor]) -> list[Tensor]:
        direction = scale(perturbed, 1 / (global_norm(perturbed) + NORM_EPSILON))
        along = scale(direction, dot(context.gradient, direction))
        orthogonal = _subtract(context.gradient, along)
        return add(perturbed, scale(orthogonal, -self.number(context, "alpha")))


@keras.saving.register_keras_serializable(package="samkeras")
class GNP(SAM):
    """Penalizing the gradient norm (Zhao et al. 2022, equation 9 and algorithm 1).

        result = (1 - alpha) * g + alpha * g_s

    is the gradient of L + lambda * ||g||_2, by finite differences of length rho, for
    alpha = lambda / rho. With alpha 1 it is SAM's. The first gradient is g as in the
    paper, not g / ||g||_2 as in the default of the authors' code.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.1, the authors' for
            CIFAR.
        alpha: weight of SAM's gradient, a number >= 0 or a schedule. Default 0.8, the
            authors'.
        options: those of `SAM` and `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `alpha` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.GNP(rho=0.1, alpha=0.8))
    """

    alpha = Number()

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.1,
        alpha: float | LearningRateSchedule = 0.8,
        **options: Unpack[SAMOptions],
    ):
        super().__init__(rho, **options)
        self.alpha = alpha

    def combine(self, context: Context, perturbed: list[Tensor]) -> list[Tensor]:
        return _mix(context.gradient, perturbed, self.number(context, "alpha"))


@keras.saving.register_keras_serializable(package="samkeras")
class WSAM(SAM):
    """Weighted sharpness (Yue et al. 2023, algorithms 1 and 2).

    The sharpness, L(w + epsilon) - L(w), has the weight alpha = gamma / (1 - gamma) in
    the loss, whose gradient is

        g + alpha * (g_s - g)

    Decoupled, the optimizer's step is that of g, and the weights move by

        - learning_rate * alpha * (g_s - g)

    besides, before it: the same for plain SGD, not for momentum or Adam. Clipping is of
    g alone then. With gamma 0.5 the first is SAM's, with 0 it is g.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, the authors'.
        gamma: how much sharpness counts, >= 0 and < 1, or a schedule. Default 0.9, the
            authors'.
        decoupled: whether the sharpness passes the optimizer by. Default True, the
            authors'.
        options: those of `SAM` and `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `gamma` is neither a number nor a schedule.

    Examples:
        >>> model.compile("adam", "mse", method=samkeras.WSAM(rho=0.05, gamma=0.8))
    """

    gamma = Number(*FRACTION)

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        gamma: float | LearningRateSchedule = 0.9,
        decoupled: bool = True,
        **options: Unpack[SAMOptions],
    ):
        super().__init__(rho, **options)
        self.gamma = gamma
        self.decoupled = bool(decoupled)

    def combine(self, context: Context, perturbed: list[Tensor]) -> list[Tensor]:
        if self.decoupled:
            return perturbed
        return _mix(context.gradient, perturbed, self._weigh(context))

    def split(
        self, context: Context, result: list[Tensor]
    ) -> tuple[list[Tensor], list[Tensor] | None]:
        if not self.decoupled:
            return result, None
        sharpness = _subtract(result, context.gradient)
        return context.gradient, scale(sharpness, self._weigh(context))

    def _weigh(self, context: Context) -> Tensor:
        gamma = self.number(context, "gamma")
        return gamma / (1 - gamma)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "decoupled": self.decoupled}


@keras.saving.register_keras_serializable(package="samkeras")
class StableSAM(SAM):
    """SAM's direction at the length of the gradient at w (Tan et al. 2024, equation 5).

        result = ||g||_2 / (||g_s||_2 + 1e-12) * g_s

    One of two methods that are called SSAM.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, ours.
        options: those of `SAM` and `Perturbation`.

    Raises:
        ValueError: `rho` is negative or not finite.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.StableSAM(rho=0.1))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        **options: Unpack[SAMOptions],
    ):
        super().__init__(rho, **options)

    def combine(self, context: Context, perturbed: list[Tensor]) -> list[Tensor]:
        length = global_norm(perturbed) + NORM_EPSILON
        return scale(perturbed, global_norm(context.gradient) / length)


def _mix(first: list[Tensor], second: list[Tensor], share: Tensor) -> list[Tensor]:
    return add(scale(first, 1 - share), scale(second, share))


def _subtract(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    return [a - b for a, b in zip(left, right, strict=True)]
