"""Batches of examples, one epoch after the other."""

import itertools
from collections.abc import Generator, Mapping
from functools import cached_property
from typing import Any, NamedTuple, Protocol, cast

import keras
import numpy as np

from samkeras.backend import backend
from samkeras.backend.interface import Rows
from samkeras.data.augmentation import DeviceTransform, Transform
from samkeras.data.mixup import Mixup
from samkeras.data.order import Order, count_places, generator_of_pass
from samkeras.data.padding import Collate, Padding, weigh_places
from samkeras.data.resident import Gather, tables


class Batches(Protocol):
    """What a run trains or is validated on: the batches of an epoch, by their places.

    Attributes:
        total: batches of a whole epoch.
        first_batch: those of the epoch that were done when it was started.
        specs: what all batches are like, keras.KerasTensors in a batch's structure,
            None in sides in which they differ; None: they are as the first, but for
            the number of examples.
    """

    total: int
    first_batch: int

    @property
    def specs(self) -> Any: ...

    @property
    def left(self) -> int:
        """Batches of the epoch from `first_batch` on."""
        ...

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Goes to an epoch, from its batch `first_batch` on."""
        ...

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        """The batch `index` places after `first_batch`: inputs, labels and, where
        examples do not count alike, sample weights."""
        ...

    @property
    def example(self) -> tuple[Any, ...]:
        """A batch to build a model for."""
        ...

    def take(self, count: int) -> Generator[list[tuple[Any, ...]] | Rows]:
        """The batches that are left of the epoch: about `count` at a time, or all of a
        shape together, whose examples the device has."""
        ...

    def count_examples(self, num_batches: int) -> int:
        """The examples that some batches bring."""
        ...

    def statistics(self) -> dict[str, float]:
        """What else there is to say of an epoch that is over."""
        ...

    def capture(self) -> dict[str, np.ndarray]:
        """What it takes to go on within an epoch, beside its number."""
        ...

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Goes back to what was captured; an epoch has to be started then."""
        ...


