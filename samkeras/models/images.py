"""What image models share: pixels, and their normalization."""

from typing import Any

import keras

Tensor = Any

# Means and deviations of the channels, pixels from 0 to 1, as the paper's authors have
# them in their code.
CIFAR10_STATISTICS = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET_STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def standardize(
    pixels: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]
) -> Tensor:
    """Pixels from 0 to 255, less the channels' means and by their deviations.

    Args:
        pixels: [batch, height, width, channel].
        statistics: means and deviations of the channels, pixels from 0 to 1.
    """
    means, deviations = statistics
    return keras.layers.Rescaling(
        scale=[1 / (255 * deviation) for deviation in deviations],
        offset=[-m / d for m, d in zip(means, deviations, strict=True)],
        name="standardize",
    )(pixels)
