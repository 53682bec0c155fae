"""SAM itself, and two perturbations that it is compared with."""

import math
from numbers import Real
from typing import Any, Self, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import is_integer
from samkeras.methods.draws import Draws
from samkeras.methods.method import (
    NORM_EPSILON,
    Context,
    Perturbation,
    PerturbationOptions,
    resize,
)
from samkeras.tensors import add, dot, global_norm, scale, widest

Tensor = Any


class SAMOptions(PerturbationOptions, total=False):
    """What the methods that perturb as `SAM` does take beside their own arguments."""

    p: float
    steps: int


@keras.saving.register_keras_serializable(package="samkeras")
class SAM(Perturbation):
    """Sharpness-aware minimization (Foret et al. 2021, equation 2).

    With 1/p + 1/q = 1 and g the gradient over all trainable weights as one vector,

        epsilon = rho * sign(g) |g|^(q-1) / (||g||_q^(q/p) + 1e-12)

    which is rho * g / (||g||_2 + 1e-12) for p = 2 and rho * sign(g) for p = inf.
    With k > 1 ascent steps, each moves by rho / k along the gradient of the point
    reached, so that epsilon never leaves the ball of radius rho.

    Args:
        rho: radius of the ball, a number >= 0 or a schedule. Default 0.05, the authors'
            for CIFAR-10 and ImageNet.
        p: norm of the ball, 1 < p <= inf. Default 2.
        steps: number k >= 1 of ascent steps, each costs one pass. Default 1.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.SAM(rho=0.05))
        >>> model.method.rho = 0.1  # takes effect without recompiling
        >>> samkeras.SAM(rho=0.05, steps=3).passes
        4.0
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        p: float = 2.0,
        steps: int = 1,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        if not isinstance(p, Real) or not p > 1:
            raise ValueError(f"p must be a number > 1, or inf. Received: p={p!r}")
        if not is_integer(steps) or steps < 1:
            raise ValueError(
                f"steps must be an integer >= 1. Received: steps={steps!r}"
            )
        self.p = float(p)
        self.steps = int(steps)
        self.passes = 1 + self.steps / self.every  # one at w, one after each ascent

    def epsilon(self, context: Context) -> list[Tensor]:
        epsilon = self.in_scope(context, self._ascend, context.gradient)
        for _ in range(self.steps - 1):
            reached = context.at(epsilon, ascends=True).gradient
            epsilon = add(epsilon, self.in_scope(context, self._ascend, reached))
        return epsilon

    def _ascend(self, rho: Tensor, gradients: list[Tensor]) -> list[Tensor]:
        radius = rho / self.steps
        if self.p == 2:
            return resize(radius, gradients)
        if math.isinf(self.p):
            return scale([ops.sign(g) for g in gradients], radius)
        q = self.p / (self.p - 1)
        # Epsilon does not change with the length of g. Entries relative to the largest
        # keep their powers from underflowing: p = 1.1 means q = 11.
        wide = [ops.cast(g, widest(gradients)) for g in gradients]
        largest = ops.max(ops.stack([ops.max(ops.abs(g)) for g in wide]))
        ratios = [g / (largest + NORM_EPSILON) for g in wide]
        norm_q_to_q = sum(ops.sum(ops.power(ops.abs(r), q)) for r in ratios)
        factor = radius / (ops.power(norm_q_to_q, 1 / self.p) + NORM_EPSILON)
        return [
            ops.cast(factor * ops.sign(r) * ops.power(ops.abs(r), q - 1), g.dtype)
            for r, g in zip(ratios, gradients, strict=True)
        ]

    def get_config(self) -> dict[str, Any]:
        # Strict JSON has no infinity, so the p of the largest ball travels as a word.
        p = "inf" if math.isinf(self.p) else self.p
        return {**super().get_config(), "p": p, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        return super().from_config({**config, "p": float(config["p"])})


@keras.saving.register_keras_serializable(package="samkeras")
class SecondOrderSAM(Perturbation):
    """SAM with the term that its authors leave out (Foret et al. 2021, appendix C.4):
    the whole gradient of w -> L(w + epsilon(w)),

        g_s + (d epsilon / d w)^T g_s,    epsilon = rho * g / (||g||_2 + 1e-12)

    With n = ||g||_2 and the Hessian H at w the second term is

        H (rho / n * (g_s - <g, g_s> / n^2 * g))

    and zero where g is. It costs about two passes more than SAM's.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, SAM's.
        options: those of `Perturbation`.

    Raises:
        ValueError: a model has no second derivatives.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.SecondOrderSAM(rho=0.05))
    """

    passes = 4.0

    def epsilon(self, context: Context) -> list[Tensor]:
        return self.in_scope(context, resize, context.gradient)

    def combine(self, context: Context, perturbed: list[Tensor]) -> list[Tensor]:
        chosen = self.restrict(context)
        vector = self.in_scope(context, _pull_back, chosen.gradient, perturbed)
        # Epsilon moves the chosen weights alone, and with the gradient of all of them.
        return add(perturbed, context.hessian_product(chosen.mask(vector)))


def _pull_back(
    rho: Tensor, gradient: list[Tensor], vector: list[Tensor]
) -> list[Tensor]:
    """The derivative of rho * g / ||g|| by g, a symmetric matrix, times a vector."""
    length = global_norm(gradient)
    is_zero = ops.equal(length, 0)
    length = ops.where(is_zero, ops.ones_like(length), length)
    direction = scale(gradient, 1 / length)
    along = scale(direction, dot(direction, vector))
    factor = ops.where(is_zero, ops.zeros_like(length), rho / length)
    return scale([v - a for v, a in zip(vector, along, strict=True)], factor)


@keras.saving.register_keras_serializable(package="samkeras")
class UnnormalizedSAM(Perturbation):
    """SAM without normalization, epsilon = rho * g, as the theory analyses it
    (Andriushchenko and Flammarion 2022).

    Args:
        rho: factor of the gradient, a number >= 0 or a schedule. Default 0.05, SAM's.
        options: those of `Perturbation`.

    Raises:
        ValueError: `rho` is negative or not finite.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.UnnormalizedSAM(rho=0.01))
    """

    def epsilon(self, context: Context) -> list[Tensor]:
        def ascend(rho: Tensor, gradient: list[Tensor]) -> list[Tensor]:
            return scale(gradient, rho)

        return self.in_scope(context, ascend, context.gradient)


@keras.saving.register_keras_serializable(package="samkeras")
class RandomPerturbation(Perturbation):
    """A control for SAM: epsilon of norm rho in a uniformly random direction.

    The direction is a function of (seed, step) alone, so that it repeats on the same
    backend and needs nothing saved.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05, SAM's.
        seed: seed of the directions, 0 <= seed < 2**32. Default 0.
        options: those of `Perturbation`.

    Raises:
        ValueError: `seed` is not such an integer.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.RandomPerturbation(rho=0.05))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        seed: int = 0,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        self._draws = Draws(seed)
        self.seed = self._draws.seed

    def epsilon(self, context: Context) -> list[Tensor]:
        normals = self._draws.like(context.gradient, context.step, keras.random.normal)
        return self.in_scope(context, resize, context.mask(normals))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "seed": self.seed}
