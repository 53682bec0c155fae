"""Training batches of in-memory data, in an order that (seed, epoch) alone decides."""

import keras
import numpy as np


class EpochBatches(keras.utils.PyDataset):
    """Shuffled batches for keras' `fit(..., shuffle=False)`, which would otherwise
    shuffle them again; the last one of an epoch may be smaller.

    Args:
        x: inputs [example, ...]. Small integer types are gathered fastest: scale
            pixels inside the model.
        y: targets [example, ...].
        batch_size: examples per batch.
        seed: seed of the order.
    """

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, seed: int):
        super().__init__()
        self._x, self._y = x, y
        self._batch_size, self._seed = batch_size, seed
        self.start_epoch(0)

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Sets the order to that of an epoch, from its batch `first_batch` on."""
        generator = np.random.default_rng([self._seed, epoch])
        self._order = generator.permutation(len(self._x))
        self.first_batch = first_batch

    @property
    def num_batches_in_all(self) -> int:
        """Batches of a whole epoch."""
        return -(-len(self._x) // self._batch_size)

    @property
    def num_batches(self) -> int:
        return self.num_batches_in_all - self.first_batch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        start = (self.first_batch + index) * self._batch_size
        chosen = self._order[start : start + self._batch_size]
        return self._x[chosen], self._y[chosen]
