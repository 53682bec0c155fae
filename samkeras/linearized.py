"""The linearized regime (paper, section 5.4; Chizat et al. 2019): a centred model,
scaled by alpha, with a squared loss scaled back."""

import random
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from samkeras.model import SAMModel
from samkeras.tensors import Tensor


def centre(build: Callable[[], keras.Model], alpha: float) -> SAMModel:
    """The model alpha * (h(w, x) - h(w0, x)) of a network h that starts at w0.

    For a large alpha the weights hardly move and the model stays the linear one that h
    is near w0.

    Args:
        build: () -> the network h, whose initializers draw their seeds from Python's
            generator, as keras' do.
        alpha: scale of the outputs, > 0.

    Returns:
        An uncompiled SAMModel with outputs of 0 at the start. The weights w0 are a part
        of it that is not trained.

    Raises:
        ValueError: the network has state beside its weights, such as BatchNorm's, which
            differs between training and evaluation.
    """
    state = random.getstate()
    network = build()
    if network.non_trainable_variables:
        raise ValueError(
            "alpha needs a network without state beside its weights. Received one with "
            f"{network.non_trainable_variables[0].path}"
        )
    random.setstate(state)  # the same seeds, so the same weights
    initial = build()
    network.name, initial.name = "network", "initial_network"
    initial.trainable = False
    inputs = keras.Input(network.input_shape[1:])
    difference = keras.layers.subtract([network(inputs), initial(inputs)])
    scale = keras.layers.Rescaling(alpha, dtype=network.output.dtype)
    return SAMModel(inputs, scale(difference))


@keras.saving.register_keras_serializable(package="samkeras")
class ScaledSquaredError(keras.losses.Loss):
    """Squared error to one-hot labels, divided by alpha squared, so that the outputs
    of a centred model move as fast for every alpha.

    Labels are int[batch], outputs float[batch, class]; the mean is over both axes.

    Args:
        alpha: scale of the model's outputs, > 0.
    """

    def __init__(self, alpha: float, name: str = "scaled_squared_error", **kwargs: Any):
        super().__init__(name=name, **kwargs)
        self.alpha = alpha

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        labels = ops.reshape(ops.cast(y_true, "int32"), (-1,))
        targets = ops.one_hot(labels, y_pred.shape[-1], dtype=y_pred.dtype)
        errors = ops.mean(ops.square(y_pred - targets), axis=-1)
        return errors / self.alpha**2

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "alpha": self.alpha}
