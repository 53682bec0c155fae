"""Random changes of training images in memory, drawn by the epoch."""

from typing import Protocol

import numpy as np


class Transform(Protocol):
    """What is done to images before a model sees them, such as CropFlip."""

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The random numbers for `count` training images: [image, ...]."""
        ...

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Training images, each with its draw."""
        ...

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """The same images without chance."""
        ...


class CropFlip:
    """Zero-pads images, crops them to their size at random and mirrors every other
    one, as CIFAR-10 is usually augmented.

    Args:
        padding: pixels on each side. Default 4.
    """

    def __init__(self, padding: int = 4):
        self._padding = padding

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The random numbers for `count` images: int[image, 3], the crop's row and
        column, and whether to mirror."""
        high = [2 * self._padding + 1] * 2 + [2]
        return generator.integers(0, high, (count, 3))

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes images, uint8[batch, height, width, channel], each by its draw."""
        count, *shape = images.shape
        margins = [(0, 0), *[(self._padding, self._padding)] * 2, (0, 0)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(images, margins), shape, axis=(1, 2, 3)
        )
        rows, columns, mirrored = draws.T
        crops = windows[np.arange(count), rows, columns, 0]
        mirrored = mirrored.astype(bool)
        crops[mirrored] = crops[mirrored, :, ::-1]
        return crops

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """Images as they are validated: unchanged."""
        return images
