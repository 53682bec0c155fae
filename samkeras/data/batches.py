"""Batches of in-memory data, in an order that (seed, epoch) alone decides."""

import math
from typing import Protocol

import keras
import numpy as np

from samkeras.workload import Examples


class Transform(Protocol):
    """What is done to images before a model sees them, such as CropFlip."""

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """The random numbers for `count` training images: [image, ...]."""

    def apply(self, images: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Training images, each with its draw."""

    def evaluate(self, images: np.ndarray) -> np.ndarray:
        """The same images without chance."""


class EpochBatches(keras.utils.PyDataset):
    """Batches for keras' `fit(..., shuffle=False)`, which would otherwise shuffle them
    again; the last one of an epoch may be smaller.

    Of several processes each gets a part of every batch; of a batch that they cannot
    share equally, as the last one may be, each gets the whole.

    Args:
        examples: x [example, ...] and y [example, ...]. Small integer types are
            gathered fastest: scale pixels inside the model.
        batch_size: examples per batch, of all processes together.
        seed: seed of order and augmentation. None: in the data's order.
        transform: what is done to x. None (default): nothing.
        augment: whether to draw `transform` at random. Default: not.
        process: (this process, number of processes). Default (0, 1).
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int | None = None,
        *,
        transform: Transform | None = None,
        augment: bool = False,
        process: tuple[int, int] = (0, 1),
    ):
        super().__init__()
        self._x, self._y = examples
        self._batch_size, self._seed = batch_size, seed
        self._transform, self._augment = transform, augment
        self._process, self._num_processes = process
        self.start_epoch(0)

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Sets order and augmentation to an epoch's, from batch `first_batch` on."""
        count = len(self._x)
        self.first_batch = first_batch
        self._order = np.arange(count)
        if self._seed is not None:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(count)
        if self._augment:
            generator = np.random.default_rng([self._seed, epoch, 1])
            self._draws = self._transform.draw(generator, count)

    @property
    def num_batches_in_all(self) -> int:
        """Batches of a whole epoch."""
        return math.ceil(len(self._x) / self._batch_size)

    @property
    def num_batches(self) -> int:
        return self.num_batches_in_all - self.first_batch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = (self.first_batch + index) * self._batch_size
        stop = min(start + self._batch_size, len(self._x))
        if (stop - start) % self._num_processes == 0:
            share = (stop - start) // self._num_processes
            start += self._process * share
            stop = start + share
        chosen = self._order[start:stop]
        x = self._x[chosen]
        if self._augment:
            x = self._transform.apply(x, self._draws[start:stop])
        elif self._transform is not None:
            x = self._transform.evaluate(x)
        return x, self._y[chosen]
