"""What several of the sources are made of."""

import re
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from tests.references import Array, Weights

Padding = Sequence[tuple[int, int]]
Dropout = Callable[[Array, float], Array]  # of what is dropped and the rate

BATCH_NORM_EPSILON, LAYER_NORM_EPSILON = 1e-5, 1e-6


def dense(x: Array, weights: Weights, name: str) -> Array:
    return x @ weights[f"{name}/kernel"] + weights[f"{name}/bias"]


def relu(x: np.ndarray) -> np.ndarray:
    return x * (x > 0)


def keep(x: Array, rate: float) -> Array:
    """No dropout."""
    return x


def block_names(weights: Weights) -> list[str]:
    """Of a network's blocks, such as "block1" or "stage1_block2", in their order."""
    found = (re.match(r"(stage\d_)?block\d", path) for path in weights)
    return sorted({match[0] for match in found if match})


def convolve(
    x: np.ndarray,
    kernel: np.ndarray,
    stride: int = 1,
    padding: Padding = ((0, 0), (0, 0)),
) -> np.ndarray:
    """[image, height, width, channel] with a kernel [height, width, channel, filter],
    as a sum over the kernel's places.

    Args:
        padding: pixels of zeros above and below, and to the left and the right.
    """
    size = kernel.shape[:2]
    views = shifted(np.pad(x, ((0, 0), *padding, (0, 0))), size, stride)
    return sum(views[place] @ kernel[place] for place in np.ndindex(size))


def shifted(
    x: np.ndarray, size: tuple[int, int], stride: int
) -> dict[tuple[int, int], np.ndarray]:
    """For each place of a window of `size` what it sees there, moved by `stride`."""
    rows, columns = (
        (n - k) // stride * stride + 1 for n, k in zip(x.shape[1:3], size, strict=True)
    )
    return {
        (i, j): x[:, i : i + rows : stride, j : j + columns : stride]
        for i, j in np.ndindex(size)
    }


def same_padding(x: np.ndarray, size: int, stride: int) -> Padding:
    """TensorFlow's and Flax's SAME: the odd pixel comes at the end."""
    totals = [max(0, size - (n % stride or stride)) for n in x.shape[1:3]]
    return [(total // 2, total - total // 2) for total in totals]


def batch_moments(
    x: Array, averages: Weights, name: str, is_training: bool
) -> tuple[Array, Array]:
    """The means and variances by which a BatchNorm of momentum 0.9 normalizes: the
    averages, or in training the batch's own, biased ones, which move the averages."""
    paths = f"{name}/moving_mean", f"{name}/moving_variance"
    if not is_training:
        return averages[paths[0]], averages[paths[1]]
    moments = x.mean((0, 1, 2)), x.var((0, 1, 2))
    for path, moment in zip(paths, moments, strict=True):
        averages[path] = 0.9 * averages[path] + 0.1 * moment
    return moments


def layer_norm(x: Array, weights: Weights, name: str) -> Array:
    """Over the last axis."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) * jax.lax.rsqrt(variance + LAYER_NORM_EPSILON)
    return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def cross_entropies(logits: Array, labels: Array) -> Array:
    """[..., class] and int[...] to [...]."""
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[..., None], -1)[..., 0]


def binary_cross_entropies(logits: Array, labels: Array) -> Array:
    return jax.nn.softplus(logits) - labels * logits


def standardize(pixels: Array, means: Sequence, deviations: Sequence) -> Array:
    """Pixels from 0 to 255, as numbers from 0 to 1, by their channels' statistics."""
    return (pixels / 255 - np.array(means)) / np.array(deviations)
