"""Random changes of training images in memory, drawn by the epoch."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:  # it imports keras, and what describes a data set needs none
    from types import ModuleType

    from samkeras.backend.interface import Tensor
    from samkeras.data.autoaugment import AutoAugment


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
    """Pads images, crops them to their size at random and mirrors every other one, as
    CIFAR-10 is usually augmented.

    Args:
        padding: pixels on each side. Default 4.
        mode: "constant" (default) pads with zeros, "reflect" with the pixels within the
            edge, the next ones first.
    """

    num_draws: ClassVar[int] = 3

    padding: int = 4
    mode: Literal["constant", "reflect"] = "constant"

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
            np.pad(images, margins, mode=self.mode), shape, axis=(1, 2, 3)
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
        padded = ops.pad(images, margins, mode=self.mode)
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


@dataclass(frozen=True)
class Cutout:
    """Puts the mean colour in place of a square of each image (DeVries and Taylor
    2017): zeros, once images are standardized. At an edge the square is cut off.

    Args:
        size: side of the square, in pixels.
        fill: the colour, pixels from 0 to 255: one number a channel.
        images_per_place: images one after the other that have the square in one place:
            1 (default), or a batch's, as Foret et al. (2021) have it in their code.
    """

    num_draws: ClassVar[int] = 2

    size: int
    fill: tuple[float, ...]
    images_per_place: int = 1

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The random numbers for `count` images: int[image, 2], the row and the column
        of the square's centre, once they are divided by the image's height and width
        and the rest is taken."""
        places = -(-count // self.images_per_place)
        draws = generator.integers(0, 2**30, (places, 2))
        return np.repeat(draws, self.images_per_place, axis=0)[:count]

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes images, [batch, height, width, channel], each by its draw:
        float32."""
        return self._cut(images, draws, np)

    def apply_on_device(self, images: "Tensor", draws: "Tensor") -> "Tensor":
        from keras import ops

        return self._cut(images, draws, ops)

    def _cut(self, images: "Tensor", draws: "Tensor", xp: "ModuleType") -> "Tensor":
        inside = []
        for axis, length in enumerate(images.shape[1:3]):
            start = draws[:, axis : axis + 1] % length - self.size // 2
            pixels = xp.arange(length, dtype="int32")[None]
            inside.append((pixels >= start) & (pixels < start + self.size))
        rows, columns = inside
        is_cut = (rows[:, :, None] & columns[:, None, :])[..., None]
        fill = xp.array(self.fill, dtype="float32")
        return xp.where(is_cut, fill, xp.array(images, dtype="float32"))

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """Images as they are validated: unchanged."""
        return images


@dataclass(frozen=True)
class Chain:
    """One transform after the other.

    Args:
        parts: transforms of `num_draws` numbers an image each.
    """

    parts: "tuple[CropFlip | Cutout | AutoAugment, ...]"

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The parts' random numbers side by side: int[image, number]."""
        draws = [part.draw(generator, count) for part in self.parts]
        return np.concatenate(draws, axis=1)

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes images by all parts."""
        for part, of_part in self._split(draws):
            images = part.apply(images, of_part)
        return images

    def apply_on_device(self, images: "Tensor", draws: "Tensor") -> "Tensor":
        for part, of_part in self._split(draws):
            images = part.apply_on_device(images, of_part)
        return images

    def _split(self, draws: "Tensor") -> "Iterator[tuple[Any, Tensor]]":
        start = 0
        for part in self.parts:
            yield part, draws[:, start : start + part.num_draws]
            start += part.num_draws

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """Images as they are validated: unchanged."""
        return images
