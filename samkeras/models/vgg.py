"""VGG networks (Simonyan and Zisserman 2015) for small images."""

import keras
from keras import layers

from samkeras.model import SAMModel
from samkeras.models.common import output_dtype, scale_width
from samkeras.models.images import CIFAR10_STATISTICS, standardize

FILTERS = (64, 128, 256, 512, 512)
CONVOLUTIONS = (1, 1, 2, 2, 2)


def build_vgg11(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
) -> SAMModel:
    """VGG-11 without normalization and with one dense layer, as Chizat et al. (2019)
    train it in their study of lazy training, which the paper's section 5.4 follows.

    Args:
        input_shape: (height, width, 3) of images with pixels from 0 to 255, at least
            32 x 32: each of five stages halves the size.
        num_outputs: number of classes, not scaled.
        width_mult: factor of the filters, 64 in the first stage.
        depth: convolutions in each stage. None (default): 1, 1, 2, 2 and 2.

    Returns:
        An uncompiled SAMModel with logits as outputs. All kernels start Xavier-normal
        of gain 1, as in the cited code: each ReLU halves the features' variance, and
        the tangent kernel is small.
    """
    inputs = keras.Input(input_shape)
    x = standardize(inputs, CIFAR10_STATISTICS)
    convolutions = [depth] * len(FILTERS) if depth else CONVOLUTIONS
    for stage, (filters, count) in enumerate(
        zip(FILTERS, convolutions, strict=True), 1
    ):
        for number in range(1, count + 1):
            x = layers.Conv2D(
                scale_width(filters, width_mult),
                3,
                padding="same",
                activation="relu",
                kernel_initializer=_xavier(),
                name=f"stage{stage}_conv{number}",
            )(x)
        x = layers.MaxPooling2D(name=f"stage{stage}_pool")(x)
    outputs = layers.Dense(
        num_outputs, kernel_initializer=_xavier(), dtype=output_dtype(), name="outputs"
    )(layers.Flatten()(x))
    return SAMModel(inputs, outputs)


def _xavier() -> keras.initializers.Initializer:
    """PyTorch's xavier_normal_, of which nothing is cut off."""
    return keras.initializers.VarianceScaling(1.0, "fan_avg", "untruncated_normal")
