"""What is said of a step's gradients: their norms and the cosine between them."""

from typing import Any

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.tensors import NORM_FLOOR, dot, global_norm, scale, widest

Tensor = Any

GRADIENT_METRICS = ("grad_norm", "sam_grad_norm", "grad_cosine")
# A prime, so that of steps of which some are perturbed all kinds are compared.
COMPARE_EVERY = 11


class GradientMetrics:
    """Means over an epoch of what `compare_gradients` says of the two gradients.

    A plain object, so that a model holding one does not track its metrics: a model
    compiled anew drops the old ones.
    """

    def __init__(self):
        self.metrics = [keras.metrics.Mean(name=name) for name in GRADIENT_METRICS]

    def is_due(self, step: Tensor) -> Tensor:
        """Whether to compare the gradients at a step: bool scalar.

        Every eleventh step and the first of each epoch: the mean is as good, and the
        comparison costs time.
        """
        is_first = ops.equal(self.metrics[-1].count, 0)
        return ops.logical_or(is_first, ops.equal(step % COMPARE_EVERY, 0))

    def update(self, statistics: dict[str, Tensor]) -> None:
        """Adds one step's statistics to the means."""
        for metric in self.metrics:
            value = statistics[metric.name]
            # Neither steps that a LossScaleOptimizer skips have a gradient to speak of,
            # nor steps where the comparison was not due a result.
            finite = ops.isfinite(value)
            metric.update_state(ops.where(finite, value, 0.0), finite)


def compare_gradients(
    gradients: list[Tensor],
    sam_gradients: list[Tensor],
    is_due: Tensor,
    is_norm_due: bool = True,
) -> dict[str, Tensor]:
    """How the gradients at w + epsilon relate to those at w.

    Args:
        gradients: gradients at the weights w, one per weight.
        sam_gradients: gradients at w + epsilon.
        is_due: bool scalar, whether to compare them at this step.
        is_norm_due: whether the first norm is due at every step. False where a step
            may cost so little that the norm would be a part of it.

    Returns:
        scalars of the `widest` type under the names in `GRADIENT_METRICS`: both norms
        and the cosine between the two gradients. They are NaN where not due.
    """
    unknown = ops.full((), float("nan"), widest([*gradients, *sam_gradients]))
    first = global_norm(gradients) if is_norm_due else unknown

    def compare() -> list[Tensor]:
        norms = [
            first if is_norm_due else global_norm(gradients),
            global_norm(sam_gradients),
        ]
        # A direction at a time: the product of two small norms may be zero.
        directions = [
            scale(vector, 1 / ops.maximum(norm, NORM_FLOOR))
            for vector, norm in zip((gradients, sam_gradients), norms, strict=True)
        ]
        return [*norms, dot(*directions)]

    # Its sums read both gradients once more: a tenth of LeNet-300-100's step.
    values = backend.take_branch(
        True, is_due, compare, lambda: [first, unknown, unknown]
    )
    return dict(zip(GRADIENT_METRICS, values, strict=True))
