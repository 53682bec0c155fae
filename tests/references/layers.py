"""What several of the sources are made of."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.references import Weights

Array = Any
Padding = Sequence[tuple[int, int]]

BATCH_NORM_EPSILON, LAYER_NORM_EPSILON = 1e-5, 1e-6


def dense(x: Array, weights: Weights, name: str) -> Array:
    """With a bias where there is one."""
    return x @ weights[f"{name}/kernel"] + weights.get(f"{name}/bias", 0)


def relu(x: Array) -> Array:
    return x * (x > 0)


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


def batch_norm_by(
    weights: Weights, is_training: bool
) -> tuple[Callable[[Array, str], Array], dict[str, tuple[Array, Array]]]:
    """A function that normalizes (x, name), and a dictionary to which it adds, in
    training, the means and biased variances of the batch by layer."""
    statistics = {}

    def batch_norm(x: Array, name: str) -> Array:
        if is_training:
            mean = x.mean((0, 1, 2))
            statistics[name] = mean, ((x - mean) ** 2).mean((0, 1, 2))
            mean, variance = statistics[name]
        else:
            mean = weights[f"{name}/moving_mean"]
            variance = weights[f"{name}/moving_variance"]
        x = (x - mean) / (variance + BATCH_NORM_EPSILON) ** 0.5
        return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]

    return batch_norm, statistics


def layer_norm(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    """Over the last axis."""
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    x = (x - mean) / np.sqrt(variance + LAYER_NORM_EPSILON)
    return x * weights[f"{name}/gamma"] + weights[f"{name}/beta"]


def standardize(pixels: Array, means: Sequence, deviations: Sequence) -> Array:
    """Pixels from 0 to 255, as numbers from 0 to 1, by their channels' statistics."""
    return (pixels / 255 - np.array(means)) / np.array(deviations)
