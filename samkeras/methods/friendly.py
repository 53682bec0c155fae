"""F-SAM: a perturbation along what sets a batch apart from the others."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import is_number
from samkeras.methods.method import Context, Perturbation, Role, resize

Tensor = Any
ORDERS = ("code", "paper")


@keras.saving.register_keras_serializable(package="samkeras")
class FSAM(Perturbation):
    """Friendly sharpness-aware minimization (Li et al. 2024, algorithm 1).

    With m the moving average of the gradients g,

        epsilon = rho * d / (||d||_2 + 1e-12)
        d = g_t - sigma * m_(t-1),    m_t = ema_decay * m_(t-1) + (1 - ema_decay) * g_t

    where m starts at the first gradient, for which d is g itself. That is the order of
    the authors' code, which their numbers come from; `order="paper"` is that of their
    text, d = g_t - sigma * m_t with m starting at zero. Where batches hardly differ, d
    is rounding errors.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05.
        sigma: share of the average that is taken off, a number >= 0. Default 1.
        ema_decay: decay of the average, >= 0 and < 1. Default 0.9.
        order: "code" or "paper". Default "code".
        **kwargs: `only` and `scope`; see `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Example:

        model.compile("sgd", "mse", method=samkeras.FSAM(rho=0.1, ema_decay=0.95))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        sigma: float = 1.0,
        ema_decay: float = 0.9,
        order: Literal["code", "paper"] = "code",
        **kwargs: Any,
    ):
        super().__init__(rho, **kwargs)
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
        self.sigma = float(sigma)
        self.ema_decay = float(ema_decay)
        self.order = order

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        self._has_mean = self.add_state((), "has_mean")
        self._means = [self.add_state_like(w, "gradient_mean") for w in weights]

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

    def update(self, context: Context, result: list[Tensor]) -> None:
        means = self._average(context.gradient)
        if self.order == "code":
            means = [
                ops.where(self._has_mean > 0, mean, ops.cast(g, mean.dtype))
                for mean, g in zip(means, context.gradient, strict=True)
            ]
        for variable, mean in zip(self._means, context.mask(means), strict=True):
            variable.assign(mean)
        self._has_mean.assign(1.0)

    def _average(self, gradient: list[Tensor]) -> list[Tensor]:
        """The mean with one more gradient."""
        return [
            self.ema_decay * m + (1 - self.ema_decay) * ops.cast(g, m.dtype)
            for m, g in zip(self._means, gradient, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sigma": self.sigma,
            "ema_decay": self.ema_decay,
            "order": self.order,
        }
