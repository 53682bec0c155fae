"""One SAM step's gradients, in keras.ops: what both backends' train steps share."""

from typing import Any

import keras
from keras import ops

from samkeras.hyperparameter import Hyperparameter
from samkeras.perturbation import dot, global_norm, widest

Tensor = Any

GRADIENT_METRICS = ("grad_norm", "sam_grad_norm", "grad_cosine")
COMPARE_EVERY = 10
NORM_FLOOR = 1e-30  # for gradients of zero; small ones near a minimum stay above it
SEED_STRIDE = 1_000_003
SPARSE_IN_GROUPS = "m_sharpness cannot cut sparse arrays into groups; make them dense"


class GradientMetrics:
    """Means over an epoch of what `compare_gradients` says of the two gradients.

    A plain object, so that a model holding one does not track its metrics: a model
    compiled anew drops the old ones.
    """

    def __init__(self):
        self.metrics = [keras.metrics.Mean(name=name) for name in GRADIENT_METRICS]

    def is_due(self, step: Tensor) -> Tensor:
        """Whether to compare the gradients at a step: bool scalar.

        Every tenth step and the first of each epoch: the mean is as good, and the
        comparison costs time.
        """
        is_first = ops.equal(self.metrics[-1].count, 0)
        return ops.logical_or(is_first, ops.equal(step % COMPARE_EVERY, 0))

    def update(self, statistics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Adds one step's statistics and returns the means so far."""
        for metric in self.metrics:
            value = statistics[metric.name]
            # Neither steps that a LossScaleOptimizer skips have a gradient to speak of,
            # nor steps where the comparison was not due a result.
            finite = ops.isfinite(value)
            metric.update_state(ops.where(finite, value, 0.0), finite)
        return {metric.name: metric.result() for metric in self.metrics}


def compare_gradients(
    gradients: list[Tensor], sam_gradients: list[Tensor], is_due: Tensor
) -> dict[str, Tensor]:
    """How the gradients at w + epsilon relate to those at w.

    Args:
        gradients: gradients at the weights w, one per weight.
        sam_gradients: gradients at w + epsilon.
        is_due: bool scalar, whether to compare them at this step.

    Returns:
        scalars of the `widest` type under the names in `GRADIENT_METRICS`: both norms
        and the cosine between the two gradients, the first one's direction rounded to
        float16. All but the first are NaN where not due.
    """
    grad_norm = global_norm(gradients)
    # The direction of the first is kept through all of the second pass for this alone:
    # float16 takes half the memory, and less than 1e-7 off a cosine of 1.
    length = ops.maximum(grad_norm, NORM_FLOOR)
    directions = [ops.cast(g / ops.cast(length, g.dtype), "float16") for g in gradients]

    def compare() -> tuple[Tensor, Tensor]:
        sam_grad_norm = global_norm(sam_gradients)
        norms = ops.cast(global_norm(directions), sam_grad_norm.dtype)
        norms = norms * ops.maximum(sam_grad_norm, NORM_FLOOR)
        cosine = dot(directions, sam_gradients) / ops.maximum(norms, NORM_FLOOR)
        return sam_grad_norm, cosine

    def skip() -> tuple[Tensor, Tensor]:
        unknown = ops.full_like(grad_norm, float("nan"))
        return unknown, unknown

    # Both sums read all gradients once more: a tenth of LeNet-300-100's step.
    statistics = (grad_norm, *ops.cond(is_due, compare, skip))
    return dict(zip(GRADIENT_METRICS, statistics, strict=True))


def add_l2(
    gradients: list[Tensor], weights: list[Tensor], l2: Hyperparameter, step: Tensor
) -> list[Tensor]:
    """Adds coupled weight decay: l2 times the unperturbed weights."""
    factor = l2.at(step, widest(gradients))
    return [
        g + ops.cast(factor, g.dtype) * ops.cast(w, g.dtype)
        for g, w in zip(gradients, weights, strict=True)
    ]


def poison_unless_finite(gradients: list[Tensor], norm: Tensor) -> list[Tensor]:
    """NaN in place of all gradients where `norm` is not finite.

    A LossScaleOptimizer skips a step whose gradients are not finite. It sees only those
    of the second pass, which can be finite although the first pass overflowed.
    """
    finite = ops.isfinite(norm)
    return [ops.where(finite, g, ops.full_like(g, float("nan"))) for g in gradients]


def shift_seeds(
    variables: list[keras.Variable], values: list[Tensor], by: Tensor
) -> list[Tensor]:
    """The values of variables, with other seeds for the random generators among them.

    Args:
        variables: any variables.
        values: their values, one each.
        by: int scalar. Different numbers give different seeds, -by the old ones back.
    """

    def shift(state: Tensor) -> Tensor:
        seed, count = ops.unstack(state)
        # The stride keeps groups apart from neighbouring seeds.
        number = ops.cast(ops.cast(by, "int32") * SEED_STRIDE, state.dtype)
        return ops.stack([seed + number, count])

    return [
        shift(value) if variable.name == "seed_generator_state" else value
        for variable, value in zip(variables, values, strict=True)
    ]
