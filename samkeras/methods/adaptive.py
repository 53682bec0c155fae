"""ASAM: a ball that stretches with the weights."""

import math
from typing import Any, Self, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number
from samkeras.methods.method import (
    NORM_EPSILON,
    Context,
    Perturbation,
    PerturbationOptions,
)
from samkeras.tensors import global_norm, scale

Tensor = Any


@keras.saving.register_keras_serializable(package="samkeras")
class ASAM(Perturbation):
    """Adaptive sharpness-aware minimization (Kwon et al. 2021, equation 5).

    With T = |w| + eta, entry by entry, and T = 1 for biases and the offsets of
    normalization,

        epsilon = rho * T^2 g / (||T g||_2 + 1e-12)     for p = 2
        epsilon = rho * T sign(g)                       for p = inf

    so that epsilon follows a rescaling of the weights that leaves the loss as it is.
    Its rho is about ten times that of SAM.

    Args:
        rho: radius, a number >= 0 or a schedule. Default 0.5, the authors' for
            CIFAR-10.
        eta: what keeps weights near zero moving, a number >= 0 or a schedule. Default
            0.01, the authors'. With 0 a weight of zero is not perturbed.
        p: norm of the ball, 2 or inf. Default 2.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `eta` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.ASAM(rho=0.5))
    """

    eta = Number()

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.5,
        eta: float | LearningRateSchedule = 0.01,
        p: float = 2.0,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        if p not in (2, math.inf):
            raise ValueError(f"p must be 2 or inf. Received: p={p!r}")
        self.eta = eta
        self.p = float(p)

    def epsilon(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        eta = self.number(context, "eta")
        lengths = [
            ops.ones_like(w) if role.is_offset else ops.abs(w) + ops.cast(eta, w.dtype)
            for w, role in zip(context.weights, context.roles, strict=True)
        ]
        lengths = [ops.cast(t, g.dtype) for t, g in zip(lengths, gradient, strict=True)]
        return self.in_scope(context, self._ascend, gradient, lengths)

    def _ascend(
        self, rho: Tensor, gradient: list[Tensor], lengths: list[Tensor]
    ) -> list[Tensor]:
        def stretch(tensors: list[Tensor]) -> list[Tensor]:
            return [t * x for t, x in zip(lengths, tensors, strict=True)]

        if math.isinf(self.p):
            return scale(stretch([ops.sign(g) for g in gradient]), rho)
        stretched = stretch(gradient)
        factor = rho / (global_norm(stretched) + NORM_EPSILON)
        return scale(stretch(stretched), factor)

    def get_config(self) -> dict[str, Any]:
        # Strict JSON has no infinity.
        p = "inf" if math.isinf(self.p) else self.p
        return {**super().get_config(), "p": p}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return super().from_config({**config, "p": float(config["p"])})
