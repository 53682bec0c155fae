"""Encoded images on disk, decoded, cropped and batched while a model trains."""

import dataclasses
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from samkeras.data.batches import PassBatches
from samkeras.data.decoding import make_renderer
from samkeras.data.label_noise import draw_label_noise
from samkeras.data.order import count_places, seeds_of_pass
from samkeras.data.padding import fill_up, weigh_places
from samkeras.data.tfds_sets import import_tfds

# The encoded examples in the shuffle buffer, 512 MB of them: 4,600 of ImageNet, a small
# set as a whole. That is enough, because TFDS wrote the examples in a random order and
# 16 files chosen anew each epoch are read in turns: the buffer only has to give an
# example other neighbours each epoch.
SHUFFLE_BYTES = 2**29
EXAMPLE_OVERHEAD = 1_000  # bytes that TensorFlow needs for an example of any size
FILES_IN_TURNS = 16
PREFETCHED = 2  # batches
# What builds a model, and keras, look at the first ones before they start with them.
KEPT = 2


Batch = tuple[np.ndarray, np.ndarray]


class CorruptImageError(RuntimeError):
    """An example of a data set cannot be read."""


@dataclass(frozen=True, eq=False)
class ImageStream:
    """The examples of a split of a TFDS set, or of a range of it, left on disk.

    Attributes:
        builder: the TFDS builder of the set, which is prepared.
        split: name of the split.
        size: height and width that images are brought to, in pixels.
        start: index of the range's first example in the split, in the order of files.
        stop: index after its last one; None for the split's end.
        shifts: int32[example of the split], what label noise adds to a label, modulo
            `num_classes`; None for none.
    """

    builder: Any
    split: str
    size: int = 224
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

    def hold_out(
        self, count: int, last: bool = False
    ) -> tuple["ImageStream", "ImageStream"]:
        """The first `count` examples, or the last ones, and the rest. TFDS writes the
        examples of a set in a random order, so that any range is a random choice of
        them."""
        if last:
            rest = len(self) - count
            return self._range(rest, len(self)), self._range(0, rest)
        return self._range(0, count), self._range(count, len(self))

    def _range(self, start: int, stop: int) -> "ImageStream":
        chosen = range(self.start, self.start + len(self))[start:stop]
        return dataclasses.replace(self, start=chosen.start, stop=chosen.stop)

    def with_label_noise(
        self, rate: float, num_classes: int, seed: int
    ) -> tuple["ImageStream", dict[str, np.ndarray], float]:
        """Replaces exactly round(rate * n) of n labels, each by another class at
        random, without reading them: see draw_label_noise.

        Returns:
            The noisy stream; {"indices": those of its noisy examples, "shifts": a label
            is now (true label + shift) % num_classes}; and their share of all.
        """
        indices, shifts = draw_label_noise(len(self), rate, num_classes, seed)
        dense = np.zeros(self._split_size, "int32")
        dense[self.start + indices] = shifts
        noisy = dataclasses.replace(self, shifts=dense, num_classes=num_classes)
        record = {"indices": indices, "shifts": shifts}
        return noisy, record, len(indices) / len(self)

    def part(self, number: int, of: int) -> "ImageStream":
        """The `number`-th, from 0, of as many equal ranges, of which the last may be
        shorter: the part of one of several hosts."""
        size = -(-len(self) // of)
        return self._range(number * size, (number + 1) * size)

    def batches(
        self,
        batch_size: int,
        seed: int | None = None,
        *,
        augment: bool = False,
        steps: int | None = None,
        multiple_of: int = 1,
        process: tuple[int, int] = (0, 1),
    ) -> "StreamBatches":
        """See Examples.batches. Evaluated are the centres of all examples, in the order
        of files; training is on random crops and flips, or on the centres."""
        num_places = count_places(len(self), seed is not None, multiple_of)
        number, num_processes = process
        part = self.first(num_places).part(number, num_processes)
        weights = None
        if num_places > len(self):
            weight = num_places / len(self)
            weights = weigh_places(len(part), num_places // num_processes, weight)
        size = batch_size // num_processes
        return StreamBatches(part, size, seed, augment, steps, weights, num_processes)

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

        def describe(example: dict[str, Any]) -> dict[str, Any]:
            name = example.get("file_name", example["tfds_id"])
            index = find_index(example["tfds_id"])
            label = tf.cast(example["label"], tf.int32)
            if shifts is not None:
                label = (label + shifts[index]) % self.num_classes
            image = example["image"]
            return {"image": image, "label": label, "index": index, "name": name}

        return dataset.map(describe, num_parallel_calls=tf.data.AUTOTUNE)


@dataclass(frozen=True, eq=False)
class FileStream(ImageStream):
    """The images of files, in an order that is random by itself, left on disk.

    Attributes:
        builder: the ImageFiles.
        split: what they are called.
    """

    @property
    def _split_size(self) -> int:
        return len(self.builder.paths)

    @property
    def name(self) -> str:
        return self.split

    @property
    def y(self) -> np.ndarray:
        """Their classes: int32[example]."""
        return self.builder.labels[self.start : self.stop]

    def records(self, seeds: tuple[int, int] | None = None) -> Any:
        """See ImageStream.records."""
        import_tfds()  # on JAX, TensorFlow is to see the CPU alone
        import tensorflow as tf

        index = np.arange(len(self)) + self.start
        if seeds:
            index = np.random.default_rng(seeds).permutation(index)
        labels = self.builder.labels
        if self.shifts is not None:
            labels = (labels + self.shifts) % self.num_classes
        names = np.array(self.builder.paths)[index]
        records = {"name": names, "label": labels[index], "index": index}

        def read(record: dict[str, Any]) -> dict[str, Any]:
            return {**record, "image": tf.io.read_file(record["name"])}

        return tf.data.Dataset.from_tensor_slices(records).map(
            read, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
        )


def _index_finder(split: Any) -> Callable[[Any], Any]:
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

    def find_index(tfds_id: Any) -> Any:
        file = tf.strings.regex_replace(tfds_id, "__[0-9]+$", "")
        number = tf.strings.regex_replace(tfds_id, "^.*__", "")
        return table.lookup(file) + tf.strings.to_number(number, "int64")

    return find_index


class StreamBatches(PassBatches):
    """The batches of an ImageStream, made by ImageStream.batches:
    (uint8[example, size, size, 3], int32[example]), and sample weights where they are
    filled up.

    (seed, pass) alone decide on an order, and with an example's index on its crop, as
    long as TensorFlow's global seed (tf.random.set_seed), on which its shuffling
    depends too, is not changed.

    At most 512 MB of encoded examples and the next few batches are in memory.

    Args:
        stream: the examples.
        batch_size: examples per batch.
        seed: seed of the order and the crops; None to evaluate.
        augment: whether to train on random crops and flips or on the centres.
        steps: batches of an epoch; None: those of a pass.
        weights: those of the places of a pass, of which the last are filled up; None:
            they are the examples.
        num_processes: how many take a part of each batch; this one's is `batch_size`.
            Default 1.
    """

    def __init__(
        self,
        stream: ImageStream,
        batch_size: int,
        seed: int | None,
        augment: bool,
        steps: int | None,
        weights: np.ndarray | None,
        num_processes: int = 1,
    ):
        self._stream, self._batch_size, self._weights = stream, batch_size, weights
        self._seed, self._augment = seed, augment and seed is not None
        # What is taken next, from where on, and the last batches.
        self._next: tuple[int, int] | None = None
        self._iterator: Iterator[Batch] | None = None
        self._kept: dict[tuple[int, int], Batch] = {}
        self._lock = threading.Lock()
        num_places = len(stream) if weights is None else len(weights)
        per_pass = -(-num_places // batch_size)
        super().__init__(per_pass, batch_size * num_processes, steps)

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Batches are made in order; going back further than by two starts anew.

        Examples before the first one that is asked for are read, and not decoded.

        Raises:
            CorruptImageError: an example of the batch cannot be read or decoded.
        """
        place = self._locate(index)
        # TensorFlow, unlike JAX, takes them in a thread of its own.
        with self._lock:
            if place not in self._kept:
                self._kept[place] = self._make(*place)
                if len(self._kept) > KEPT:
                    del self._kept[min(self._kept)]
            batch = self._kept[place]
        if self._weights is None:
            return batch
        start = place[1] * self._batch_size
        weights = self._weights[start : start + self._batch_size]
        return (*(fill_up(array, len(weights)) for array in batch), weights)

    def _make(self, number: int, place: int) -> Batch:
        """A batch of a pass, by its place."""
        import tensorflow as tf

        if place * self._batch_size >= len(self._stream):  # all of it is filled up
            shape = (0, self._stream.size, self._stream.size, 3)
            return np.zeros(shape, "uint8"), np.zeros(0, "int32")
        if self._iterator is None or (number, place) != self._next:
            self._kept, self._iterator = {}, self._start(number, place)
        try:
            batch = next(self._iterator)
        except tf.errors.OpError as error:
            self._iterator = None
            raise CorruptImageError(self._explain(number, place, error)) from None
        if batch[1].min() < 0:
            # What TFDS has where labels are not public.
            raise CorruptImageError(f"{self._stream.name} has examples without labels")
        self._next = number, place + 1
        if self._next[1] * self._batch_size >= len(self._stream):
            self._iterator = None  # and with it the buffers
        return batch

    def _start(self, number: int, place: int) -> Iterator[Batch]:
        import tensorflow as tf

        seeds = self._draw_seeds(number)

        def render(record: dict[str, Any]) -> tuple[Any, Any]:
            return self._render(record, seeds[2] if seeds else 0)

        images = self._records(number, place).map(
            tf.autograph.experimental.do_not_convert(render),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        return images.batch(self._batch_size).prefetch(PREFETCHED).as_numpy_iterator()

    def _render(self, record: dict[str, Any], seed: int) -> tuple[Any, Any]:
        render = make_renderer(self._stream.size, self._augment)
        return render(record["image"], record["index"], seed), record["label"]

    def _records(self, number: int, place: int) -> Any:
        """The examples of a pass from one of its batches on, encoded."""
        seeds = self._draw_seeds(number)
        records = self._stream.records(seeds and seeds[:2])
        return records.skip(place * self._batch_size)

    def _draw_seeds(self, number: int) -> tuple[int, int, int] | None:
        """A pass' seeds for the files, the buffer and the crops; None to evaluate."""
        if self._seed is None:
            return None
        files, buffer, crops = seeds_of_pass(self._seed, number, 3)
        return files, buffer, crops

    def _explain(self, number: int, place: int, error: Exception) -> str:
        """Which example of a batch cannot be decoded, found by decoding them singly;
        or else what TensorFlow says, such as which file cannot be read."""
        import tensorflow as tf

        name = "its first example"
        try:
            for record in self._records(number, place).take(self._batch_size):
                name = record["name"].numpy().decode()
                self._render(record, 0)
        except tf.errors.InvalidArgumentError:
            return f"{name} of {self._stream.name} is not a readable image"
        except tf.errors.OpError as again:
            error = again
        return f"{self._stream.name} cannot be read: {' '.join(str(error).split())}"
