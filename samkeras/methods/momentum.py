"""Momentum-SAM: the gradient a little ahead."""

from collections.abc import Callable
from typing import Any

import keras
from keras.optimizers.schedules import LearningRateSchedule

from samkeras.methods.method import Context, Perturbation, Role, resize
from samkeras.tensors import scale

Tensor = Any


@keras.saving.register_keras_serializable(package="samkeras")
class MomentumSAM(Perturbation):
    """Momentum-SAM, MSAM (Becker et al. 2024, algorithm 1), in one pass.

    With v the optimizer's running sum of gradients, the momentum of SGD or the first
    moment of Adam,

        epsilon = - rho * v / (||v||_2 + 1e-12)

    so that the gradient is that at a distance rho ahead, where the weights go to. They
    stay where the optimizer puts them: in the authors' code they are perturbed between
    the steps. The loss that training shows is that of the pass, at w + epsilon.

    Args:
        rho: norm of epsilon, a number >= 0 or a schedule. Default 3, the authors', far
            above that of SAM.
        only, scope: see `Perturbation`.

    Raises:
        ValueError: `rho` is negative or not finite; the optimizer has no momentum.
        TypeError: `rho` is neither a number nor a schedule.

    Examples:
        >>> optimizer = samkeras.SGD(0.1, momentum=0.9)
        >>> model.compile(optimizer, "mse", method=samkeras.MomentumSAM(rho=1.0))
    """

    passes = 1.0

    def __init__(
        self,
        rho: float | LearningRateSchedule = 3.0,
        only: str | Callable[[keras.Variable, Role], bool] = "all",
        scope: str = "global",
    ):
        super().__init__(rho, only=only, scope=scope)  # there is no pass to skip

    def epsilon(self, context: Context) -> list[Tensor]:
        back = context.mask(context.momentum)
        return scale(self.in_scope(context, resize, back), -1.0)
