"""Random changes of training images in memory, drawn by the epoch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # it imports keras, and what describes a data set needs none
    from samkeras.backend.interface import Tensor


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


@runtime_checkable
class DeviceTransform(Transform, Protocol):
    """One that a compiled step can make, and that leaves images as they are where there
    is no chance. Equal ones do the same."""

    def apply_on_device(self, images: "Tensor", draws: "Tensor") -> "Tensor":
        """What `apply` does, to the bit, in keras.ops."""
        ...


@dataclass(frozen=True)
class CropFlip:
    """Zero-pads images, crops them to their size at random and mirrors every other
    one, as CIFAR-10 is usually augmented.

    Args:
        padding: pixels on each side. Default 4.
    """

    padding: int = 4

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The random numbers for `count` images: int[image, 3], the crop's row and
        column, and whether to mirror."""
        high = [2 * self.padding + 1] * 2 + [2]
        return generator.integers(0, high, (count, 3))

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes images, uint8[batch, height, width, channel], each by its draw."""
        count, *shape = images.shape
        margins = [(0, 0), *[(self.padding, self.padding)] * 2, (0, 0)]
        windows = np.lib.stride_tricks.sliding_window_view(
            np.pad(images, margins), shape, axis=(1, 2, 3)
        )
        rows, columns, mirrored = draws.T
        crops = windows[np.arange(count), rows, columns, 0]
        mirrored = mirrored.astype(bool)
        crops[mirrored] = crops[mirrored, :, ::-1]
        return crops

    def apply_on_device(self, images: "Tensor", draws: "Tensor") -> "Tensor":
        from keras import ops

        from samkeras.backend import backend

        _, height, width, channels = images.shape
        margins = [(0, 0), *[(self.padding, self.padding)] * 2, (0, 0)]
        padded = ops.pad(images, margins)
        top, left, mirrored = (ops.expand_dims(draws[:, i], 1) for i in range(3))
        across = ops.expand_dims(ops.arange(width, dtype="int32"), 0)
        rows = top + ops.expand_dims(ops.arange(height, dtype="int32"), 0)
        columns = left + ops.where(mirrored == 1, width - 1 - across, across)
        # Each pixel by its place in a list of all.
        count = ops.shape(images)[0]
        image = ops.expand_dims(ops.arange(count, dtype="int32"), 1)
        rows += image * (height + 2 * self.padding)
        places = ops.expand_dims(rows, 2) * (width + 2 * self.padding)
        places += ops.expand_dims(columns, 1)
        pixels = ops.reshape(padded, (-1, channels))
        return backend.take_rows(pixels, places)

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """Images as they are validated: unchanged."""
        return images
