"""F-SAM and VaSSO: perturbations along a gradient without its mean over the steps, or
along that mean."""

from collections.abc import Sequence
from typing import Any, Literal, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number
from samkeras.methods.method import (
    FRACTION,
    SHARE,
    Context,
    Perturbation,
    PerturbationOptions,
    Role,
    resize,
)
from samkeras.tensors import add, scale

Tensor = Any
ORDERS = ("code", "paper")


class _AveragingPerturbation(Perturbation):
    """One with a moving average of the gradients."""

    starts_at_gradient = True
    """whether the average starts at the first gradient, or at zero"""

    def decay(self, context: Context) -> Tensor:
        """The decay of the average at a step."""
        raise NotImplementedError

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._has_mean = self.add_state((), "has_mean")
        self._means = [self.add_state_like(w, "gradient_mean") for w in weights]

    def update(self, context: Context, result: list[Tensor]) -> None:
        means = context.mask(self.average(context))
        for variable, mean in zip(self._means, means, strict=True):
            variable.assign(mean)
        self._has_mean.assign(1.0)

    def average(self, context: Context) -> list[Tensor]:
        """The mean with the gradient of a step."""
        old = [ops.convert_to_tensor(mean) for mean in self._means]
        wide = [
            ops.cast(g, m.dtype) for g, m in zip(context.gradient, old, strict=True)
        ]
        decay = self.decay(context)
        means = add(scale(old, decay), scale(wide, 1 - decay))
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
        sigma: share of the average that is taken off, a number >= 0 or a schedule.
            Default 1, the paper's.
        ema_decay: decay of the average, >= 0 and < 1, or a schedule. Default 0.9, that
            of the authors' class; 0.6 in that script.
        order: "code" or "paper". Default "code".
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho`, `sigma` or `ema_decay` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.FSAM(rho=0.1, ema_decay=0.95))
    """

    sigma = Number()
    ema_decay = Number(*FRACTION)

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        sigma: float | LearningRateSchedule = 1.0,
        ema_decay: float | LearningRateSchedule = 0.9,
        order: Literal["code", "paper"] = "code",
        **options: Unpack[PerturbationOptions],
    ):
        if order not in ORDERS:
            raise ValueError(
                f"order must be one of {', '.join(ORDERS)}. Received: order={order!r}"
            )
        super().__init__(rho, **options)
        self.sigma, self.ema_decay = sigma, ema_decay
        self.order = order
        self.starts_at_gradient = order == "code"

    def decay(self, context: Context) -> Tensor:
        return self.number(context, "ema_decay")

    def epsilon(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        is_before = self.order == "code"
        means: list[Any] = self._means if is_before else self.average(context)
        means = [ops.cast(m, g.dtype) for m, g in zip(means, gradient, strict=True)]
        differences = add(gradient, scale(means, -self.number(context, "sigma")))
        # What was pruned lately, or is not perturbed, still has a mean.
        return self.in_scope(context, resize, context.mask(differences))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "order": self.order}


@keras.saving.register_keras_serializable(package="samkeras")
class VaSSO(_AveragingPerturbation):
    """Variance-suppressed sharpness-aware optimization (Li and Giannakis 2023).

        epsilon = rho * d / (||d||_2 + 1e-12)
        d_t = (1 - theta) * d_(t-1) + theta * g_t,    d_0 = g_0

    the opposite of F-SAM: along what the gradients of batches have in common.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, ours.
        theta: weight of the newest gradient, > 0 and <= 1, or a schedule; with 1 it is
            SAM. Default 0.9, that of an example in the authors' code.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `theta` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.VaSSO(rho=0.1, theta=0.4))
    """

    theta = Number(*SHARE)

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        theta: float | LearningRateSchedule = 0.9,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        self.theta = theta

    def decay(self, context: Context) -> Tensor:
        return 1 - self.number(context, "theta")

    def epsilon(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        means = [
            ops.cast(m, g.dtype)
            for m, g in zip(self.average(context), gradient, strict=True)
        ]
        return self.in_scope(context, resize, context.mask(means))
