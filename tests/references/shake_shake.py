"""Shake-Shake 26 2x96d of Foret et al.'s code (google-research/sam,
models/wide_resnet_shakeshake.py), outside training, where branches are halved.

Convolutions pad as Flax's SAME does and have no bias; each has BatchNorm after it.
Where a stage begins, the shortcut joins 1x1 convolutions of every second pixel and of
every second one of the image moved up and left by a pixel.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tests.references import Array, Weights
from tests.references.layers import (
    BATCH_NORM_EPSILON,
    block_names,
    dense,
    standardize,
)
from tests.references.wide_resnet import DEVIATIONS, MEANS, convolve


def logits(weights: Weights, averages: Weights, images: Array) -> Array:
    def normalize(x, name):
        variance = averages[f"{name}/moving_variance"]
        scale = weights[f"{name}/gamma"] * lax.rsqrt(variance + BATCH_NORM_EPSILON)
        return (x - averages[f"{name}/moving_mean"]) * scale + weights[f"{name}/beta"]

    x = images.astype(weights["stem/kernel"].dtype)
    x = convolve(standardize(x, MEANS, DEVIATIONS), weights["stem/kernel"])
    x = normalize(x, "stem_norm")
    for name in block_names(weights):
        stride = 2 if name in ("stage2_block1", "stage3_block1") else 1
        branches = []
        for side in "ab":
            first, second = (weights[f"{name}_conv{i}{side}/kernel"] for i in (1, 2))
            y = normalize(
                convolve(jax.nn.relu(x), first, stride), f"{name}_norm1{side}"
            )
            y = convolve(jax.nn.relu(y), second)
            branches.append(normalize(y, f"{name}_norm2{side}"))
        if f"{name}_projectiona/kernel" in weights:
            moved = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))[:, 1:, 1:]
            parts = [
                each[:, ::stride, ::stride]
                @ weights[f"{name}_projection{side}/kernel"][0, 0]
                for each, side in ((x, "a"), (moved, "b"))
            ]
            x = normalize(jnp.concatenate(parts, -1), f"{name}_projection_norm")
        x = x + sum(branches) / 2
    return dense(jax.nn.relu(x).mean((1, 2)), weights, "outputs")
