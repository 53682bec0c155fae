"""AutoAugment (Cubuk et al. 2019), a batch at a time, within a compiled step.

Most operations change a pixel by its own value alone: they are a table of 256 values
for each channel of each image. Others move pixels, to places that are computed for all
images at once. An image that an operation is not for has the identity in its place.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from samkeras.data.policies import POLICIES, Operation

Tensor = Any

NAMES = (
    "AutoContrast",
    "Brightness",
    "Color",
    "Contrast",
    "Cutout",
    "Equalize",
    "Invert",
    "Posterize",
    "Rotate",
    "Sharpness",
    "ShearX",
    "ShearY",
    "Solarize",
    "TranslateX",
    "TranslateY",
)
NUMBERS = {name: number for number, name in enumerate(NAMES, 1)}  # 0 is none
PER_OPERATION = 5  # its number, level and sign, and the place of a square


@dataclass(frozen=True)
class AutoAugment:
    """Gives each image one pair of a policy's operations, each with its probability.

    Operations are Pillow's, with the strengths of AutoAugment's own code for CIFAR-10.
    That of Foret et al. (2021) moves images of any size by up to 250 pixels and cuts
    squares of up to 200 out, as is done on ImageNet: nothing would be left of an image
    of 32 pixels.

    Args:
        policy: "cifar", for other images too, or "svhn".
        fill: the colour of what is moved in and cut out, pixels from 0 to 255: one
            number a channel, of three.
    """

    num_draws: ClassVar[int] = 2 * PER_OPERATION

    policy: Literal["cifar", "svhn"]
    fill: tuple[int, int, int]

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """What is done to `count` images: int[image, 10], of two operations each the
        number in NAMES, counted from 1 (0: none), the level, whether it is negative,
        and the row and column of a square's centre, once they are divided by the
        image's height and width and the rest is taken."""
        pairs = POLICIES[self.policy]
        chosen = generator.integers(0, len(pairs), count)
        parts = []
        for operations in zip(*pairs, strict=True):
            numbers, probabilities, levels = _columns(operations)
            is_done = generator.random(count) < probabilities[chosen]
            signs = generator.integers(0, 2, count)
            places = generator.integers(0, 2**30, (count, 2))
            number, level = np.where(is_done, numbers[chosen], 0), levels[chosen]
            parts += [np.stack([number, level, signs], axis=1), places]
        return np.concatenate(parts, axis=1)

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Changes images, uint8[batch, height, width, 3], each by its draw."""
        from samkeras.backend import backend

        return backend.fetch(_compile(self)(images, draws.astype("int32")))

    def apply_on_device(self, images: Tensor, draws: Tensor) -> Tensor:
        from keras import ops

        pixels = ops.cast(images, "int32")
        for start in (0, PER_OPERATION):
            of_stage = [draws[:, start + i] for i in range(PER_OPERATION)]
            pixels = _Stage(pixels, self.fill, *of_stage).apply()
        return ops.cast(pixels, "uint8")

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """Images as they are validated: unchanged."""
        return images


@functools.cache
def _compile(transform: AutoAugment) -> Callable[[Tensor, Tensor], Tensor]:
    from samkeras.backend import backend

    return backend.compile_function(transform.apply_on_device)


def _columns(operations: tuple[Operation, ...]) -> tuple[np.ndarray, ...]:
    names, probabilities, levels = zip(*operations, strict=True)
    numbers = [NUMBERS[name] for name in names]
    return np.array(numbers), np.array(probabilities), np.array(levels)


class _Stage:
    """One operation an image.

    Args:
        pixels: int32[image, height, width, 3].
        fill: the colour where there is nothing else.
        number, level, sign, row, column: int32[image], see `AutoAugment.draw`.
    """

    def __init__(
        self,
        pixels: Tensor,
        fill: tuple[int, int, int],
        number: Tensor,
        level: Tensor,
        sign: Tensor,
        row: Tensor,
        column: Tensor,
    ):
        from keras import ops

        self._ops, self._pixels, self._fill = ops, pixels, fill
        self._number, self._level = number, level
        self._row, self._column = row, column
        strength = ops.cast(level, "float32") / 10
        self._signed = ops.where(sign == 1, -strength, strength)
        self._factor = 1.8 * strength + 0.1
        _, self._height, self._width, _ = pixels.shape

    def apply(self) -> Tensor:
        pixels = self._look_up(self._pixels, self._make_tables())
        pixels = self._blend_if("Color", self._grey(pixels)[..., None], pixels)
        pixels = self._blend_if("Sharpness", self._smooth(pixels), pixels)
        return self._cut_out(self._move(pixels))

    def _is(self, name: str, rank: int) -> Tensor:
        """Of which images it is this operation: bool[image, 1, ...]."""
        return self._like(self._number == NUMBERS[name], rank)

    def _like(self, values: Tensor, rank: int) -> Tensor:
        return self._ops.reshape(values, (-1, *[1] * (rank - 1)))

    def _make_tables(self) -> Tensor:
        """What each value becomes: int32[image, channel, value]."""
        ops = self._ops
        values = ops.arange(256, dtype="int32")[None, None]
        counts = self._count()
        level = self._like(self._level, 3)
        step = 2 ** (4 + level * 4 // 10)  # of the bits that posterizing keeps
        mean = self._like(self._find_mean(), 3)
        tables = {
            "Invert": 255 - values,
            "Solarize": ops.where(
                values < 256 - level * 256 // 10, values, 255 - values
            ),
            "Posterize": values // step * step,
            "Brightness": self._blend(0 * values, values),
            "Contrast": self._blend(mean + 0 * values, values),
            "AutoContrast": _stretch(ops, counts, values),
            "Equalize": _equalize(ops, counts, values),
        }
        found = values + 0 * counts
        for name, table in tables.items():
            found = ops.where(self._is(name, 3), table, found)
        return ops.clip(found, 0, 255)

    def _count(self) -> Tensor:
        """How often each channel of an image has each value: int32[image, channel,
        value]."""
        ops = self._ops
        count = ops.shape(self._pixels)[0]
        places = self._offset(256) + self._pixels
        flat = ops.reshape(places, (-1,))
        sums = ops.segment_sum(ops.ones_like(flat), flat, num_segments=count * 768)
        return ops.reshape(sums, (count, 3, 256))

    def _offset(self, size: int) -> Tensor:
        """Where a channel of an image begins in a list of them, each of some size:
        int32[image, 1, 1, channel]."""
        ops = self._ops
        count = ops.shape(self._pixels)[0]
        image = self._like(ops.arange(count, dtype="int32"), 4)
        return (image * 3 + ops.arange(3, dtype="int32")) * size

    def _look_up(self, pixels: Tensor, tables: Tensor) -> Tensor:
        from samkeras.backend import backend

        rows = self._ops.reshape(tables, (-1,))
        return backend.take_rows(rows, self._offset(256) + pixels)

    def _grey(self, pixels: Tensor) -> Tensor:
        """As Pillow has it: int32[image, height, width]."""
        red, green, blue = (pixels[..., i] for i in range(3))
        return (red * 19595 + green * 38470 + blue * 7471 + 0x8000) // 0x10000

    def _find_mean(self) -> Tensor:
        """Each image's mean of grey, rounded: int32[image]."""
        size = self._height * self._width
        total = self._ops.sum(self._grey(self._pixels), axis=(1, 2))
        return (2 * total + size) // (2 * size)

    def _blend(self, least: Tensor, image: Tensor) -> Tensor:
        """`least` with a factor of 0, `image` with 1, more than it above."""
        ops = self._ops
        least, image = ops.cast(least, "float32"), ops.cast(image, "float32")
        factor = self._like(self._factor, len(image.shape))
        return ops.cast(ops.clip(least + factor * (image - least), 0, 255), "int32")

    def _blend_if(self, name: str, least: Tensor, pixels: Tensor) -> Tensor:
        blended = self._blend(least, pixels)
        return self._ops.where(self._is(name, 4), blended, pixels)

    def _smooth(self, pixels: Tensor) -> Tensor:
        """Pillow's filter: 5/13 of a pixel and 1/13 of each around it, but at the
        edges."""
        ops, height, width = self._ops, self._height, self._width
        if min(height, width) < 3:
            return pixels
        total = 4 * pixels[:, 1:-1, 1:-1]
        for row in range(3):
            for column in range(3):
                last = (height - 2 + row, width - 2 + column)
                total = total + pixels[:, row : last[0], column : last[1]]
        smooth = (2 * total + 13) // 26
        margins = ((0, 0), (1, 1), (1, 1), (0, 0))
        inside = np.zeros((1, height, width, 1), bool)
        inside[:, 1:-1, 1:-1] = True
        return ops.where(inside, ops.pad(smooth, margins), pixels)

    def _move(self, pixels: Tensor) -> Tensor:
        """Sheared, moved or turned images, by the nearest pixel."""
        from samkeras.backend import backend

        ops, height, width = self._ops, self._height, self._width
        signed = self._signed
        whole = ops.trunc(10 * signed)  # pixels
        angle = -ops.trunc(30 * signed) * (math.pi / 180)

        def choose(base: float, **changes: Tensor) -> Tensor:
            found = base + 0 * signed
            for name, value in changes.items():
                found = ops.where(self._is(name, 1), value, found)
            return self._like(found, 3)

        cos, sin = ops.cos(angle), ops.sin(angle)
        x = ops.arange(width, dtype="float32")[None, None] + 0.5
        y = ops.arange(height, dtype="float32")[None, :, None] + 0.5
        x_from_x, y_from_y = choose(1.0, Rotate=cos), choose(1.0, Rotate=cos)
        x_from_y = choose(0.0, Rotate=sin, ShearX=0.3 * signed)
        y_from_x = choose(0.0, Rotate=-sin, ShearY=0.3 * signed)
        # Around the centre, where they turn; from the corner, where they shear.
        is_turned = self._is("Rotate", 3)
        x_centre = ops.where(is_turned, width / 2, 0.0)
        y_centre = ops.where(is_turned, height / 2, 0.0)
        x, y = x - x_centre, y - y_centre
        column = x_from_x * x + x_from_y * y + x_centre + choose(0.0, TranslateX=whole)
        row = y_from_x * x + y_from_y * y + y_centre + choose(0.0, TranslateY=whole)
        column = ops.cast(ops.floor(column), "int32")
        row = ops.cast(ops.floor(row), "int32")
        is_inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        column, row = ops.clip(column, 0, width - 1), ops.clip(row, 0, height - 1)
        image = self._like(ops.arange(ops.shape(pixels)[0], dtype="int32"), 3)
        places = (image * height + row) * width + column
        moved = backend.take_rows(ops.reshape(pixels, (-1, 3)), places)
        return ops.where(is_inside[..., None], moved, self._colour())

    def _colour(self) -> Tensor:
        return self._ops.array(self._fill, dtype="int32")

    def _cut_out(self, pixels: Tensor) -> Tensor:
        ops, half = self._ops, self._like(self._level * 2, 2) // 2
        inside = []
        for centre, length in ((self._row, self._height), (self._column, self._width)):
            place = ops.arange(length, dtype="int32")[None] - self._like(
                centre % length, 2
            )
            inside.append((place >= -half) & (place < half))
        rows, columns = inside
        is_cut = (rows[:, :, None] & columns[:, None, :])[..., None]
        return ops.where(is_cut & self._is("Cutout", 4), self._colour(), pixels)


def _stretch(ops: Any, counts: Tensor, values: Tensor) -> Tensor:
    """Tables that bring a channel's least value to 0 and its largest to 255."""
    is_there = counts > 0
    low = ops.min(ops.where(is_there, values, 255), axis=-1, keepdims=True)
    high = ops.max(ops.where(is_there, values, 0), axis=-1, keepdims=True)
    stretched = (values - low) * 255 // ops.maximum(high - low, 1)
    return ops.where(high > low, stretched, values)


def _equalize(ops: Any, counts: Tensor, values: Tensor) -> Tensor:
    """Tables that bring as many pixels to each value as to the others."""
    sums = ops.cumsum(counts, axis=-1)
    high = ops.max(ops.where(counts > 0, values, 0), axis=-1, keepdims=True)
    of_highest = ops.sum(ops.where(values == high, counts, 0), axis=-1, keepdims=True)
    step = (sums[..., -1:] - of_highest) // 255
    spread = (step // 2 + sums - counts) // ops.maximum(step, 1)
    return ops.where(step > 0, spread, values)
