"""What epsilon is: the perturbation of the weights at which SAM takes its gradient.

A perturbation maps the gradients of the loss at the weights, a list of tensors, to a
list of the same shapes that is added to the weights for the second pass.
"""

import math
from collections.abc import Callable
from numbers import Real
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Hyperparameter, is_integer

Tensor = Any

# Added to a norm before dividing by it, as the paper's authors do.
NORM_EPSILON = 1e-12


def widest(tensors: list[Tensor]) -> str:
    """The type to compute numbers of all tensors in: float64 if one of them is, else
    float32, since half-precision squares overflow."""
    dtypes = (keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors)
    return "float64" if "float64" in dtypes else "float32"


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of all tensors as one vector: a scalar of the `widest` type."""
    return ops.sqrt(dot(tensors, tensors))


def dot(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """The inner product of two lists of tensors as vectors: a scalar of the `widest`
    type."""
    dtype = widest([*left, *right])
    products = (
        ops.sum(ops.cast(a, dtype) * ops.cast(b, dtype))
        for a, b in zip(left, right, strict=True)
    )
    return sum(products)


class Perturbation:
    """A rule for epsilon with a radius.

    Args:
        rho: radius, a number >= 0 or a keras LearningRateSchedule of the step.
            Assigning `perturbation.rho` later takes effect without recompiling.

    Raises:
        ValueError: `rho` is negative or not finite.
    """

    def __init__(self, rho: float | LearningRateSchedule = 0.05):
        self._rho = Hyperparameter(rho, "rho")

    @property
    def rho(self) -> float | LearningRateSchedule:
        return self._rho.value

    @rho.setter
    def rho(self, value: float) -> None:
        self._rho.value = value

    @property
    def variables(self) -> list[keras.Variable]:
        """The variables that a compiled step has to read anew at each call."""
        return self._rho.variables

    def __call__(
        self,
        gradients: list[Tensor],
        gradients_at: Callable[[list[Tensor]], list[Tensor]],
        step: Tensor,
        mask: Callable[[list[Tensor]], list[Tensor]] = lambda tensors: tensors,
    ) -> list[Tensor]:
        """Computes epsilon.

        Args:
            gradients: gradients of the loss at the weights w, one per weight.
            gradients_at: epsilon -> gradients at w + epsilon, for further ascent.
            step: int scalar, the optimizer's step.
            mask: sets tensors to zero where weights are pruned, as all gradients are.

        Returns:
            epsilon, one tensor per weight, of its shape.
        """
        raise NotImplementedError

    def get_config(self) -> dict:
        return {"rho": keras.saving.serialize_keras_object(self.rho)}

    @classmethod
    def from_config(cls, config: dict) -> "Perturbation":
        rho = keras.saving.deserialize_keras_object(config["rho"])
        return cls(**{**config, "rho": rho})


@keras.saving.register_keras_serializable(package="samkeras")
class SAM(Perturbation):
    """Sharpness-aware minimization (Foret et al. 2021, equation 2).

    With 1/p + 1/q = 1 and g the gradient over all trainable weights as one vector,

        epsilon = rho * sign(g) |g|^(q-1) / (||g||_q^(q/p) + 1e-12)

    which is rho * g / (||g||_2 + 1e-12) for p = 2 and rho * sign(g) for p = inf.
    With k > 1 ascent steps, each moves by rho / k along the gradient of the point
    reached, so that epsilon never leaves the ball of radius rho.

    Args:
        rho: radius of the ball, a number >= 0 or a schedule. Default 0.05.
        p: norm of the ball, 1 < p <= inf. Default 2.
        steps: number k >= 1 of ascent steps, each costs one pass. Default 1.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.05,
        p: float = 2.0,
        steps: int = 1,
    ):
        super().__init__(rho)
        if not isinstance(p, Real) or not p > 1:
            raise ValueError(f"p must be a number > 1, or inf. Received: p={p!r}")
        if not is_integer(steps) or steps < 1:
            raise ValueError(
                f"steps must be an integer >= 1. Received: steps={steps!r}"
            )
        self.p = float(p)
        self.steps = int(steps)

    def __call__(self, gradients, gradients_at, step, mask=None):
        radius = self._rho.at(step, widest(gradients)) / self.steps
        epsilon = self._ascend(gradients, radius)
        for _ in range(self.steps - 1):
            further = self._ascend(gradients_at(epsilon), radius)
            epsilon = [e + f for e, f in zip(epsilon, further, strict=True)]
        return epsilon

    def _ascend(self, gradients: list[Tensor], radius: Tensor) -> list[Tensor]:
        if self.p == 2:
            return _scaled(gradients, radius / (global_norm(gradients) + NORM_EPSILON))
        if math.isinf(self.p):
            return _scaled([ops.sign(g) for g in gradients], radius)
        q = self.p / (self.p - 1)
        # Epsilon does not change with the length of g. Entries relative to the largest
        # keep their powers from underflowing: p = 1.1 means q = 11.
        wide = [ops.cast(g, widest(gradients)) for g in gradients]
        largest = ops.max(ops.stack([ops.max(ops.abs(g)) for g in wide]))
        ratios = [g / (largest + NORM_EPSILON) for g in wide]
        norm_q_to_q = sum(ops.sum(ops.power(ops.abs(r), q)) for r in ratios)
        scale = radius / (ops.power(norm_q_to_q, 1 / self.p) + NORM_EPSILON)
        return [
            ops.cast(scale * ops.sign(r) * ops.power(ops.abs(r), q - 1), g.dtype)
            for r, g in zip(ratios, gradients, strict=True)
        ]

    def get_config(self) -> dict:
        # Strict JSON has no infinity, so the p of the largest ball travels as a word.
        p = "inf" if math.isinf(self.p) else self.p
        return {**super().get_config(), "p": p, "steps": self.steps}

    @classmethod
    def from_config(cls, config: dict) -> "SAM":
        return super().from_config({**config, "p": float(config["p"])})


