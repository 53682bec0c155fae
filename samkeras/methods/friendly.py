"""F-SAM and VaSSO: perturbations along a gradient without its mean over the steps, or
along that mean."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import is_number
from samkeras.methods.method import (
    Context,
    Perturbation,
    PerturbationOptions,
    Role,
    resize,
)

Tensor = Any
ORDERS = ("code", "paper")


class _AveragingPerturbation(Perturbation):
    """One with a moving average of the gradients.

    Args:
        decay: of the average.
    """

    starts_at_gradient = True
    """whether the average starts at the first gradient, or at zero"""

    def __init__(
        self,
        rho: float | LearningRateSchedule,
        decay: float,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        self._decay = decay

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._has_mean = self.add_state((), "has_mean")
        self._means = [self.add_state_like(w, "gradient_mean") for w in weights]

    def update(self, context: Context, result: list[Tensor]) -> None:
        means = context.mask(self._average(context.gradient))
        for variable, mean in zip(self._means, means, strict=True):
            variable.assign(mean)
        self._has_mean.assign(1.0)

    def _average(self, gradient: list[Tensor]) -> list[Tensor]:
        """The mean with one more gradient."""
        wide = [
            ops.cast(g, m.dtype) for g, m in zip(gradient, self._means, strict=True)
        ]
        means = [
            self._decay * m + (1 - self._decay) * g
            for m, g in zip(self._means, wide, strict=True)
        ]
        if not self.starts_at_gradient:
            return means
        has_mean = self._has_mean > 0
        return [ops.where(has_mean, m, g) for m, g in zip(means, wide, strict=True)]


@keras.saving.register_keras_serializable(package="samkeras")
class FSAM(_AveragingPerturbation):
    """Friendly sharpness-aware minimization (Li et al. 2024, algorithm 1).

    With m the moving average of the gradients g,

        epsilon = rho * d / (||d||_2 + 1e-12)
        d = g_t - sigma * m_(t-1),    m_t = ema_decay * m_(t-1) + (1 - ema_decay) * g_t

    where m starts at the first gradient, for which d is g itself. That is the order of
    the authors' code, which their numbers come from; `order="paper"` is that of their
    text, d = g_t - sigma * m_t with m starting at zero. Where batches hardly differ, d
    is rounding errors.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, that of the
            authors' class; 0.2 in their script for CIFAR-100.
        sigma: share of the average that is taken off, a number >= 0. Default 1, the
            paper's.
        ema_decay: decay of the average, >= 0 and < 1. Default 0.9, that of the
            authors' class; 0.6 in that script.
        order: "code" or "paper". Default "code".
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.FSAM(rho=0.1, ema_decay=0.95))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        sigma: float = 1.0,
        ema_decay: float = 0.9,
        order: Literal["code", "paper"] = "code",
        **options: Unpack[PerturbationOptions],
    ):
        if not is_number(sigma, 0):
            raise ValueError(
                f"sigma must be a finite number >= 0. Received: sigma={sigma!r}"
            )
        if not is_number(ema_decay, 0) or ema_decay >= 1:
            raise ValueError(
                "ema_decay must be a number >= 0 and < 1. "
                f"Received: ema_decay={ema_decay!r}"
            )
        if order not in ORDERS:
            raise ValueError(
                f"order must be one of {', '.join(ORDERS)}. Received: order={order!r}"
            )
        super().__init__(rho, float(ema_decay), **options)
        self.sigma = float(sigma)
        self.ema_decay = float(ema_decay)
        self.order = order
        self.starts_at_gradient = order == "code"

    def epsilon(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        means = self._means
        if self.order == "paper":
            means = self._average(gradient)
        differences = [
            g - self.sigma * ops.cast(m, g.dtype)
            for g, m in zip(gradient, means, strict=True)
        ]
        # What was pruned lately, or is not perturbed, still has a mean.
        return self.in_scope(context, resize, context.mask(differences))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sigma": self.sigma,
            "ema_decay": self.ema_decay,
            "order": self.order,
        }


@keras.saving.register_keras_serializable(package="samkeras")
class VaSSO(_AveragingPerturbation):
    """Variance-suppressed sharpness-aware optimization (Li and Giannakis 2023).

        epsilon = rho * d / (||d||_2 + 1e-12)
        d_t = (1 - theta) * d_(t-1) + theta * g_t,    d_0 = g_0

    the opposite of F-SAM: along what the gradients of batches have in common.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, ours.
        theta: weight of the newest gradient, > 0 and <= 1; with 1 it is SAM. Default
            0.9, that of an example in the authors' code.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.VaSSO(rho=0.1, theta=0.4))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        theta: float = 0.9,
        **options: Unpack[PerturbationOptions],
    ):
        if not is_number(theta, 0) or not 0 < theta <= 1:
            raise ValueError(
                f"theta must be a number > 0 and <= 1. Received: theta={theta!r}"
            )
        super().__init__(rho, 1 - float(theta), **options)
        self.theta = float(theta)

    def epsilon(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        means = [
            ops.cast(m, g.dtype)
            for m, g in zip(self._average(gradient), gradient, strict=True)
        ]
        return self.in_scope(context, resize, context.mask(means))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "theta": self.theta}
