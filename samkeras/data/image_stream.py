"""Encoded images on disk, decoded, cropped and batched while a model trains."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from samkeras.data.decoding import make_renderer
from samkeras.data.label_noise import draw_label_noise
from samkeras.data.tfds_sets import import_tfds

# The encoded examples in the shuffle buffer, 512 MB of them: 4,600 of ImageNet, a small
# set as a whole. That is enough, because TFDS wrote the examples in a random order and
# 16 files chosen anew each epoch are read in turns: the buffer only has to give an
# example other neighbours each epoch.
SHUFFLE_BYTES = 2**29
EXAMPLE_OVERHEAD = 1_000  # bytes that TensorFlow needs for an example of any size
FILES_IN_TURNS = 16
PREFETCHED = 2  # batches
# Keras looks at the first two batches before it starts with the first one.
KEPT = 2


class CorruptImageError(RuntimeError):
    """An example of a data set cannot be read."""


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The examples of a split of a TFDS set, or of a range of it, left on disk.

    Attributes:
        builder: the TFDS builder of the set, which is prepared.
        split: name of the split.
        start: index of the range's first example in the split, in the order of files.
        stop: index after its last one; None for the split's end.
        shifts: int32[example of the split], what label noise adds to a label, modulo
            `num_classes`; None for none.
    """

    builder: Any
    split: str
    start: int = 0
    stop: int | None = None
    shifts: np.ndarray | None = None
    num_classes: int | None = None

    def __len__(self) -> int:
        return len(range(self._split_size)[self.start : self.stop])

    @property
    def _split_size(self) -> int:
        return self.builder.info.splits[self.split].num_examples

    @property
    def name(self) -> str:
        return f"{self.builder.name} ({self.split})"

    def first(self, count: int | None) -> "ImageStream":
        """The first `count` examples, all of them for None."""
        return self if count is None else self._range(0, count)

    def hold_out(self, count: int) -> tuple["ImageStream", "ImageStream"]:
        """The first `count` examples, and the rest. TFDS writes the examples of a set
        in a random order, so that any range is a random choice of them."""
        return self._range(0, count), self._range(count, len(self))

    def _range(self, start: int, stop: int) -> "ImageStream":
        chosen = range(self.start, self.start + len(self))[start:stop]
        return dataclasses.replace(self, start=chosen.start, stop=chosen.stop)

    def with_label_noise(
        self, rate: float, num_classes: int, seed: int
    ) -> tuple["ImageStream", np.ndarray, np.ndarray]:
        """Replaces exactly round(rate * n) of n labels, each by another class at
        random, without reading them: see draw_label_noise.

        Returns:
            The noisy stream, the indices of its noisy examples, and their shifts: a
            label is now (true label + shift) % num_classes.
        """
        indices, shifts = draw_label_noise(len(self), rate, num_classes, seed)
        dense = np.zeros(self._split_size, "int32")
        dense[self.start + indices] = shifts
        noisy = dataclasses.replace(self, shifts=dense, num_classes=num_classes)
        return noisy, indices, shifts

    def part(self, number: int, of: int) -> "ImageStream":
        """The `number`-th, from 0, of as many equal ranges, of which the last may be
        shorter: the part of one of several hosts."""
        size = -(-len(self) // of)
        return self._range(number * size, (number + 1) * size)

    def batches(
        self,
        batch_size: int,
        size: int = 224,
        seed: int | None = None,
        augment: bool = True,
    ) -> "StreamBatches":
        """Batches of one epoch after the other for keras' `fit(..., shuffle=False)`.

        Args:
            batch_size: examples per batch on this host; the last may be smaller.
            size: height and width of the images, in pixels.
            seed: seed of the order and the crops; None to evaluate: the centres of all
                examples, in the order of files.
            augment: whether to train on random crops and flips or on the centres.
        """
        return StreamBatches(self, batch_size, size, seed, augment)

    def records(self, seeds: tuple[int, int] | None = None) -> Any:
        """A tf.data.Dataset of the examples as they are on disk: {"image": encoded,
        "label": noisy, "index": in the split, "name": of the file or, where the set has
        no feature file_name, its TFDS id}; shuffled by two seeds, or in file order."""
        import tensorflow as tf

        tfds = import_tfds()
        split = self.builder.info.splits[self.split]
        options = tf.data.Options()
        options.deterministic = True
        features = {"image", "label", "file_name"} & set(self.builder.info.features)
        dataset = self.builder.as_dataset(
            split=tfds.core.ReadInstruction(
                self.split, from_=self.start, to=self.start + len(self), unit="abs"
            ),
            shuffle_files=seeds is not None,
            decoders=tfds.decode.PartialDecoding(
                features, decoders={"image": tfds.decode.SkipDecoding()}
            ),
            read_config=tfds.ReadConfig(
                options=options,
                add_tfds_id=True,
                try_autocache=False,
                skip_prefetch=True,
                enable_ordering_guard=False,
                shuffle_seed=seeds and seeds[0],
                shuffle_reshuffle_each_iteration=False,
                interleave_cycle_length=FILES_IN_TURNS if seeds else 1,
            ),
        )
        if seeds:
            bytes_each = split.num_bytes / split.num_examples + EXAMPLE_OVERHEAD
            count = min(len(self), max(1, int(SHUFFLE_BYTES / bytes_each)))
            dataset = dataset.shuffle(count, seeds[1], reshuffle_each_iteration=False)
        find_index = _index_finder(split)
        shifts = None if self.shifts is None else tf.constant(self.shifts)

        def describe(example):
            name = example.get("file_name", example["tfds_id"])
            index = find_index(example["tfds_id"])
            label = tf.cast(example["label"], tf.int32)
            if shifts is not None:
                label = (label + shifts[index]) % self.num_classes
            image = example["image"]
            return {"image": image, "label": label, "index": index, "name": name}

        return dataset.map(describe, num_parallel_calls=tf.data.AUTOTUNE)


def _index_finder(split: Any) -> Callable:
    """A function from a TFDS id, <file>__<number in the file>, to the example's index
    in its split."""
    import tensorflow as tf

    firsts = np.cumsum([0, *split.shard_lengths[:-1]])
    table = tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            split.filenames, firsts, tf.string, "int64"
        ),
        default_value=-1,
    )

    def find_index(tfds_id):
        file = tf.strings.regex_replace(tfds_id, "__[0-9]+$", "")
        number = tf.strings.regex_replace(tfds_id, "^.*__", "")
        return table.lookup(file) + tf.strings.to_number(number, "int64")

    return find_index


