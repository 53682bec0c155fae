"""Wide residual networks (Zagoruyko and Komodakis 2016)."""

from functools import partial
from typing import Any, Literal

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
    pad_channels,
    pool,
    project,
    stack,
)
from samkeras.models.common import scale_width
from samkeras.models.images import standardize

Tensor = Any
Shortcut = Literal["projection", "zero_pad"]

DEPTH = 28


def build_wide_resnet(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    shortcut: Shortcut = "projection",
    batch_norm: bool = True,
    statistics: Statistics | None = None,
) -> SAMModel:
    """A wide ResNet, WRN-28-10: three stages of blocks of two 3x3 convolutions, each
    after BatchNorm and ReLU.

    Args:
        input_shape: (height, width, channels) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the stages' filters, 160, 320 and 640: 0.4 is WRN-28-4.
            The stem has 16, or those of the first stage where these are fewer.
        depth: layers, 6 n + 4 for n blocks a stage. None (default): 28.
        shortcut: how a block whose filters are others than its input's passes its input
            by: "projection" (default), a 1x1 convolution of the activated input, as is
            usual; or "zero_pad", means of pixels and further channels of zeros, as
            Foret et al. (2021) have it in their code.
        batch_norm: whether there is BatchNorm. Default True.
        statistics: the channels' means and deviations, pixels from 0 to 1. None
            (default): CIFAR-10's or, but for three channels, MNIST's.

    Returns:
        An uncompiled SAMModel with logits as outputs.

    Raises:
        InputError: there is no network of that depth.

    Examples:
        >>> build_wide_resnet((32, 32, 3), 10, 0.4, depth=16).count_params()
        2752474
    """
    num_blocks = count_blocks(depth or DEPTH, 2, 4, "16, 28 or 40")
    widths = [scale_width(160 * 2**stage, width_mult) for stage in range(3)]
    inputs = keras.Input(input_shape)
    x = standardize(inputs, statistics or find_statistics("", input_shape[-1]))
    x = convolve(x, min(STEM, widths[0]), 3, "stem")
    block = partial(_block, shortcut=shortcut, batch_norm=batch_norm)
    x = stack(x, block, widths, num_blocks)
    return SAMModel(inputs, classify(activate(x, "norm", batch_norm), num_outputs))


def _block(
    x: Tensor,
    filters: int,
    strides: int,
    name: str,
    shortcut: Shortcut,
    batch_norm: bool,
) -> Tensor:
    activated = activate(x, f"{name}_norm1", batch_norm)
    y = convolve(activated, filters, 3, f"{name}_conv1", strides)
    y = convolve(activate(y, f"{name}_norm2", batch_norm), filters, 3, f"{name}_conv2")
    if shortcut == "zero_pad":
        # Of the first block of all, what it has activated.
        passed = activated if name == "stage1_block1" else x
        passed = pad_channels(pool(passed, strides), filters)
    elif x.shape[-1] == filters and strides == 1:
        passed = x
    else:
        passed = project(activated, filters, strides, f"{name}_projection")
    return layers.add([passed, y])
