"""Pyramidal residual networks (Han et al. 2017), with ShakeDrop (Yamada et al.
2018)."""

from typing import Any

import keras
from keras import layers

from samkeras.data.statistics import Statistics, find_statistics
from samkeras.model import SAMModel
from samkeras.models.blocks import (
    STEM,
    activate,
    classify,
    convolve,
    count_blocks,
    normalize,
    pad_channels,
    pool,
)
from samkeras.models.common import scale_width
from samkeras.models.images import standardize
from samkeras.models.shake import ShakeDrop

Tensor = Any

DEPTH, WIDENING = 272, 200
LAST_KEEP = 0.5  # ShakeDrop's probability in the last block


def build_pyramidnet(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    widening: int = WIDENING,
    bottleneck: bool = True,
    shake_drop: bool = False,
    batch_norm: bool = True,
    statistics: Statistics | None = None,
) -> SAMModel:
    """A PyramidNet, whose blocks have more filters one after the other; shortcuts are
    means of pixels, with further channels of zeros. As Foret et al. (2021) have it in
    their code: filters are rounded, where others cut off.

    Args:
        input_shape: (height, width, channels) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of all filters.
        depth: layers: 9 n + 2 for n bottleneck blocks a stage, 6 n + 2 for basic ones.
            None (default): 272, or 110 of basic blocks.
        widening: filters that the last block has more than the stem's 16 (alpha). A
            bottleneck's output has four times as many. Default 200.
        bottleneck: whether blocks are of a 1x1, a 3x3 and a 1x1 convolution, or of two
            3x3 ones. Default True.
        shake_drop: whether ShakeDrop is at the end of each block's branch, with a
            probability to keep it that falls in a line from block to block to 0.5.
            Default False.
        batch_norm: whether there is BatchNorm. Default True.
        statistics: the channels' means and deviations, pixels from 0 to 1. None
            (default): CIFAR-10's or, but for three channels, MNIST's.

    Returns:
        An uncompiled SAMModel with logits as outputs.

    Raises:
        InputError: there is no network of that depth.
    """
    if bottleneck:
        num_blocks = count_blocks(depth or DEPTH, 3, 2, "164, 200 or 272")
    else:
        num_blocks = count_blocks(depth or 110, 2, 2, "56 or 110")
    total = 3 * num_blocks
    inputs = keras.Input(input_shape)
    x = standardize(inputs, statistics or find_statistics("", input_shape[-1]))
    x = convolve(x, scale_width(STEM, width_mult), 3, "stem")
    x = normalize(x, "stem_norm", batch_norm)
    for place in range(total):
        stage, number = divmod(place, num_blocks)
        strides = 2 if stage > 0 and number == 0 else 1
        name = f"stage{stage + 1}_block{number + 1}"
        share = (place + 1) / total
        filters = max(1, round(width_mult * (STEM + widening * share)))
        block = _bottleneck if bottleneck else _basic
        y = block(x, filters, strides, name, batch_norm)
        if shake_drop:
            y = ShakeDrop(1 - (1 - LAST_KEEP) * share, name=f"{name}_drop")(y)
        # The input first: keras goes back through a model by recursion, and a thousand
        # layers in a row would be too many.
        x = layers.add([pad_channels(pool(x, strides), y.shape[-1]), y])
    return SAMModel(inputs, classify(activate(x, "norm", batch_norm), num_outputs))


def _bottleneck(
    x: Tensor, filters: int, strides: int, name: str, batch_norm: bool
) -> Tensor:
    y = normalize(x, f"{name}_norm1", batch_norm)
    y = convolve(y, filters, 1, f"{name}_conv1")
    y = activate(y, f"{name}_norm2", batch_norm)
    y = convolve(y, filters, 3, f"{name}_conv2", strides)
    y = activate(y, f"{name}_norm3", batch_norm)
    y = convolve(y, 4 * filters, 1, f"{name}_conv3")
    return normalize(y, f"{name}_norm4", batch_norm)


def _basic(
    x: Tensor, filters: int, strides: int, name: str, batch_norm: bool
) -> Tensor:
    y = normalize(x, f"{name}_norm1", batch_norm)
    y = convolve(y, filters, 3, f"{name}_conv1", strides)
    y = activate(y, f"{name}_norm2", batch_norm)
    y = convolve(y, filters, 3, f"{name}_conv2")
    return normalize(y, f"{name}_norm3", batch_norm)
