"""What a model is trained or validated on: examples in memory, or others of the same
methods, such as an ImageStream."""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np

from samkeras.data.augmentation import DeviceTransform, Transform
from samkeras.data.label_noise import add_label_noise
from samkeras.data.mixup import Mixup
from samkeras.data.padding import Collate

if TYPE_CHECKING:  # they import keras, and what describes a data set needs none
    from samkeras.data.batches import EpochBatches, PassBatches

Arrays = tuple[np.ndarray, np.ndarray]
"""x and y, whose first axis is the example."""


class Examples(Protocol):
    """Inputs and labels, in memory or not."""

    def __len__(self) -> int: ...

    def first(self, count: int | None) -> Self:
        """The first `count` examples, all of them for None."""
        ...

    def hold_out(self, count: int, last: bool = False) -> tuple[Self, Self]:
        """A choice of `count` examples, the same one always, and the rest.

        Args:
            count: how many.
            last: whether they are the last ones. Default: a random choice.
        """
        ...

    def with_label_noise(
        self, rate: float, num_classes: int, seed: int
    ) -> tuple[Self, dict[str, np.ndarray], float]:
        """Replaces exactly round(rate * n) of n labels, each by another class at
        random.

        Returns:
            The noisy examples; arrays that say which labels are replaced, and by what;
            and their share of all labels.
        """
        ...

    def batches(
        self,
        batch_size: int,
        seed: int | None = None,
        *,
        augment: bool = False,
        steps: int | None = None,
        multiple_of: int = 1,
        process: tuple[int, int] = (0, 1),
    ) -> "PassBatches":
        """Batches of one epoch after the other; the last one of an epoch may be
        smaller.

        Args:
            batch_size: examples per batch, of all processes together.
            seed: seed of order and augmentation to train with. None (default):
                evaluate all examples, in an order that never changes.
            augment: whether to train on random changes of the inputs. Default: not.
            steps: batches of an epoch, which then goes on where the one before stopped.
                None (default): all examples once.
            multiple_of: what the size of every batch is a multiple of. Training leaves
                examples out for it, evaluation fills up, with sample weights that keep
                the mean. Default 1.
            process: (this process, number of processes), of which each gets its part of
                every batch; the number divides `multiple_of`. Default (0, 1).
        """
        ...


@dataclass(frozen=True, eq=False)
class ArrayExamples:
    """Examples in memory.

    Attributes:
        x: [example, ...]. Small integer types are gathered fastest: scale pixels inside
            the model.
        y: [example, ...].
        transform: what is done to x on its way to the model. None (default): nothing.
        collate: how examples of different sizes are padded. None (default): they are
            of one size.
        mixup: how batches to train on are mixed. None (default): not.
        is_resident: whether they are on the device when a model takes their batches.
            Default: not.
    """

    x: np.ndarray
    y: np.ndarray
    transform: Transform | None = None
    collate: Collate | None = None
    mixup: Mixup | None = None
    is_resident: bool = False

    @property
    def can_be_resident(self) -> bool:
        """Whether a compiled step can make their batches."""
        on_device = isinstance(self.transform, DeviceTransform | None)
        return on_device and self.collate is None

    def __len__(self) -> int:
        return len(self.x)

    def _take(self, chosen: slice | np.ndarray) -> "ArrayExamples":
        return dataclasses.replace(self, x=self.x[chosen], y=self.y[chosen])

    def first(self, count: int | None) -> "ArrayExamples":
        """The first `count` examples, all of them for None."""
        return self._take(slice(count))

    def hold_out(
        self, count: int, last: bool = False
    ) -> tuple["ArrayExamples", "ArrayExamples"]:
        """A random choice of `count` examples, or the last ones, and the rest. It is
        one choice for all seeds and widths, as a validation split of its own."""
        if last:
            rest = len(self) - count
            return self._take(slice(rest, None)), self._take(slice(rest))
        order = self._shuffle()
        return self._take(order[:count]), self._take(order[count:])

    def choose(self, count: int) -> "ArrayExamples":
        """A random choice of `count` examples, the same one always; all of them are in
        their order."""
        return self if count == len(self) else self._take(self._shuffle()[:count])

    def _shuffle(self) -> np.ndarray:
        return np.random.default_rng(0).permutation(len(self))

    def with_label_noise(
        self, rate: float, num_classes: int, seed: int
    ) -> tuple["ArrayExamples", dict[str, np.ndarray], float]:
        """Replaces exactly round(rate * n) of n labels, each by another class at
        random: see add_label_noise.

        Returns:
            The noisy examples; {"indices": those of noisy labels, "true": what they
            were, "noisy": what they are}; and their share of all labels.
        """
        noisy, indices = add_label_noise(self.y, rate, num_classes, seed)
        where = tuple(indices.T)
        record = {"indices": indices, "true": self.y[where], "noisy": noisy[where]}
        share = len(indices) / np.count_nonzero(self.y >= 0)
        return dataclasses.replace(self, y=noisy), record, share

    def batches(
        self,
        batch_size: int,
        seed: int | None = None,
        *,
        augment: bool = False,
        steps: int | None = None,
        multiple_of: int = 1,
        process: tuple[int, int] = (0, 1),
    ) -> "EpochBatches":
        """See Examples.batches."""
        from samkeras.data.batches import EpochBatches

        return EpochBatches(
            self.x,
            self.y,
            self.transform,
            self.collate,
            self.mixup,
            batch_size,
            seed,
            augment=augment,
            steps=steps,
            multiple_of=multiple_of,
            process=process,
            is_resident=self.is_resident,
        )
