"""Penalties of sharpness by the losses and gradients at random points."""

import functools
from typing import Any, Unpack

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number, is_integer
from samkeras.methods.draws import Draws
from samkeras.methods.method import (
    NORM_EPSILON,
    Context,
    Perturbation,
    PerturbationOptions,
    resize,
)
from samkeras.tensors import add, scale

Tensor = Any


class _UniversalSAM(Perturbation):
    """Of the universal class of sharpness-aware methods (Tahmasebi et al. 2024).

    The loss has lam times a measure of sharpness added, a function of the losses at
    `samples` random points w + epsilon, each of which costs a pass. The seed is of the
    points.
    """

    uses_losses = True
    least_samples = 1
    lam = Number()

    def __init__(
        self,
        rho: float | LearningRateSchedule,
        lam: float | LearningRateSchedule,
        samples: int,
        seed: int,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, **options)
        if not is_integer(samples) or samples < self.least_samples:
            raise ValueError(
                f"samples must be an integer >= {self.least_samples}. "
                f"Received: samples={samples!r}"
            )
        self._draws = Draws(seed)
        self.lam, self.samples, self.seed = lam, int(samples), self._draws.seed
        self.passes = 1 + self.samples / self.every

    def draw(self, context: Context, number: int) -> list[Tensor]:
        """The epsilon of a point."""
        raise NotImplementedError

    def weigh(self, rises: Tensor, rho: Tensor) -> Tensor:
        """What the points' gradients, less that at w, count in the measure's.

        Args:
            rises: float[point], the losses, less that at w.
            rho: the radius.
        """
        raise NotImplementedError

    def epsilon(self, context: Context) -> list[Tensor]:
        return self.draw(context, 0)

    def sharpen(self, context: Context) -> list[Tensor]:
        view, here = self.restrict(context), context.here
        points = [context.at(self.draw(view, i)) for i in range(self.samples)]
        rho = self.radius(context)
        rises = ops.stack([ops.cast(p.loss - here.loss, rho.dtype) for p in points])
        shares = self.number(context, "lam") * self.weigh(rises, rho)
        result = here.gradient
        for number, point in enumerate(points):
            pairs = zip(point.gradient, here.gradient, strict=True)
            result = add(result, scale([p - g for p, g in pairs], shares[number]))
        return result

    def _draw_like(self, context: Context, number: int, draw: Any) -> list[Tensor]:
        """Numbers in the place of the weights that are perturbed."""
        step = context.step * self.samples + number
        return context.mask(self._draws.like(context.gradient, step, draw))

    def get_config(self) -> dict[str, Any]:
        own = {"samples": self.samples, "seed": self.seed}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable(package="samkeras")
class TraceSAM(_UniversalSAM):
    """A penalty of the Hessian's trace (Tahmasebi et al. 2024).

        L(w) + lam * mean of L(w + epsilon) - L(w),    ||epsilon||_2 = rho

    over random directions. With one sample and lam = 1 its gradient is that at a random
    point, as of RandomPerturbation. The authors' code draws the direction tensor by
    tensor and does not normalize it.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.01, the authors'.
        lam: weight of the penalty, a number >= 0 or a schedule. Default 1, the
            authors'.
        samples: random points of a step, >= 1. Default 1, the authors'.
        seed: of the directions, 0 <= seed < 2**32. Default 0.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `lam` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.TraceSAM(rho=0.1, samples=2))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.01,
        lam: float | LearningRateSchedule = 1.0,
        samples: int = 1,
        seed: int = 0,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, lam, samples, seed, **options)

    def draw(self, context: Context, number: int) -> list[Tensor]:
        normals = self._draw_like(context, number, keras.random.normal)
        return self.in_scope(context, resize, normals)

    def weigh(self, rises: Tensor, rho: Tensor) -> Tensor:
        return ops.ones_like(rises) / self.samples


@keras.saving.register_keras_serializable(package="samkeras")
class DetSAM(_UniversalSAM):
    """A penalty of the Hessian's determinant (Tahmasebi et al. 2024).

        L(w) + lam * (mean of exp(-(L(w + epsilon) - L(w)) / 2))^(-2)

    over epsilon uniform in a cube of half side rho. As in the authors' code lam has the
    paper's factor 1 / rho^2 in it.

    Args:
        rho: half side of the cube, a number >= 0 or a schedule. Default 0.01, ours. The
            authors' is 1, of a ResNet-18: a network without BatchNorm diverges there,
            as the penalty is an exponential of the loss.
        lam: weight of the penalty, a number >= 0 or a schedule. Default 1, the
            authors'.
        samples: random points of a step, >= 1. Default 1, the authors'.
        seed: of the points, 0 <= seed < 2**32. Default 0.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `lam` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.DetSAM(rho=0.02))
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.01,
        lam: float | LearningRateSchedule = 1.0,
        samples: int = 1,
        seed: int = 0,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, lam, samples, seed, **options)

    def draw(self, context: Context, number: int) -> list[Tensor]:
        uniform = functools.partial(keras.random.uniform, minval=-1.0, maxval=1.0)
        return self.in_scope(
            context, _stretch, self._draw_like(context, number, uniform)
        )

    def weigh(self, rises: Tensor, rho: Tensor) -> Tensor:
        # Relative to the largest, whose cube must not underflow.
        least = ops.min(rises)
        shares = ops.exp((least - rises) / 2)
        return ops.exp(least) * shares / self.samples / ops.mean(shares) ** 3


@keras.saving.register_keras_serializable(package="samkeras")
class FrobeniusSAM(_UniversalSAM):
    """A penalty of the Hessian's Frobenius norm (Tahmasebi et al. 2024).

        g + lam / rho^2 * covariance of (L(w + epsilon), gradient at w + epsilon)

    the sample covariance over epsilon of independent normal numbers with standard
    deviation rho.

    Args:
        rho: standard deviation of epsilon's numbers, >= 0, or a schedule. Default
            0.005, the authors'.
        lam: weight of the penalty, a number >= 0 or a schedule. Default 0.005, the
            authors'.
        samples: random points of a step, >= 2. Default 2, the authors'.
        seed: of the points, 0 <= seed < 2**32. Default 0.
        options: those of `Perturbation`.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `lam` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.FrobeniusSAM(rho=0.01))
    """

    least_samples = 2

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.005,
        lam: float | LearningRateSchedule = 0.005,
        samples: int = 2,
        seed: int = 0,
        **options: Unpack[PerturbationOptions],
    ):
        super().__init__(rho, lam, samples, seed, **options)

    def draw(self, context: Context, number: int) -> list[Tensor]:
        normals = self._draw_like(context, number, keras.random.normal)
        return self.in_scope(context, _stretch, normals)

    def weigh(self, rises: Tensor, rho: Tensor) -> Tensor:
        # The deviations add up to zero: g is as good as the mean of the gradients.
        deviations = rises - ops.mean(rises)
        return deviations / (self.samples - 1) / (rho**2 + NORM_EPSILON)


def _stretch(rho: Tensor, draws: list[Tensor]) -> list[Tensor]:
    return scale(draws, rho)
