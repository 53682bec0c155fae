"""The PyramidNet of Foret et al.'s code (google-research/sam, models/pyramidnet.py),
without ShakeDrop: bottleneck blocks with a BatchNorm before and after their three
convolutions, and ReLU between these alone."""

import jax
import jax.numpy as jnp

from tests.references import Array, Weights
from tests.references.layers import block_names, cross_entropies, dense, standardize
from tests.references.wide_resnet import (
    DEVIATIONS,
    MEANS,
    convolve,
    mean_pool,
    normalize,
    pad_channels,
)


def logits(
    weights: Weights, averages: Weights, images: Array, is_training: bool = False
) -> tuple[Array, Weights]:
    """As resnet18.logits."""
    averages = dict(averages)

    def norm(x, name):
        return normalize(x, weights, averages, name, is_training)

    x = images.astype(weights["stem/kernel"].dtype)
    x = convolve(standardize(x, MEANS, DEVIATIONS), weights["stem/kernel"])
    x = norm(x, "stem_norm")
    for name in block_names(weights):
        stride = 2 if name in ("stage2_block1", "stage3_block1") else 1
        kernels = [weights[f"{name}_conv{i}/kernel"] for i in (1, 2, 3)]
        y = convolve(norm(x, f"{name}_norm1"), kernels[0])
        y = convolve(jax.nn.relu(norm(y, f"{name}_norm2")), kernels[1], stride)
        y = convolve(jax.nn.relu(norm(y, f"{name}_norm3")), kernels[2])
        x = pad_channels(mean_pool(x, stride), y.shape[-1]) + norm(y, f"{name}_norm4")
    features = jax.nn.relu(norm(x, "norm")).mean((1, 2))
    return dense(features, weights, "outputs"), averages


def loss(
    weights: Weights, averages: Weights, images: Array, labels: Array
) -> tuple[Array, tuple[Weights, Array]]:
    """Of training, with the new averages and the accuracy."""
    outputs, averages = logits(weights, averages, images, is_training=True)
    accuracy = jnp.mean(outputs.argmax(-1) == labels)
    return jnp.mean(cross_entropies(outputs, labels)), (averages, accuracy)
