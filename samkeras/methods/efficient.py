"""ESAM: a perturbation of some weights, and the gradient of some examples."""

import math
from typing import Any, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number, is_number
from samkeras.methods.draws import Draws
from samkeras.methods.method import (
    SHARE,
    Context,
    Perturbation,
    PerturbationOptions,
    resize,
)

Tensor = Any
FORWARD = 1 / 3  # of a pass, the rest of which is the backward one


@keras.saving.register_keras_serializable(package="samkeras")
class ESAM(Perturbation):
    """Efficient SAM (Du et al. 2022, algorithm 1).

    Stochastic weight perturbation: each weight is perturbed with probability beta,

        epsilon = mask * rho / beta * g / (||g||_2 + 1e-12)

    with the norm of all of g. Selection of sharpness-sensitive data: the result is the
    gradient at w + epsilon of the gamma * n of n examples, rounded up, whose loss rises
    most from w to there, by their weights. Their losses there cost a pass forward, in
    which BatchNorm's statistics stay; in the last pass BatchNorm, and dropout, see the
    chosen ones alone.

    With `m_sharpness` each group chooses its own, and on several devices TensorFlow's
    replicas do, where JAX chooses from the whole batch. The authors' code masks whole
    tensors, one step late, and keeps what lies strictly above a cutoff: one example
    less, and none of equal ones.

    Args:
        rho: norm of epsilon before it is masked, a number >= 0 or a schedule. Default
            0.05, the authors'.
        beta: share of the weights that are perturbed, > 0 and <= 1, or a schedule.
            Default 0.6, the authors' for CIFAR. It saves nothing here.
        gamma: share of the examples whose gradient is taken, > 0 and <= 1. Default 0.5,
            the authors'.
        seed: seed of the masks, 0 <= seed < 2**32. Default 0.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range, or the loss takes no weights of
            examples.
        TypeError: `rho` or `beta` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.ESAM(rho=0.05, gamma=0.5))
    """

    uses_losses = True
    beta = Number(*SHARE)

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        beta: float | LearningRateSchedule = 0.6,
        gamma: float = 0.5,
        seed: int = 0,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        if not is_number(gamma, 0) or not 0 < gamma <= 1:
            raise ValueError(
                f"gamma must be a number > 0 and <= 1. Received: gamma={gamma!r}"
            )
        self._draws = Draws(seed)
        self.beta, self.gamma, self.seed = beta, float(gamma), self._draws.seed
        is_whole = self.gamma == 1  # all are taken, whatever their losses
        self.passes = 1 + (self.gamma + (0 if is_whole else FORWARD)) / self.every

    def epsilon(self, context: Context) -> list[Tensor]:
        epsilon = self.in_scope(context, resize, context.gradient)
        beta = self.number(context, "beta")
        chosen = self._draws.choose(epsilon, context.step, beta)
        return [
            ops.where(is_chosen, e / ops.cast(beta, e.dtype), ops.zeros_like(e))
            for is_chosen, e in zip(chosen, epsilon, strict=True)
        ]

    def sharpen(self, context: Context) -> list[Tensor]:
        epsilon = self.perturb(context)
        if self.gamma == 1:
            return context.gradients_at(epsilon)
        before, after = context.here.losses, context.losses_at(epsilon)
        # An example that counts nothing at both, as those that fill up a batch, comes
        # last.
        is_spare = ops.logical_and(before == 0, after == 0)
        rises = ops.where(is_spare, -math.inf, after - before)
        _, chosen = ops.top_k(rises, self._count(rises))
        # In the batch's order.
        return context.at(epsilon, ops.sort(chosen)).gradient

    def _count(self, losses: Tensor) -> Any:
        """The number of examples that are chosen."""
        size = losses.shape[0]
        if size is not None:
            return math.ceil(self.gamma * size - 1e-9)
        share = self.gamma * ops.cast(ops.shape(losses)[0], "float64") - 1e-9
        return ops.cast(ops.ceil(share), "int32")

    def get_config(self) -> dict[str, Any]:
        own = {"gamma": self.gamma, "seed": self.seed}
        return {**super().get_config(), **own}
