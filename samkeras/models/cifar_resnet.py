"""The residual networks of He et al. (2016) for CIFAR-10, such as ResNet-32."""

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
    project,
    stack,
    subsample,
)
from samkeras.models.common import scale_width
from samkeras.models.images import standardize
from samkeras.models.wide_resnet import Shortcut

Tensor = Any

DEPTH = 32


def build_cifar_resnet(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    shortcut: Shortcut = "zero_pad",
    batch_norm: bool = True,
    statistics: Statistics | None = None,
) -> SAMModel:
    """ResNet-32: three stages of blocks of two 3x3 convolutions, each before BatchNorm
    and ReLU.

    Args:
        input_shape: (height, width, channels) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the stages' filters, 16, 32 and 64, and of the stem's 16.
        depth: layers, 6 n + 2 for n blocks a stage. None (default): 32.
        shortcut: how the first block of a stage passes its input by: "zero_pad"
            (default), every other pixel and further channels of zeros, option A of the
            paper's; or "projection", a 1x1 convolution with BatchNorm, its option B.
        batch_norm: whether there is BatchNorm. Default True.
        statistics: the channels' means and deviations, pixels from 0 to 1. None
            (default): CIFAR-10's or, but for three channels, MNIST's.

    Returns:
        An uncompiled SAMModel with logits as outputs.

    Raises:
        InputError: there is no network of that depth.
    """
    num_blocks = count_blocks(depth or DEPTH, 2, 2, "20, 32 or 56")
    widths = [scale_width(STEM * 2**stage, width_mult) for stage in range(3)]
    inputs = keras.Input(input_shape)
    x = standardize(inputs, statistics or find_statistics("", input_shape[-1]))
    x = activate(convolve(x, widths[0], 3, "stem"), "stem_norm", batch_norm)

    def block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
        y = convolve(x, filters, 3, f"{name}_conv1", strides)
        y = activate(y, f"{name}_norm1", batch_norm)
        y = convolve(y, filters, 3, f"{name}_conv2")
        y = normalize(y, f"{name}_norm2", batch_norm)
        if strides > 1 and shortcut == "projection":
            x = project(x, filters, strides, f"{name}_projection")
            x = normalize(x, f"{name}_projection_norm", batch_norm)
        else:
            x = pad_channels(subsample(x, strides), filters)
        return layers.ReLU()(layers.add([x, y]))

    return SAMModel(inputs, classify(stack(x, block, widths, num_blocks), num_outputs))
