"""Batches filled up to the sizes that devices share and programs are compiled for."""

import math
from typing import Any, Protocol

import numpy as np


class Collate(Protocol):
    """How examples of different sizes become a batch of one of few shapes."""

    def sizes(self, x: np.ndarray) -> np.ndarray:
        """The size of each example, such as its tokens: int[example]."""
        ...

    def labels_per_example(self, y: np.ndarray) -> float:
        """The mean number of labels whose losses are summed up in an example's loss."""
        ...

    def pad(
        self, x: np.ndarray, y: np.ndarray, size: int
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """A batch of examples of at most `size`: inputs, labels, sample weights."""
        ...


class Padding:
    """The padding of a set's batches. Where an example has many labels, its weight is
    one over the mean number of them, so that the loss is that of a label, and each
    counts the same whatever the batch.

    Args:
        collate: what pads a batch.
        x, y: the set.

    Attributes:
        sizes: int[example].
    """

    def __init__(self, collate: Collate, x: np.ndarray, y: np.ndarray):
        self.sizes = collate.sizes(x)
        self._collate = collate
        self._num_labels = np.float32(collate.labels_per_example(y))

    def pad(
        self, x: np.ndarray, y: np.ndarray, size: int, weights: np.ndarray | None = None
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """A batch of examples of at most `size`, each of a weight, float[example]:
        inputs, labels, sample weights."""
        inputs, labels, own_weights = self._collate.pad(x, y, size)
        own_weights = own_weights / self._num_labels
        if weights is not None:
            axes = (1,) * (own_weights.ndim - 1)
            own_weights = own_weights * weights.reshape(-1, *axes).astype("float32")
        return inputs, labels, own_weights


def bucket(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest of `buckets` that is no smaller; beyond, a multiple of the last."""
    for candidate in buckets:
        if size <= candidate:
            return candidate
    return math.ceil(size / buckets[-1]) * buckets[-1]


def weigh_places(num_examples: int, num_places: int, weight: float) -> np.ndarray:
    """Sample weights of places, float64[place]: of those that the examples are in, and
    0 of those after them, which are filled up."""
    return np.where(np.arange(num_places) < num_examples, weight, 0.0)


def fill_up(array: np.ndarray, count: int) -> np.ndarray:
    """An array with zeros after its rows, `count` rows in all."""
    margins = [(0, count - len(array)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, margins)


def fit_length(rows: np.ndarray, length: int, fill: int) -> np.ndarray:
    """Rows cut, or filled up, to a length: [row, length]."""
    missing = max(0, length - rows.shape[1])
    return np.pad(rows[:, :length], [(0, 0), (0, missing)], constant_values=fill)