class PassBatches(keras.utils.PyDataset):
    """What batches of examples have in common: an epoch is a pass over the examples, or
    a number of batches, and then goes on where the one before stopped.

    They are also for keras' `fit(..., shuffle=False)`, which would otherwise shuffle
    them again.

    Args:
        per_pass: batches of a pass.
        batch_size: examples per batch, of all processes together.
        steps: batches of an epoch. None: those of a pass.
    """

    specs: Any = None

    def __init__(self, per_pass: int, batch_size: int, steps: int | None):
        super().__init__()
        self._per_pass, self._whole_size = per_pass, batch_size
        self.total = steps or per_pass
        self.start_epoch(0)

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Goes to an epoch, from its batch `first_batch` on."""
        self._epoch, self.first_batch = epoch, first_batch

    @property
    def left(self) -> int:
        """Batches of the epoch from `first_batch` on."""
        return self.total - self.first_batch

    @property
    def num_batches(self) -> int:
        """`left`, as keras calls it."""
        return self.left

    @property
    def example(self) -> tuple[Any, ...]:
        return self[0]

    def take(self, count: int) -> Generator[list[tuple[Any, ...]] | Rows]:
        starts = range(0, self.left, count)
        ends = (min(start + count, self.left) for start in starts)
        return backend.take_ahead(
            [self[index] for index in range(start, end)]
            for start, end in zip(starts, ends, strict=True)
        )

    def count_examples(self, num_batches: int) -> int:
        return num_batches * self._whole_size

    def statistics(self) -> dict[str, float]:
        return {}

    def capture(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, arrays: Mapping[str, np.ndarray]) -> None:
        pass  # an epoch's number is all that it takes

    def _locate(self, index: int) -> tuple[int, int]:
        """The pass that a batch of the epoch is in, and its place there."""
        if not 0 <= index < self.left:
            raise IndexError(f"batch {index} of {self.left}")
        batch = self._epoch * self.total + self.first_batch + index
        return divmod(batch, self._per_pass)


class EpochBatches(PassBatches):
    """The batches of examples in memory, made by ArrayExamples.batches.

    Where several devices share a batch, it has to be a multiple of their number.
    Training leaves out the up to `multiple_of` - 1 examples too many, other ones in
    each epoch. Evaluation repeats some with a sample weight of 0, and weighs the others
    such that the mean loss and weighted metrics are those of the examples.

    With `collate`, batches are of examples of similar sizes, see Order. The last batch
    is filled up like those of an evaluation, for a shape more is compiled in seconds.

    Args:
        x, y: [example, ...] each.
        transform, collate, mixup, is_resident: as in ArrayExamples.
        batch_size, seed, augment, steps, multiple_of, process: as in Examples.batches.
    """

    def __init__(
        self,
        x: np.ndarray,
        y: np.ndarray,
        transform: Transform | None,
        collate: Collate | None,
        mixup: Mixup | None,
        batch_size: int,
        seed: int | None,
        *,
        augment: bool,
        steps: int | None,
        multiple_of: int,
        process: tuple[int, int],
        is_resident: bool,
    ):
        self._x, self._y = x, y
        self._is_resident = is_resident
        self._placed: tuple[int, list[Rows]] | None = None  # an epoch's, on the device
        self._transform = transform
        self._mixup = None if seed is None else mixup
        self._augmentation_seed = seed if augment else None
        self._process, self._num_processes = process
        self._padding = None if collate is None else Padding(collate, x, y)
        self._order = Order(
            len(x),
            count_places(
                len(x), seed is not None, multiple_of, batch_size if collate else None
            ),
            batch_size,
            seed,
            self._padding and self._padding.sizes,
        )
        self._weights = _weigh(self._order)
        self._pass: Pass | None = None
        super().__init__(self._order.num_batches, batch_size, steps)

    @cached_property
    def specs(self) -> Any:
        """A batch's arrays as keras.KerasTensors; sides in which batches differ are
        None."""
        batches: list[Any] = [self[0]]
        if self._padding is not None:
            # Padded to more than any of these sides.
            sides = (max(a.shape[1:], default=0) for a in keras.tree.flatten(batches))
            size = max(max(sides) + 1, self._padding.sizes[0])
            batches.append(self._padding.pad(self._x[:1], self._y[:1], size))

        def specify(*arrays: np.ndarray) -> keras.KerasTensor:
            sides = zip(*(array.shape[1:] for array in arrays), strict=True)
            fixed = [side if len({side, *more}) == 1 else None for side, *more in sides]
            return keras.KerasTensor((None, *fixed), str(arrays[0].dtype))

        return keras.tree.map_structure(specify, *batches)

    def take(self, count: int) -> Generator[list[tuple[Any, ...]] | Rows]:
        if not self._is_resident:
            yield from super().take(count)
            return
        if self._placed is None or self._placed[0] != self._epoch:
            self._placed = (self._epoch, self._place_rows(self._epoch))
        done = self.first_batch
        for rows in self._placed[1]:
            # Of whole epochs, so that the rest of one is the same program.
            if done < len(rows):
                yield rows[done:]
            done = max(0, done - len(rows))
        if self._order.seed is not None:  # while the device is at these
            self._placed = (self._epoch + 1, self._place_rows(self._epoch + 1))

    def _place_rows(self, epoch: int) -> list[Rows]:
        """The rows of an epoch's batches, those of one shape together."""

        def rows_of(index: int) -> dict[str, Any]:
            number, place = divmod(epoch * self.total + index, self._per_pass)
            this = self._start_pass(number)
            part, whole = self._find_part(place)
            rows = this.rows_of(part)
            if this.shares is not None:
                rows["others"] = this.rows_of(_opposite(part, whole))
                rows["shares"] = np.full(len(rows["index"]), this.shares[place])
            if self._weights is not None:
                rows["weights"] = self._weights[part].astype("float32")
            return rows

        batches = map(rows_of, range(self.total))
        groups = [
            keras.tree.map_structure(lambda *a: np.stack(a), *group)
            for _, group in itertools.groupby(batches, lambda rows: len(rows["index"]))
        ]
        placed: list[Rows] = []
        for arrays in reversed(groups):
            placed.insert(
                0,
                Rows(
                    tuple(tables.find(array) for array in (self._x, self._y)),
                    keras.tree.map_structure(backend.place_rows, arrays),
                    Gather(cast(DeviceTransform | None, self._transform), self._mixup),
                    self.specs,
                    0,
                    len(arrays["index"]),
                    after=placed[0] if placed else None,
                ),
            )
        return placed

    def _find_part(self, place: int) -> tuple[slice, slice]:
        """The places that this process has of a batch of a pass, and those of all."""
        start = place * self._order.batch_size
        stop = min(start + self._order.batch_size, self._order.num_places)
        share = (stop - start) // self._num_processes
        first = start + self._process * share
        return slice(first, first + share), slice(start, stop)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        number, place = self._locate(index)
        this = self._start_pass(number)
        part, whole = self._find_part(place)
        x, y = self._take_places(this, part)
        if self._mixup is not None and this.shares is not None:
            others = self._take_places(this, _opposite(part, whole))
            shares = np.full(len(x), this.shares[place])
            x, y = self._mixup.mix((x, y), others, shares, np)
        weights = None if self._weights is None else self._weights[part]
        if self._padding is not None:
            # Of all processes' parts, so that they have one shape.
            size = self._padding.sizes[this.order[whole]].max()
            return self._padding.pad(x, y, size, weights)
        return (x, y) if weights is None else (x, y, weights)

    def _start_pass(self, number: int) -> "Pass":
        """What is drawn for one pass over the examples."""
        # TensorFlow takes batches in a thread of its own: one assignment, one read.
        current = self._pass
        if current is None or current.number != number:
            shares, seed = None, self._order.seed
            if self._mixup is not None and seed is not None:
                generator = generator_of_pass(seed, number, 2)
                shares = self._mixup.draw(generator, self._per_pass)
            draws = self._draw_augmentation(number)
            current = Pass(number, self._order.draw(number), draws, shares)
            self._pass = current
        return current

    def _draw_augmentation(self, number: int) -> np.ndarray | None:
        if self._augmentation_seed is None:
            return None
        if self._transform is None:
            raise ValueError("these examples have no transform to augment them by")
        generator = generator_of_pass(self._augmentation_seed, number, 1)
        return self._transform.draw(generator, self._order.num_places)

    def _take_places(
        self, this: "Pass", places: slice
    ) -> tuple[np.ndarray, np.ndarray]:
        chosen = this.order[places]
        x, y = self._x[chosen], self._y[chosen]
        if self._transform is None:
            return x, y
        if this.draws is None:
            return self._transform.evaluate(x), y
        return self._transform.apply(x, this.draws[places]), y


