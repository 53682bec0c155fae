"""The actor-critic of Atari games (Mnih et al. 2015's network with two heads)."""

import keras
from keras import layers

from samkeras.model import SAMModel
from samkeras.models.common import output_dtype, scale_width

CONVOLUTIONS = ((32, 8, 4), (64, 4, 2), (64, 3, 1))  # filters, kernel size, stride
HIDDEN = 512


def build_actor_critic(
    input_shape: tuple[int, int, int], num_actions: int, width_mult: float = 1.0
) -> SAMModel:
    """Three convolutions and a hidden layer that policy and value share. The paper's
    numbers of parameters are those without padding, which Flax's example has.

    Args:
        input_shape: (height, width, frames) of the last grey frames of a game, with
            pixels from 0 to 255.
        num_actions: actions of the game, not scaled.
        width_mult: factor of the filters, 32, 64 and 64, and hidden units, 512.

    Returns:
        An uncompiled SAMModel from uint8[observation, height, width, frame] to
        float32[observation, num_actions + 1]: the logits of the actions, and last the
        value. Kernels start lecun-normal, as Flax has it.
    """
    inputs = keras.Input(input_shape, dtype="uint8", name="frames")
    x = layers.Rescaling(1 / 255)(inputs)
    for filters, size, stride in CONVOLUTIONS:
        x = layers.Conv2D(
            scale_width(filters, width_mult),
            size,
            stride,
            activation="relu",
            kernel_initializer="lecun_normal",
        )(x)
    x = layers.Flatten()(x)
    x = layers.Dense(
        scale_width(HIDDEN, width_mult),
        activation="relu",
        kernel_initializer="lecun_normal",
    )(x)
    heads = [
        layers.Dense(
            size, kernel_initializer="lecun_normal", dtype=output_dtype(), name=name
        )(x)
        for size, name in ((num_actions, "policy"), (1, "value"))
    ]
    outputs = layers.Concatenate(dtype=output_dtype(), name="outputs")(heads)
    return SAMModel(inputs, outputs)
