"""What is said of a step's gradients: their norms and the cosine between them."""

from typing import Any

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.tensors import dot, global_norm, scale, widest

Tensor = Any

GRADIENT_METRICS = ("grad_norm", "sam_grad_norm", "grad_cosine")
# A prime, so that of steps of which some are perturbed all kinds are compared.
COMPARE_EVERY = 11
NORM_FLOOR = 1e-30  # for gradients of zero; small ones near a minimum stay above it


class GradientMetrics(keras.metrics.Metric):
    """Means over an epoch of what `compare_gradients` says of the two gradients.

    One metric of three results: apart, each would take a step's time for its own
    scalars, of which networks of a few units notice.
    """

    def __init__(self):
        super().__init__(name="gradients")
        self.sums = self.add_variable((2, len(GRADIENT_METRICS)), "zeros", name="sums")

    def is_due(self, step: Tensor) -> Tensor:
        """Whether to compare the gradients at a step: bool scalar.

        Every eleventh step and the first of each epoch: the mean is as good, and the
        comparison costs time.
        """
        _, counts = self._rows()
        is_first = ops.equal(counts[-1], 0)
        return ops.logical_or(is_first, ops.equal(step % COMPARE_EVERY, 0))

    def update_state(self, statistics: dict[str, Tensor]) -> None:
        """Adds one step's statistics to the means."""
        values = ops.stack([statistics[name] for name in GRADIENT_METRICS])
        # Neither steps that a LossScaleOptimizer skips have a gradient to speak of,
        # nor steps where the comparison was not due a result.
        is_known = ops.isfinite(values)
        known = ops.where(is_known, values, ops.zeros_like(values))
        added = ops.stack([known, ops.cast(is_known, known.dtype)])
        self.sums.assign_add(ops.cast(added, self.sums.dtype))

    def result(self) -> dict[str, Tensor]:
        means = ops.divide_no_nan(*self._rows())
        return dict(zip(GRADIENT_METRICS, ops.unstack(means), strict=True))

    def _rows(self) -> list[Tensor]:
        """The totals, and how many values are in them."""
        return ops.unstack(ops.convert_to_tensor(self.sums))


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