class StreamBatches(keras.utils.PyDataset):
    """The batches of an ImageStream, made by ImageStream.batches:
    (uint8[example, size, size, 3], int32[example]).

    (seed, epoch) alone decide on an epoch's order, and with an example's index on its
    crop, as long as TensorFlow's global seed (tf.random.set_seed), on which its
    shuffling depends too, is not changed.

    At most 512 MB of encoded examples and the next few batches are in memory.
    """

    def __init__(
        self,
        stream: ImageStream,
        batch_size: int,
        size: int,
        seed: int | None,
        augment: bool,
    ):
        super().__init__()
        self._stream, self._batch_size, self._size = stream, batch_size, size
        self._seed, self._augment = seed, augment
        self._started, self._lock = None, threading.Lock()
        self.start_epoch(0)

    def start_epoch(self, epoch: int, first_batch: int = 0) -> None:
        """Sets the order to that of an epoch, from its batch `first_batch` on.

        Examples before that are read, and not decoded.
        """
        with self._lock:
            if self._started == (epoch, first_batch) and self._next <= KEPT:
                return  # all that was taken is still here
            self._started, self._epoch = (epoch, first_batch), epoch
            self.first_batch = first_batch
            self._next, self._kept, self._iterator = 0, {}, None

    @property
    def num_batches_in_all(self) -> int:
        """Batches of a whole epoch."""
        return -(-len(self._stream) // self._batch_size)

    @property
    def num_batches(self) -> int:
        return self.num_batches_in_all - self.first_batch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Batches are made in order; going back further than by two starts anew.

        Raises:
            CorruptImageError: an example of the batch cannot be read or decoded.
        """
        if not 0 <= index < self.num_batches:
            raise IndexError(f"batch {index} of {self.num_batches}")
        # TensorFlow, unlike JAX, takes them in a thread of its own.
        with self._lock:
            if index not in self._kept:
                self._kept[index] = self._make(index)
                self._kept.pop(index - KEPT, None)
            return self._kept[index]

    def _make(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        import tensorflow as tf

        if self._iterator is None or index != self._next:
            self._kept, self._iterator = {}, self._start(index)
        try:
            batch = next(self._iterator)
        except tf.errors.OpError as error:
            self._iterator = None
            raise CorruptImageError(self._explain(index, error)) from None
        if batch[1].min() < 0:
            # What TFDS has where labels are not public.
            raise CorruptImageError(f"{self._stream.name} has examples without labels")
        self._next = index + 1
        if self._next == self.num_batches:
            self._iterator = None  # and with it the buffers
        return batch

    def _start(self, index: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        import tensorflow as tf

        images = self._records(index).map(
            tf.autograph.experimental.do_not_convert(self._render),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return images.batch(self._batch_size).prefetch(PREFETCHED).as_numpy_iterator()

    def _render(self, record: dict[str, Any]) -> tuple[Any, Any]:
        augment = self._augment and self._seed is not None
        render = make_renderer(self._size, augment)
        seed = self._draw_seeds()[2] if augment else 0
        return render(record["image"], record["index"], seed), record["label"]

    def _records(self, index: int) -> Any:
        """The epoch's examples from batch `index` on, encoded."""
        shuffled = self._seed is not None
        records = self._stream.records(self._draw_seeds()[:2] if shuffled else None)
        return records.skip((self.first_batch + index) * self._batch_size)

    def _draw_seeds(self) -> list[int]:
        """The epoch's seeds for the files, the buffer and the crops."""
        sequence = np.random.SeedSequence([self._seed, self._epoch])
        return [int(state >> 1) for state in sequence.generate_state(3, "uint64")]

    def _explain(self, index: int, error: Exception) -> str:
        """Which example of a batch cannot be decoded, found by decoding them singly;
        or else what TensorFlow says, such as which file cannot be read."""
        import tensorflow as tf

        try:
            for record in self._records(index).take(self._batch_size):
                name = record["name"].numpy().decode()
                self._render(record)
        except tf.errors.InvalidArgumentError:
            return f"{name} of {self._stream.name} is not a readable image"
        except tf.errors.OpError as again:
            error = again
        return f"{self._stream.name} cannot be read: {' '.join(str(error).split())}"
