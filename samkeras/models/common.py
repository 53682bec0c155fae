"""What all models share: scaled widths and the last layer."""

from typing import Any

import keras

Tensor = Any


def logits(features: Tensor, num_outputs: int) -> Tensor:
    """The outputs, in float32 under mixed precision too: [batch, output]."""
    return keras.layers.Dense(
        num_outputs, kernel_initializer="lecun_normal", dtype="float32", name="outputs"
    )(features)


def scale_width(width: int, width_mult: float) -> int:
    """A width times its multiplier, rounded to a whole number, at least 1."""
    return max(1, round(width * width_mult))
