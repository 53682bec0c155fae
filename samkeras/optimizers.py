"""SGD as optax and PyTorch define it, and the momentum of any optimizer."""

from typing import Any

import keras
from keras import ops

from samkeras.backend import backend
from samkeras.backend.insides import find_momentums, find_place, unwrap
from samkeras.tensors import Tensor


@keras.saving.register_keras_serializable(package="samkeras")
class SGD(keras.optimizers.SGD):
    """keras.optimizers.SGD whose velocity accumulates gradients, not steps.

        v <- momentum * v + g
        w <- w - learning_rate * v     (nesterov: learning_rate * (g + momentum * v))

    keras' own keeps the learning rate inside the velocity, so that after a drop of the
    learning rate the old one lingers for some tens of steps. With a constant learning
    rate both are the same. The paper's authors train with this one (optax).

    Args:
        learning_rate, momentum, nesterov, others: those of keras.optimizers.SGD.
            Defaults 0.01, 0 and False.

    Raises:
        ValueError: `momentum` is not a float in [0, 1], or keras.optimizers.SGD refuses
            another.

    Examples:
        >>> model.compile(samkeras.SGD(0.1, momentum=0.9), "mse")
    """

    def update_step(
        self, gradient: Tensor, variable: Any, learning_rate: Tensor
    ) -> None:
        if self.momentum == 0:
            super().update_step(gradient, variable, learning_rate)
            return
        learning_rate = ops.cast(learning_rate, variable.dtype)
        momentum = ops.cast(self.momentum, variable.dtype)
        gradient = ops.cast(gradient, variable.dtype)
        velocity = self.momentums[find_place(self, variable)]
        self.assign(velocity, velocity * momentum + gradient)
        direction = velocity
        if self.nesterov:
            direction = gradient + velocity * momentum
        self.assign_sub(variable, learning_rate * direction)


def find_momentum(optimizer: Any, weights: list[keras.Variable]) -> list[Tensor]:
    """What an optimizer's momentum is of weights: a sum of their gradients, times any
    positive number.

    Raises:
        ValueError: it has none.
    """
    momentums = find_momentums(optimizer, weights)
    if not momentums:
        raise ValueError(
            "the method needs an optimizer with momentum, such as samkeras.SGD(0.1, "
            f"momentum=0.9) or Adam. Received: {unwrap(optimizer).name}"
        )
    values = backend.values_of(momentums)
    # That of keras' own SGD is a sum of steps.
    inner = unwrap(optimizer)
    is_of_steps = isinstance(inner, keras.optimizers.SGD) and not isinstance(inner, SGD)
    return [-value for value in values] if is_of_steps else values
