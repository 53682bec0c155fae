"""Shake-Shake networks (Gastaldi 2017)."""

from functools import partial
from typing import Any

import keras
from keras import layers, ops

from samkeras.data.statistics import Statistics, find_statistics
from samkeras.model import SAMModel
from samkeras.models.blocks import (
    STEM,
    activate,
    classify,
    convolve,
    count_blocks,
    normalize,
    stack,
    subsample,
)
from samkeras.models.common import scale_width
from samkeras.models.images import standardize
from samkeras.models.shake import ShakeShake

Tensor = Any

DEPTH = 26


def build_shake_shake(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    batch_norm: bool = True,
    statistics: Statistics | None = None,
) -> SAMModel:
    """Shake-Shake 26 2x96d: three stages of blocks of two branches, each of two 3x3
    convolutions, that ShakeShake mixes. As Foret et al. (2021) have it in their code.

    Args:
        input_shape: (height, width, channels) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the stages' filters, 96, 192 and 384. The stem has 16, or
            those of the first stage where these are fewer.
        depth: layers, 6 n + 2 for n blocks a stage. None (default): 26.
        batch_norm: whether there is BatchNorm. Default True.
        statistics: the channels' means and deviations, pixels from 0 to 1. None
            (default): CIFAR-10's or, but for three channels, MNIST's.

    Returns:
        An uncompiled SAMModel with logits as outputs.

    Raises:
        InputError: there is no network of that depth.
    """
    num_blocks = count_blocks(depth or DEPTH, 2, 2, "14 or 26")
    widths = [scale_width(96 * 2**stage, width_mult) for stage in range(3)]
    inputs = keras.Input(input_shape)
    x = standardize(inputs, statistics or find_statistics("", input_shape[-1]))
    x = convolve(x, min(STEM, widths[0]), 3, "stem")
    x = normalize(x, "stem_norm", batch_norm)
    x = stack(x, partial(_block, batch_norm=batch_norm), widths, num_blocks)
    return SAMModel(inputs, classify(layers.ReLU()(x), num_outputs))


def _block(
    x: Tensor, filters: int, strides: int, name: str, batch_norm: bool
) -> Tensor:
    activated = layers.ReLU()(x)
    branches = []
    for branch in ("a", "b"):
        y = convolve(activated, filters, 3, f"{name}_conv1{branch}", strides)
        y = activate(y, f"{name}_norm1{branch}", batch_norm)
        y = convolve(y, filters, 3, f"{name}_conv2{branch}")
        branches.append(normalize(y, f"{name}_norm2{branch}", batch_norm))
    mixed = ShakeShake(name=f"{name}_shake")(branches)
    return layers.add([_shortcut(x, filters, strides, name, batch_norm), mixed])


def _shortcut(
    x: Tensor, filters: int, strides: int, name: str, batch_norm: bool
) -> Tensor:
    """The input, or 1x1 convolutions of its pixels and of those down and right of them,
    half of the filters each."""
    if x.shape[-1] == filters and strides == 1:
        return x
    moved = ops.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
    halves = [
        convolve(subsample(part, strides), count, 1, f"{name}_projection{side}")
        for part, count, side in (
            (x, filters - filters // 2, "a"),
            (moved, filters // 2, "b"),
        )
        if count
    ]
    joined = layers.Concatenate()(halves) if len(halves) > 1 else halves[0]
    return normalize(joined, f"{name}_projection_norm", batch_norm)
