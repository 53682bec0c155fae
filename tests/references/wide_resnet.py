"""The wide ResNet of Foret et al.'s code (google-research/sam, models/wide_resnet.py),
and that with projections of Zagoruyko and Komodakis (2016), whose weights have some.

Convolutions pad as Flax's SAME does and have no bias. BatchNorm and ReLU come before
them; the stem's go into the first block's shortcut too.
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

MEANS = (0.49139968, 0.48215841, 0.44653091)
DEVIATIONS = (0.24703223, 0.24348513, 0.26158784)


def convolve(x: Array, kernel: Array, stride: int = 1) -> Array:
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def mean_pool(x: Array, stride: int) -> Array:
    count, height, width, channels = x.shape
    blocks = (count, height // stride, stride, width // stride, stride, channels)
    return x.reshape(blocks).mean((2, 4))


def pad_channels(x: Array, count: int) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, count - x.shape[-1])))


def normalize(
    x: Array, weights: Weights, averages: Weights, name: str, is_training: bool
) -> Array:
    mean, variance = batch_moments(x, averages, name, is_training)
    scale = weights[f"{name}/gamma"] * lax.rsqrt(variance + BATCH_NORM_EPSILON)
    return (x - mean) * scale + weights[f"{name}/beta"]


def logits(
    weights: Weights, averages: Weights, images: Array, is_training: bool = False
) -> tuple[Array, Weights]:
    """As resnet18.logits."""
    averages = dict(averages)

    def activate(x, name):
        return jax.nn.relu(normalize(x, weights, averages, name, is_training))

    has_projections = any("projection" in path for path in weights)
    x = images.astype(weights["stem/kernel"].dtype)
    x = convolve(standardize(x, MEANS, DEVIATIONS), weights["stem/kernel"])
    for name in block_names(weights):
        first, second = (weights[f"{name}_conv{i}/kernel"] for i in (1, 2))
        stride = 2 if name in ("stage2_block1", "stage3_block1") else 1
        activated = activate(x, f"{name}_norm1")
        y = convolve(activated, first, stride)
        y = convolve(activate(y, f"{name}_norm2"), second)
        if f"{name}_projection/kernel" in weights:
            x = convolve(activated, weights[f"{name}_projection/kernel"], stride)
        elif not has_projections:
            x = activated if name == "stage1_block1" else x
            x = pad_channels(mean_pool(x, stride), y.shape[-1])
        x = x + y
    return dense(activate(x, "norm").mean((1, 2)), weights, "outputs"), averages


def loss(
    weights: Weights, averages: Weights, images: Array, labels: Array
) -> tuple[Array, tuple[Weights, Array]]:
    """Of training, with the new averages and the accuracy."""
    outputs, averages = logits(weights, averages, images, is_training=True)
    accuracy = jnp.mean(outputs.argmax(-1) == labels)
    return jnp.mean(cross_entropies(outputs, labels)), (averages, accuracy)
