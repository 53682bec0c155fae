"""ResNet-50 as the paper's authors have it (LOG-postech/SAM-overparam, models.py).

The stem pads three pixels on each side; the pooling and the 3x3 convolutions pad as
Flax's SAME does, which puts an odd pixel at the end; the stride is in the 3x3
convolution.
"""

import numpy as np

from tests.references import Weights
from tests.references.layers import (
    BATCH_NORM_EPSILON,
    batch_moments,
    block_names,
    convolve,
    dense,
    relu,
    same_padding,
    shifted,
    standardize,
)

MEANS, DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def logits(
    weights: Weights,
    averages: Weights,
    images: np.ndarray,
    is_training: bool = False,
) -> tuple[np.ndarray, Weights]:
    """uint8[image, height, width, 3] to float64[image, class], and the averages after
    it: those of resnet18."""
    averages = dict(averages)

    def normalize(x, name):
        mean, variance = batch_moments(x, averages, name, is_training)
        x = (x - mean) / np.sqrt(variance + BATCH_NORM_EPSILON)
        return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    def convolution(x, name, stride=1):
        kernel = weights[f"{name}/kernel"]
        padding = same_padding(x, kernel.shape[0], stride)
        return convolve(x, kernel, stride, padding)

    x = standardize(images, MEANS, DEVIATIONS)
    x = convolve(x, weights["stem/kernel"], 2, ((3, 3), (3, 3)))
    x = _max_pool(relu(normalize(x, "stem_norm")))
    for name in block_names(weights):
        is_halved = name.endswith("block1") and not name.startswith("stage1")
        stride = 2 if is_halved else 1
        y = relu(normalize(convolution(x, f"{name}_conv1"), f"{name}_norm1"))
        y = convolution(y, f"{name}_conv2", stride)
        y = relu(normalize(y, f"{name}_norm2"))
        y = normalize(convolution(y, f"{name}_conv3"), f"{name}_norm3")
        if f"{name}_projection/kernel" in weights:
            x = convolution(x, f"{name}_projection", stride)
            x = normalize(x, f"{name}_projection_norm")
        x = relu(x + y)
    return dense(x.mean((1, 2)), weights, "outputs"), averages


def _max_pool(x: np.ndarray) -> np.ndarray:
    """The largest of 3 x 3 pixels, at every second place."""
    padding = ((0, 0), *same_padding(x, 3, 2), (0, 0))
    x = np.pad(x, padding, constant_values=-np.inf)
    return np.max(list(shifted(x, (3, 3), 2).values()), axis=0)