@keras.saving.register_keras_serializable(package="samkeras")
class UnnormalizedSAM(Perturbation):
    """SAM without normalization, epsilon = rho * g, as the theory analyses it
    (Andriushchenko and Flammarion 2022).

    Args:
        rho: factor of the gradient, a number >= 0 or a schedule. Default 0.05.
    """

    def __call__(self, gradients, gradients_at, step, mask=None):
        return _scaled(gradients, self._rho.at(step, widest(gradients)))


@keras.saving.register_keras_serializable(package="samkeras")
class RandomPerturbation(Perturbation):
    """A control for SAM: epsilon of norm rho in a uniformly random direction.

    The direction is a function of (seed, step) alone, so that it repeats on the same
    backend and needs nothing saved.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.05.
        seed: seed of the directions, 0 <= seed < 2**32. Default 0.

    Raises:
        ValueError: `seed` is not such an integer.
    """

    def __init__(self, rho: float | LearningRateSchedule = 0.05, seed: int = 0):
        super().__init__(rho)
        if not is_integer(seed) or not 0 <= seed < 2**32:
            raise ValueError(
                f"seed must be an integer >= 0 and < 2**32. Received: seed={seed!r}"
            )
        self.seed = int(seed)
        self._generator = keras.random.SeedGenerator(self.seed)

    def __call__(self, gradients, gradients_at, step, mask=lambda tensors: tensors):
        # The generator counts its draws in the second word, so a stride of the number
        # of tensors keeps every (step, tensor) apart.
        seed = ops.convert_to_tensor(self.seed, "uint32")
        state = ops.stack([seed, ops.cast(step * len(gradients), "uint32")])
        with keras.StatelessScope(state_mapping=[(self._generator.state, state)]):
            normals = [
                keras.random.normal(ops.shape(g), dtype=g.dtype, seed=self._generator)
                for g in gradients
            ]
        normals = mask(normals)
        radius = self._rho.at(step, widest(normals))
        scale = radius / (global_norm(normals) + NORM_EPSILON)
        return _scaled(normals, scale)

    def get_config(self) -> dict:
        return {**super().get_config(), "seed": self.seed}


def _scaled(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    return [tensor * ops.cast(factor, tensor.dtype) for tensor in tensors]
