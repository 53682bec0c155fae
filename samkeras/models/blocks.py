"""What the residual networks of Foret et al. (2021) are made of.

The details are those of their code, google-research/sam, which has them from
AutoAugment's: kernels He-normal by their fan-out, convolutions padded as "same" is and
without biases, shortcuts without weights.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers, ops

from samkeras.errors import InputError
from samkeras.models.common import logits
from samkeras.models.normalization import BatchNorm

Tensor = Any

STEM = 16  # filters


def count_blocks(depth: int, per_block: int, rest: int, usual: str) -> int:
    """The blocks of each of three stages of a network.

    Args:
        depth: its layers with weights, shortcuts aside.
        per_block: those of a block.
        rest: those outside the blocks.
        usual: depths that messages name.

    Raises:
        InputError: there is no such network.
    """
    count, left = divmod(depth - rest, 3 * per_block)
    if left or count < 1:
        raise InputError(
            f"--depth must be {3 * per_block} n + {rest} in this workload, such as "
            f"{usual}. Received: {depth}"
        )
    return count


def stack(
    x: Tensor,
    block: Callable[[Tensor, int, int, str], Tensor],
    widths: Iterable[int],
    num_blocks: int,
) -> Tensor:
    """Stages of blocks, each but the first half as large as the one before.

    Args:
        x: what the first block takes.
        block: (x, filters, strides, name) -> what a block makes of x.
        widths: the filters of each stage.
        num_blocks: of each stage.
    """
    for stage, filters in enumerate(widths):
        for number in range(num_blocks):
            strides = 2 if stage > 0 and number == 0 else 1
            x = block(x, filters, strides, f"stage{stage + 1}_block{number + 1}")
    return x


def convolve(x: Tensor, filters: int, size: int, name: str, strides: int = 1) -> Tensor:
    """A square convolution, He-normal by its fan-out."""
    return layers.Conv2D(
        filters,
        size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            2.0, "fan_out", "untruncated_normal"
        ),
        name=name,
    )(x)


def normalize(x: Tensor, name: str, batch_norm: bool) -> Tensor:
    """BatchNorm, or nothing."""
    return BatchNorm(name=name)(x) if batch_norm else x


def activate(x: Tensor, name: str, batch_norm: bool) -> Tensor:
    """BatchNorm, where there is one, and ReLU."""
    return layers.ReLU()(normalize(x, name, batch_norm))


def project(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    """A shortcut that is a 1x1 convolution."""
    # The stride is not in it, see samkeras.models.resnet.
    return convolve(subsample(x, strides), filters, 1, name)


def subsample(x: Tensor, strides: int) -> Tensor:
    """Every `strides`-th pixel in both directions."""
    return x[:, ::strides, ::strides] if strides > 1 else x


def pool(x: Tensor, strides: int) -> Tensor:
    """Means of squares of `strides` pixels a side."""
    if strides == 1:
        return x
    return layers.AveragePooling2D(strides, padding="same")(x)


def pad_channels(x: Tensor, filters: int) -> Tensor:
    """Zeros as further channels, `filters` in all."""
    missing = filters - x.shape[-1]
    return ops.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing))) if missing else x


def classify(x: Tensor, num_outputs: int) -> Tensor:
    """Logits of the mean over all pixels, whose kernel starts uniform within one over
    the square root of their number."""
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    bound = 1 / math.sqrt(num_outputs)
    return logits(x, num_outputs, keras.initializers.RandomUniform(-bound, bound))
