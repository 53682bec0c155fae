"""SGD as optax and PyTorch define it."""

from typing import Any

import keras
from keras import ops

from samkeras.backend.insides import find_place
from samkeras.tensors import Tensor


@keras.saving.register_keras_serializable(package="samkeras")
class SGD(keras.optimizers.SGD):
    """keras.optimizers.SGD whose velocity accumulates gradients, not steps.

        v <- momentum * v + g
        w <- w - learning_rate * v     (nesterov: learning_rate * (g + momentum * v))

    keras' own keeps the learning rate inside the velocity, so that after a drop of the
    learning rate the old one lingers for some tens of steps. With a constant learning
    rate both are the same. The paper's authors train with this one (optax).
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