class Pass(NamedTuple):
    """What is drawn for a pass over examples.

    Attributes:
        number: of the pass, counted from 0.
        order: int[place], the examples.
        draws: [place, ...], what they are augmented by; None: they are not.
        shares: float32[batch], what mixed examples have of themselves; None: they are
            not mixed.
    """

    number: int
    order: np.ndarray
    draws: np.ndarray | None
    shares: np.ndarray | None

    def rows_of(self, places: slice) -> dict[str, Any]:
        """What a compiled step takes the examples of some places by."""
        rows = {"index": self.order[places].astype("int32")}
        if self.draws is not None:
            rows["draws"] = self.draws[places].astype("int32")
        return rows


def _opposite(part: slice, whole: slice) -> slice:
    """The places of a batch that are as far from its end as those of a part are from
    its start, in that order."""
    last = whole.start + whole.stop - 1
    stop = last - part.stop
    return slice(last - part.start, None if stop < 0 else stop, -1)


def _weigh(order: Order) -> np.ndarray | None:
    """Sample weights of a pass' places with the means of the examples; None: 1 each."""
    count, num_places = order.num_examples, order.num_places
    if num_places <= count:
        return None
    # In training, the mean is over a batch: the last one's real examples.
    size = order.batch_size
    first = 0 if order.seed is None else count // size * size
    count, num_places = count - first, num_places - first
    weights = weigh_places(count, num_places, num_places / count)
    return np.concatenate([np.ones(first), weights])
