"""ResNet-18 of the paper's authors (LOG-postech/SAM-overparam, models.py and train.py).

Every 3x3 convolution pads a pixel on each side, those with a stride too; projections
pad nothing; no convolution has a bias. BatchNorm's averages move once a step of SAM, by
its first pass.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tests.references import Array, Weights
from tests.references.layers import (
    BATCH_NORM_EPSILON,
    batch_moments,
    block_names,
    cross_entropies,
    dense,
    standardize,
)

MEANS, DEVIATIONS = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def initial_averages(weights: Weights) -> Weights:
    """Means of 0 and variances of 1, by the scales in `weights`."""
    averages = {}
    for path, gamma in weights.items():
        if path.endswith("/gamma"):
            layer = path.removesuffix("gamma")
            averages[f"{layer}moving_mean"] = jnp.zeros_like(gamma)
            averages[f"{layer}moving_variance"] = jnp.ones_like(gamma)
    return averages


def logits(
    weights: Weights, averages: Weights, images: Array, is_training: bool = False
) -> tuple[Array, Weights]:
    """Pixels from 0 to 255, [image, height, width, 3], to [image, class], and the
    averages after it.

    Args:
        weights: those that train.
        averages: moving means and variances, by which images are normalized unless in
            training.
    """
    averages = dict(averages)

    def normalize(x, name):
        mean, variance = batch_moments(x, averages, name, is_training)
        scale = weights[f"{name}/gamma"] * lax.rsqrt(variance + BATCH_NORM_EPSILON)
        return (x - mean) * scale + weights[f"{name}/beta"]

    def convolve(x, name, stride=1):
        kernel = weights[f"{name}/kernel"]
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(kernel.shape[0] // 2,) * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    x = images.astype(weights["stem/kernel"].dtype)
    x = standardize(x, MEANS, DEVIATIONS)
    x = jax.nn.relu(normalize(convolve(x, "stem"), "stem_norm"))
    for name in block_names(weights):
        has_projection = f"{name}_projection/kernel" in weights
        stride = 2 if has_projection else 1
        y = normalize(convolve(x, f"{name}_conv1", stride), f"{name}_norm1")
        y = normalize(convolve(jax.nn.relu(y), f"{name}_conv2"), f"{name}_norm2")
        if has_projection:
            x = convolve(x, f"{name}_projection", stride)
            x = normalize(x, f"{name}_projection_norm")
        x = jax.nn.relu(x + y)
    return dense(x.mean((1, 2)), weights, "outputs"), averages


def loss(
    weights: Weights, averages: Weights, images: Array, labels: Array
) -> tuple[Array, tuple[Weights, Array]]:
    """Of training, with the new averages and the accuracy."""
    outputs, averages = logits(weights, averages, images, is_training=True)
    accuracy = jnp.mean(outputs.argmax(-1) == labels)
    return jnp.mean(cross_entropies(outputs, labels)), (averages, accuracy)
