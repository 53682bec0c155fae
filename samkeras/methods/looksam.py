"""LookSAM: SAM's gradient now and then, and what it added to g in between."""

from collections.abc import Sequence
from typing import Any, Unpack

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.hyperparameter import Number
from samkeras.methods.method import Context, Role, resize
from samkeras.methods.sam import SAM, SAMOptions
from samkeras.tensors import NORM_FLOOR, add, dot, global_norm, scale, widest

Tensor = Any
ROUNDING = 10  # in units of the last place, of vectors that are equal


@keras.saving.register_keras_serializable(package="samkeras")
class LookSAM(SAM):
    """LookSAM (Liu et al. 2022, algorithm 1).

    Every k-th step takes SAM's gradient g_s, and keeps its part orthogonal to g,

        g_v = g_s - (<g_s, g> / ||g||_2^2) * g

    The steps between make one pass and take

        g + alpha * ||g||_2 * g_v / (||g_v||_2 + 1e-12)

    Norms and products are of all weights as one vector, as in the paper: tensor by
    tensor, as in most code in public, a weight that is a scalar would have no g_v.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 0.1, that of public
            code.
        alpha: weight of g_v, a number >= 0 or a schedule. Default 0.7, the authors'.
        options: those of `SAM` and `Perturbation`; `every` is k, by default 5, the
            authors'.

    Raises:
        ValueError: an argument is out of its range.
        TypeError: `rho` or `alpha` is neither a number nor a schedule.

    Examples:
        >>> model.compile("sgd", "mse", method=samkeras.LookSAM(rho=0.1, every=10))
    """

    alpha = Number()

    def __init__(
        self,
        rho: float | LearningRateSchedule = 0.1,
        alpha: float | LearningRateSchedule = 0.7,
        **options: Unpack[SAMOptions],
    ):
        options.setdefault("every", 5)
        super().__init__(rho, **options)
        self.alpha = alpha

    def build(self, weights: list[keras.Variable], roles: Sequence[Role]) -> None:
        is_kept = self.every > 1
        self._kept = [self.add_state_like(w, "kept") for w in weights if is_kept]

    def skip(self, context: Context) -> list[Tensor]:
        gradient = context.gradient
        if not self._kept:  # before the start
            return gradient
        kept = [ops.cast(v, g.dtype) for v, g in zip(self._kept, gradient, strict=True)]
        kept = context.mask(kept)
        alpha = self.number(context, "alpha")
        return add(gradient, scale(kept, alpha * global_norm(gradient)))

    def update(self, context: Context, result: list[Tensor]) -> None:
        if not self._kept:
            return
        old = [ops.convert_to_tensor(variable) for variable in self._kept]

        def look() -> list[Tensor]:
            dtype = widest(result)
            gradient, found = (
                [ops.cast(t, dtype) for t in tensors]
                for tensors in (context.gradient, result)
            )
            length = ops.maximum(global_norm(gradient), NORM_FLOOR)
            direction = scale(gradient, 1 / length)
            along = scale(direction, dot(found, direction))
            rest = [f - a for f, a in zip(found, along, strict=True)]
            # At length 1, which the steps between need not find again; at 0 where it is
            # rounding errors alone, as with a rho of 0.
            least = ROUNDING * float(np.finfo(dtype).eps) * global_norm(found)
            size = ops.where(global_norm(rest) <= least, 0.0, 1.0)
            return [
                ops.cast(r, v.dtype)
                for r, v in zip(resize(size, rest), old, strict=True)
            ]

        new = context.cond(self.is_due(context), look, lambda: old)
        for variable, value in zip(self._kept, new, strict=True):
            variable.assign(value)

    def get_config(self) -> dict[str, Any]:
        # Its default is another.
        return {**super().get_config(), "every": self.every}
