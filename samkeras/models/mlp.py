"""Multilayer perceptrons."""

from collections.abc import Sequence

import keras

from samkeras.model import SAMModel
from samkeras.models.common import logits


def build_mlp(
    input_shape: tuple[int, ...],
    num_outputs: int,
    hidden: Sequence[int],
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    input_scale: float | None = None,
) -> SAMModel:
    """A ReLU network on flattened inputs with linear outputs.

    Args:
        input_shape: shape of one input.
        num_outputs: number of outputs, not scaled.
        hidden: neurons of each hidden layer at width_mult 1.
        width_mult: factor of the neurons of every hidden layer, rounded to a whole
            neuron, at least 1.
        depth: number of hidden layers, all as wide as the first of `hidden`. None
            (default): those of `hidden`.
        input_scale: factor of the inputs, such as 1/255 for pixels, applied inside the
            model so that it takes them raw.

    Returns:
        An uncompiled SAMModel. Kernels start lecun-normal, as the paper authors'
        framework (Flax) has it; biases start at 0.
    """
    inputs = keras.Input(input_shape)
    x = inputs
    if input_scale is not None:
        x = keras.layers.Rescaling(input_scale)(x)
    x = keras.layers.Flatten()(x)
    widths = hidden if depth is None else [hidden[0]] * depth
    for number, neurons in enumerate(widths, 1):
        x = keras.layers.Dense(
            max(1, round(neurons * width_mult)),
            activation="relu",
            kernel_initializer="lecun_normal",
            name=f"hidden_{number}",
        )(x)
    return SAMModel(inputs, logits(x, num_outputs))
