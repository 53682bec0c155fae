"""Means of two images and of their labels (Zhang et al. 2018)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # it imports keras, and what describes a data set needs none
    from types import ModuleType

    from samkeras.backend.interface import Tensor


@dataclass(frozen=True)
class Mixup:
    """Mixes each image of a batch with the one in the opposite place, and their labels,
    all of a batch by one share, of Beta(alpha, alpha) and at least a half, as Foret et
    al. (2021) have it in their code.

    Args:
        alpha: of the distribution, above 0.
        num_classes: the labels are those from 0 on below it.
    """

    alpha: float
    num_classes: int

    def draw(self, generator: np.random.Generator, num_batches: int) -> np.ndarray:
        """The share of the image itself, of each batch: float32[batch]."""
        shares = generator.beta(self.alpha, self.alpha, num_batches)
        return np.maximum(shares, 1 - shares).astype("float32")

    def mix(
        self,
        batch: "tuple[Tensor, Tensor]",
        others: "tuple[Tensor, Tensor]",
        shares: "Tensor",
        xp: "ModuleType",
    ) -> "tuple[Tensor, Tensor]":
        """The mean of two batches.

        Args:
            batch: x: [image, height, width, channel] and y: int[image].
            others: those to mix with, as many.
            shares: float32[image], those of the first ones.
            xp: numpy, or keras.ops for tensors.

        Returns:
            x: float32[image, height, width, channel] and y: float32[image, class], the
            shares of the classes.
        """
        (x, y), (x_other, y_other) = batch, others
        classes = xp.arange(self.num_classes, dtype="int32")
        pairs = [(x, x_other), (y[:, None] == classes, y_other[:, None] == classes)]
        means = []
        for pair in pairs:
            one, other = (xp.array(each, dtype="float32") for each in pair)
            share = xp.reshape(shares, (-1, *[1] * (len(one.shape) - 1)))
            means.append(share * one + (1 - share) * other)
        return means[0], means[1]
