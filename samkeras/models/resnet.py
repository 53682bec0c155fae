"""Residual networks (He et al. 2016), with the paper authors' details."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from samkeras.errors import InputError
from samkeras.model import SAMModel
from samkeras.models.common import logits, scale_width
from samkeras.models.images import (
    CIFAR10_STATISTICS,
    IMAGENET_STATISTICS,
    standardize,
)
from samkeras.models.normalization import BatchNorm

Tensor = Any

# Of each stage, by the number of layers (He et al. 2016, table 1).
BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def build_resnet18(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
) -> SAMModel:
    """ResNet-18 for small images: a 3x3 stem without pooling, then four stages of two
    basic blocks, whose 3x3 convolutions all pad a pixel on each side.

    Args:
        input_shape: (height, width, 3) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the filters, 64 in the first stage.
        depth: blocks in each stage. None (default): 2.

    Returns:
        An uncompiled SAMModel with logits as outputs. Kernels start lecun-normal, as
        the paper authors' framework (Flax) has it.
    """
    filters = scale_width(64, width_mult)
    inputs = keras.Input(input_shape)
    x = standardize(inputs, CIFAR10_STATISTICS)
    x = layers.ReLU()(_normalize(_convolve(x, filters, 3, name="stem"), "stem_norm"))
    x = _stages(x, _basic_block, filters, [depth or 2] * 4)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return SAMModel(inputs, logits(x, num_outputs))


def build_resnet50(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
) -> SAMModel:
    """ResNet-50: a 7x7 stem with pooling, then bottleneck blocks with the stride in
    their 3x3 convolution, padded as "same" is; the last BatchNorm of each starts at
    scale 0.

    Args:
        input_shape: (height, width, 3) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the filters, 64 in the first stage.
        depth: blocks in each stage. None (default): 3, 4, 6 and 3.

    Returns:
        An uncompiled SAMModel with logits as outputs. Kernels start lecun-normal, as
        the paper authors' framework (Flax) has it.
    """
    blocks = [depth] * 4 if depth else BLOCKS[50]
    return _build_bottlenecks(input_shape, num_outputs, width_mult, blocks)


def build_imagenet_resnet(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
) -> SAMModel:
    """ResNet-50, -101 or -152, as `build_resnet50` has it.

    Args:
        input_shape: (height, width, 3) of images with pixels from 0 to 255.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the filters, 64 in the first stage.
        depth: layers, 50, 101 or 152. None (default): 50.

    Returns:
        An uncompiled SAMModel with logits as outputs.

    Raises:
        InputError: there is no network of that depth.
    """
    if (depth or 50) not in BLOCKS:
        raise InputError(
            f"--depth must be {', '.join(map(str, BLOCKS))} in this workload. "
            f"Received: {depth}"
        )
    blocks = BLOCKS[depth or 50]
    return _build_bottlenecks(input_shape, num_outputs, width_mult, blocks)


def _build_bottlenecks(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float,
    num_blocks: Sequence[int],
) -> SAMModel:
    filters = scale_width(64, width_mult)
    inputs = keras.Input(input_shape)
    x = standardize(inputs, IMAGENET_STATISTICS)
    x = layers.ZeroPadding2D(3, name="stem_padding")(x)
    x = _convolve(x, filters, 7, strides=2, padding="valid", name="stem")
    x = layers.ReLU()(_normalize(x, "stem_norm"))
    x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    x = _stages(x, _bottleneck_block, filters, num_blocks)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return SAMModel(inputs, logits(x, num_outputs))


def _stages(x: Tensor, block: Any, filters: int, num_blocks: Sequence[int]) -> Tensor:
    """Stages of blocks, each with twice the filters and half the size of the last."""
    for stage, count in enumerate(num_blocks):
        for number in range(count):
            strides = 2 if stage > 0 and number == 0 else 1
            name = f"stage{stage + 1}_block{number + 1}"
            x = block(x, filters * 2**stage, strides, name)
    return x


def _basic_block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    y = x
    if strides > 1:
        # A pixel on each side, as in PyTorch; "same" would put it at the end alone.
        y = layers.ZeroPadding2D(1, name=f"{name}_padding")(y)
    padding = "valid" if strides > 1 else "same"
    y = _convolve(y, filters, 3, strides=strides, padding=padding, name=f"{name}_conv1")
    y = layers.ReLU()(_normalize(y, f"{name}_norm1"))
    y = _normalize(_convolve(y, filters, 3, name=f"{name}_conv2"), f"{name}_norm2")
    return layers.ReLU()(layers.add([_shortcut(x, y.shape[-1], strides, name), y]))


def _bottleneck_block(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    y = _convolve(x, filters, 1, name=f"{name}_conv1")
    y = layers.ReLU()(_normalize(y, f"{name}_norm1"))
    y = _convolve(y, filters, 3, strides=strides, name=f"{name}_conv2")
    y = layers.ReLU()(_normalize(y, f"{name}_norm2"))
    y = _convolve(y, 4 * filters, 1, name=f"{name}_conv3")
    y = _normalize(y, f"{name}_norm3", initial_scale="zeros")
    return layers.ReLU()(layers.add([_shortcut(x, y.shape[-1], strides, name), y]))


def _shortcut(x: Tensor, filters: int, strides: int, name: str) -> Tensor:
    if strides == 1 and x.shape[-1] == filters:
        return x
    if strides > 1:
        # Not in the convolution: TensorFlow's CPU kernel for its kernel's gradient
        # corrupts memory where it is 1x1, the batch odd and the channels few.
        x = x[:, ::strides, ::strides]
    x = _convolve(x, filters, 1, name=f"{name}_projection")
    return _normalize(x, f"{name}_projection_norm")


def _convolve(x: Tensor, filters: int, size: int, **kwargs) -> Tensor:
    kwargs = {"padding": "same", "use_bias": False, **kwargs}
    return layers.Conv2D(filters, size, kernel_initializer="lecun_normal", **kwargs)(x)


def _normalize(x: Tensor, name: str, initial_scale: str = "ones") -> Tensor:
    return BatchNorm(gamma_initializer=initial_scale, name=name)(x)
