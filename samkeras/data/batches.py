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


class Collate(Protocol):
    """How examples of different sizes become a batch of one of few shapes."""

    def sizes(self, x: np.ndarray) -> np.ndarray:
        """The size of each example, such as its tokens: int[example]."""

    def labels_per_example(self, y: np.ndarray) -> float:
        """The mean number of labels whose losses are summed up in an example's loss."""

    def pad(self, x: np.ndarray, y: np.ndarray, size: int) -> tuple:
        """A batch of examples of at most `size`: inputs, labels, sample weights."""


WINDOW = 8  # batches whose examples are brought in the order of their sizes


class EpochBatches(keras.utils.PyDataset):
    """Batches for keras' `fit(..., shuffle=False)`, which would otherwise shuffle them
    again; the last one of an epoch may be smaller.

    Where several devices share a batch, it has to be a multiple of their number.
    Training leaves out the up to `multiple_of` - 1 examples too many, other ones in
    each epoch. Evaluation repeats some with a sample weight of 0, and weighs the others
    such that the mean loss and weighted metrics are those of the examples.

    With `collate`, batches are of examples of similar sizes: of each 8 batches of a
    random order, or of an eighth of an epoch if that is less, the examples are sorted
    by size, and then the batches shuffled. The last batch is filled up like those of an
    evaluation, for a shape more is compiled in seconds. Where an example has many
    labels, its weight is one over the mean number of them, so that the loss is that of
    a label, and each counts the same whatever the batch.

    Args:
        examples: x [example, ...] and y [example, ...]. Small integer types are
            gathered fastest: scale pixels inside the model.
        batch_size: examples per batch, of all processes together.
        seed: seed of order and augmentation to train with. None: evaluate, in the
            data's order.
        transform: what is done to x. None (default): nothing.
        collate: how examples of different sizes are padded. None (default): they are
            of one size.
        steps: batches of an epoch, which then goes on where the one before stopped.
            None (default): all examples once.
        augment: whether to draw `transform` at random. Default: not.
        multiple_of: what the size of every batch is a multiple of. Default 1.
        process: (this process, number of processes), of which each gets its part of
            every batch; the number divides `multiple_of`. Default (0, 1).
    """

    def __init__(
        self,
        examples: Examples,
        batch_size: int,
        seed: int | None = None,
        *,
        transform: Transform | None = None,
        collate: Collate | None = None,
        augment: bool = False,
        steps: int | None = None,
        multiple_of: int = 1,
        process: tuple[int, int] = (0, 1),
    ):
        super().__init__()
        self._x, self._y = examples
        self._batch_size, self._seed = batch_size, seed
        self._transform, self._augment = transform, augment
        self._collate = collate
        self._sizes = None if collate is None else collate.sizes(self._x)
        self._num_labels = (
            1.0 if collate is None else collate.labels_per_example(self._y)
        )
        self._process, self._num_processes = process
        count = len(self._x)
        self._count = count_in_pass(
            count, seed is not None, multiple_of, batch_size if collate else None
        )
        self._weights = None
        if self._count > count:
            self._weights = np.ones(self._count)
            # In training, the mean is over a batch: the last one's real examples.
            first = 0 if seed is None else count // batch_size * batch_size
            self._weights[first:] *= (self._count - first) / (count - first)
            self._weights[count:] = 0
        self._per_pass = math.ceil(self._count / batch_size)
        self.num_batches_in_all = steps or self._per_pass
        """Batches of a whole epoch."""
        self._pass = (None, None, None)  # its number, order and augmentation
        self.start_epoch(0)

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Sets order and augmentation to an epoch's, from batch `first_batch` on."""
        self._epoch, self.first_batch = epoch, first_batch

    @property
    def num_batches(self) -> int:
        return self.num_batches_in_all - self.first_batch

    @property
    def specs(self) -> tuple:
        """A batch's arrays as keras.KerasTensors; sides in which batches differ are
        None."""
        batches = [self[0]]
        if self._collate is not None:
            # Padded to more than any of these sides.
            size = max(max(a.shape[1:], default=0) for a in keras.tree.flatten(batches))
            batches.append(self._collate.pad(self._x[:1], self._y[:1], size + 1))

        def specify(*arrays: np.ndarray) -> keras.KerasTensor:
            sides = zip(*(array.shape[1:] for array in arrays), strict=True)
            fixed = [side if len({side, *more}) == 1 else None for side, *more in sides]
            return keras.KerasTensor((None, *fixed), str(arrays[0].dtype))

        return keras.tree.map_structure(specify, *batches)

    def __getitem__(self, index: int) -> tuple:
        batch = self._epoch * self.num_batches_in_all + self.first_batch + index
        number, place = divmod(batch, self._per_pass)
        order, draws = self._start_pass(number)
        start = place * self._batch_size
        stop = min(start + self._batch_size, self._count)
        share = (stop - start) // self._num_processes
        part = slice(start + self._process * share, start + (self._process + 1) * share)
        chosen = order[part]
        x, y = self._x[chosen], self._y[chosen]
        if self._augment:
            x = self._transform.apply(x, draws[part])
        elif self._transform is not None:
            x = self._transform.evaluate(x)
        weights = None if self._weights is None else self._weights[part]
        if self._collate is None:
            return (x, y) if weights is None else (x, y, weights)
        # Of all processes' parts, so that they have one shape.
        size = self._sizes[order[start:stop]].max()
        x, y, own_weights = self._collate.pad(x, y, size)
        own_weights = own_weights / np.float32(self._num_labels)
        if weights is not None:
            axes = (1,) * (own_weights.ndim - 1)
            own_weights = own_weights * weights.reshape(-1, *axes).astype("float32")
        return x, y, own_weights

    def _start_pass(self, number: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Order and augmentation of one pass over the examples."""
        # TensorFlow takes batches in a thread of its own: one assignment, one read.
        current, order, draws = self._pass
        if current == number:
            return order, draws
        order, draws = np.arange(len(self._x)), None
        if self._seed is not None:
            generator = np.random.default_rng([self._seed, number])
            order = generator.permutation(order)
            if self._sizes is not None:
                order = self._sort_by_size(order, generator)
        elif self._sizes is not None:
            order = np.argsort(self._sizes, kind="stable")
        order = np.resize(order, self._count)
        if self._augment:
            generator = np.random.default_rng([self._seed, number, 1])
            draws = self._transform.draw(generator, self._count)
        self._pass = (number, order, draws)
        return order, draws

    def _sort_by_size(
        self, order: np.ndarray, generator: np.random.Generator
    ) -> np.ndarray:
        # Fewer where there are few, of which a size should not be always the same ones.
        window = self._batch_size * max(1, min(WINDOW, self._per_pass // 8))
        parts = np.split(order, range(window, len(order), window))
        order = np.concatenate(
            [part[np.argsort(self._sizes[part], kind="stable")] for part in parts]
        )
        end = len(order) // self._batch_size * self._batch_size
        batches = order[:end].reshape(-1, self._batch_size)
        return np.concatenate([generator.permutation(batches).ravel(), order[end:]])


def count_in_pass(
    num_examples: int, training: bool, multiple_of: int, fill_to: int | None
) -> int:
    """The places of one pass over examples, some left out or some repeated.

    Args:
        num_examples: examples there are.
        training: whether it is to train: examples too many are left out then.
        multiple_of: what the number of places is a multiple of.
        fill_to: a larger such number that is reached by repeating some, in training
            too. None: none.
    """
    if fill_to is not None:
        return math.ceil(num_examples / fill_to) * fill_to
    count = num_examples if training else num_examples + multiple_of - 1
    return count // multiple_of * multiple_of


def bucket(size: int, buckets: tuple[int, ...]) -> int:
    """The smallest of `buckets` that is no smaller; beyond, a multiple of the last."""
    for candidate in buckets:
        if size <= candidate:
            return candidate
    return math.ceil(size / buckets[-1]) * buckets[-1]


class PaddedBatches(keras.utils.PyDataset):
    """Batches to evaluate, filled up with zeros of sample weight 0 where several
    devices have to share them; see EpochBatches for the others' weights.

    Args:
        batches: (x, y) of at most `batch_size` examples each.
        batch_size: examples of a batch.
        count: examples in all once filled up.
        weight: sample weight of an example: those in all over those before, of all
            processes together.
    """

    def __init__(
        self,
        batches: keras.utils.PyDataset,
        batch_size: int,
        count: int,
        weight: float,
    ):
        super().__init__()
        self._batches, self._batch_size = batches, batch_size
        self._count, self._weight = count, weight

    @property
    def num_batches(self) -> int:
        return math.ceil(self._count / self._batch_size)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        size = min(self._batch_size, self._count - index * self._batch_size)
        is_there = index < self._batches.num_batches
        x, y = self._batches[index if is_there else 0]
        num_there = len(x) if is_there else 0
        weights = np.where(np.arange(size) < num_there, self._weight, 0.0)
        return _fill(x[:num_there], size), _fill(y[:num_there], size), weights


def _fill(array: np.ndarray, size: int) -> np.ndarray:
    margins = [(0, size - len(array)), *[(0, 0)] * (array.ndim - 1)]
    return np.pad(array, margins)
