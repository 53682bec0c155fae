"""Random-resized and centre crops of images, the recipe of the paper's authors.

Training takes a random part of an image, evaluation its centre, both resized to one
size (Szegedy et al., "Going deeper with convolutions", 2015, section 6). The geometry
is here once, for NumPy and for TensorFlow; ResizedCrop applies it to arrays in memory,
samkeras.data.image_stream to encoded images on disk.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

SMALLEST_AREA = 0.08  # that is tried, of the image's; the largest is all of it
SMALLEST_COVER = 0.1  # that is taken
LARGEST_ASPECT = 4 / 3  # width over height; the smallest is its inverse
TRIES = 10
# An aspect and a height for each try, then the flip and the crop's top and left.
NUM_DRAWS = 2 * TRIES + 3
# Evaluation crops size of size + MARGIN pixels: 224 of 256, as is usual.
MARGIN = 32


def random_box(draws: Any, height: Any, width: Any, size: int, xp: Any = np) -> tuple:
    """A random part of an image, distributed as the paper authors' crops are: those of
    TensorFlow's sample_distorted_bounding_box, with the whole image as the object of
    which a tenth must be seen.

    Of each of ten tries the aspect ratio is uniform in 3/4 to 4/3; then the height in
    pixels, of all with which such a crop has at least 8 % of the image's area and fits
    into it. The first try with 10 % is taken. If there is none, or it is the whole
    image, it is the centre crop.

    Args:
        draws: float32[..., NUM_DRAWS], uniform in [0, 1).
        height: int32, the images' height in pixels.
        width: int32, the images' width.
        size: the side that a crop is resized to: it decides the centre crop.
        xp: numpy, or tensorflow.experimental.numpy for tensors.

    Returns:
        top, left, height, width: int32[...] each, in pixels.
    """
    heights, widths = _draw_sizes(draws, height, width, xp)
    smallest = SMALLEST_COVER * xp.asarray(height * width, "float32")
    is_large = xp.asarray(heights * widths, "float32") >= smallest
    fits = is_large & (heights <= height) & (widths <= width)
    first = xp.asarray(
        fits & (xp.cumsum(xp.asarray(fits, "int32"), axis=-1) == 1), "int32"
    )
    chosen_height = xp.max(first * heights, axis=-1)
    chosen_width = xp.max(first * widths, axis=-1)
    top = _place(draws[..., -2], height - chosen_height, xp)
    left = _place(draws[..., -1], width - chosen_width, xp)
    box = (top, left, chosen_height, chosen_width)
    centre = centre_box(height, width, size, xp)
    pairs = zip(box, centre, strict=True)
    is_part = (chosen_height > 0) & (chosen_height * chosen_width < height * width)
    return tuple(xp.where(is_part, *pair) for pair in pairs)


def _draw_sizes(draws: Any, height: Any, width: Any, xp: Any) -> tuple:
    """The height and width of each try, int32[..., TRIES]; some do not fit."""
    smallest_aspect = 1 / LARGEST_ASPECT
    aspects = smallest_aspect + (LARGEST_ASPECT - smallest_aspect) * draws[..., :TRIES]
    pixels = xp.asarray(height * width, "float32")

    def widths_of(heights):
        return _round(xp.asarray(heights, "float32") * aspects, xp)

    # Neither the image's own height nor the one that has its width is exceeded.
    room = (xp.asarray(width, "float32") + 0.5) / aspects
    highest = xp.minimum(_round(xp.sqrt(pixels / aspects), xp), height)
    highest = xp.minimum(highest, xp.asarray(room, "int32"))
    lowest = _round(xp.sqrt(SMALLEST_AREA * pixels / aspects), xp)
    lowest = xp.minimum(lowest, highest)
    draws = draws[..., TRIES : 2 * TRIES]
    heights = lowest + _place(draws, highest - lowest + 1, xp)
    # Where rounding made it too small.
    areas = xp.asarray(heights * widths_of(heights), "float32")
    heights += xp.asarray(areas < SMALLEST_AREA * pixels, "int32")
    return heights, widths_of(heights)


def _round(x: Any, xp: Any) -> Any:
    return xp.asarray(x + 0.5, "int32")


def _place(draw: Any, count: Any, xp: Any) -> Any:
    """One of `count` integers from 0 on, each as likely as the others; 0 of none.

    Of the places of a crop TensorFlow's sampler leaves out the last one, and so do we.
    """
    return xp.asarray(draw * xp.asarray(count, "float32"), "int32")


def centre_box(height: Any, width: Any, size: int, xp: Any = np) -> tuple:
    """The square in an image's centre whose side is size / (size + 32) of the shorter
    one of the image, rounded down as the paper's authors do: top, left, height, width
    in pixels."""
    side = xp.minimum(height, width) * size // (size + MARGIN)
    return (height - side + 1) // 2, (width - side + 1) // 2, side, side


def is_flipped(draws: Any) -> Any:
    """Whether to flip horizontally, as likely as not: bool[...]."""
    return draws[..., -3] < 0.5


@dataclass(frozen=True)
class ResizedCrop:
    """Random-resized crops and flips to train on, centre crops to evaluate on, of
    images in memory.

    Attributes:
        size: height and width of the crops after resizing, in pixels.
    """

    size: int

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """All random numbers for `count` images: float32[count, NUM_DRAWS]."""
        return generator.random((count, NUM_DRAWS), dtype="float32")

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Crops at random.

        Args:
            images: uint8[image, height, width, 1 or 3].
            draws: float32[image, NUM_DRAWS], of `draw`.

        Returns:
            uint8[image, size, size, 3]; grey is repeated in all three channels.
        """
        height, width = images.shape[1:3]
        boxes = random_box(draws, height, width, self.size)
        crops = self._resize(images, np.stack(boxes, axis=-1))
        flips = is_flipped(draws)[:, np.newaxis, np.newaxis, np.newaxis]
        return np.where(flips, crops[:, :, ::-1], crops)

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """Crops the centres, uint8[image, height, width, 1 or 3] to
        uint8[image, size, size, 3]."""
        height, width = images.shape[1:3]
        box = np.stack(centre_box(height, width, self.size))
        return self._resize(images, np.broadcast_to(box, (len(images), 4)))

    def _resize(self, images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        from PIL import Image

        if images.shape[-1] == 1:
            images = images[..., 0]  # as Pillow takes grey
        crops = np.empty((len(images), self.size, self.size, 3), "uint8")
        for crop, image, box in zip(crops, images, boxes, strict=True):
            top, left, height, width = box.tolist()
            part = Image.fromarray(image[top : top + height, left : left + width])
            shape = (self.size, self.size)
            crop[:] = part.resize(shape, Image.Resampling.BICUBIC).convert("RGB")
        return crops
