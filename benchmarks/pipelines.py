"""How long does an epoch of samkeras' input pipelines take, beside tf.data by hand?

    KERAS_BACKEND=jax python benchmarks/pipelines.py
    python benchmarks/pipelines.py --examples 4096 --rounds 9

Two tasks, each an epoch of training batches, consumed as fast as they come:

    streamed    JPEGs of 500 x 375 pixels and 110 kB on average, as ImageNet's, in a
                TFDS set in a temporary folder: random-resized crops of 224 x 224 and
                flips. Against the usual pipeline of TensorFlow's and Flax's examples.
    in memory   uint8 images of 32 x 32, as CIFAR's: crops after padding by 4 pixels
                and flips. EpochBatches with CropFlip, against from_tensor_slices,
                shuffle, map, batch and prefetch.
"""

import argparse
import contextlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
from harness import Row, make_parser, report, row, time_in_turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

HEIGHT, WIDTH, BYTES = 375, 500, 110_000
Epoch = Callable[[int], Iterable]


def parse_arguments() -> argparse.Namespace:
    parser = make_parser(__file__, __doc__, rounds=5)
    add = parser.add_argument
    add("--examples", type=int, default=3_072, help="JPEGs in an epoch")
    add("--arrays", type=int, default=50_000, help="images in memory in an epoch")
    add("--batch_size", type=int, default=128, help="images in a batch")
    return parser.parse_args()


def natural_image(rng: np.random.Generator) -> np.ndarray:
    """An image whose amplitudes fall with the frequency, as photographs' do."""
    frequency = np.hypot(np.fft.fftfreq(HEIGHT)[:, None], np.fft.rfftfreq(WIDTH))
    frequency[0, 0] = 1 / WIDTH
    noise = np.fft.rfft2(rng.standard_normal((3, HEIGHT, WIDTH)))
    image = np.fft.irfft2(noise / frequency, (HEIGHT, WIDTH)).transpose(1, 2, 0)
    # Channels of photographs are alike.
    image = image + 3 * image.mean(axis=-1, keepdims=True)
    image = 128 + 50 * (image - image.mean()) / image.std()
    return image.clip(0, 255).astype("uint8")


def encode(image: np.ndarray) -> bytes:
    """A JPEG of about BYTES bytes: the first of falling qualities that is no larger."""
    from PIL import Image

    for quality in range(96, 0, -3):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        if file.tell() <= BYTES * 1.1:
            break
    return file.getvalue()


def write_set(folder: str, count: int):
    """A TFDS set of `count` JPEGs, made of 64 different ones."""
    from samkeras.data.tfds_sets import import_tfds

    tfds = import_tfds()
    rng = np.random.default_rng(0)
    jpegs = [encode(natural_image(rng)) for _ in range(64)]

    class Photographs(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(encoding_format="jpeg"),
                "label": tfds.features.ClassLabel(num_classes=1_000),
            }
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for i in range(count):
                image = io.BytesIO(jpegs[i % len(jpegs)])
                yield i, {"image": image, "label": i % 1_000}

    builder = Photographs(data_dir=folder)
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(num_shards=16)
        )
    return builder


def streamed_by_samkeras(builder, batch_size: int) -> Epoch:
    from samkeras.data.image_stream import ImageStream

    return epochs_of(ImageStream(builder, "train").batches(batch_size, 0, augment=True))


def epochs_of(batches) -> Epoch:
    def epoch(number: int) -> Iterable:
        batches.start_epoch(number)
        return (batches[i] for i in range(batches.left))

    return epoch


def streamed_by_hand(builder, batch_size: int) -> Epoch:
    """The pipeline of Flax's ImageNet example."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    def transform(example):
        jpeg = example["image"]
        shape = tf.io.extract_jpeg_shape(jpeg)
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            shape,
            tf.zeros([1, 0, 4]),
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=(0.08, 1.0),
            max_attempts=10,
            use_image_if_no_bounding_boxes=True,
        )
        box = tf.concat([begin[:2], size[:2]], axis=0)
        image = tf.io.decode_and_crop_jpeg(jpeg, box, channels=3)
        image = tf.image.resize(image, [224, 224], "bicubic")
        return tf.image.random_flip_left_right(image), example["label"]

    dataset = builder.as_dataset(
        split="train",
        shuffle_files=True,
        decoders={"image": tfds.decode.SkipDecoding()},
    )
    dataset = dataset.shuffle(16 * batch_size)
    dataset = dataset.map(transform, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return lambda number: dataset.as_numpy_iterator()


def in_memory_by_samkeras(x: np.ndarray, y: np.ndarray, batch_size: int) -> Epoch:
    from samkeras.data.augmentation import CropFlip
    from samkeras.data.examples import ArrayExamples

    return epochs_of(
        ArrayExamples(x, y, CropFlip()).batches(batch_size, 0, augment=True)
    )


def in_memory_by_hand(x: np.ndarray, y: np.ndarray, batch_size: int) -> Epoch:
    import tensorflow as tf

    def transform(image, label):
        image = tf.pad(image, [[4, 4], [4, 4], [0, 0]])
        image = tf.image.random_crop(image, [32, 32, 3])
        return tf.image.random_flip_left_right(image), label

    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x))
    dataset = dataset.map(transform, num_parallel_calls=tf.data.AUTOTUNE)
    dataset = dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    return lambda number: dataset.as_numpy_iterator()


def compare(epochs: dict[str, Epoch], rounds: int) -> list[Row]:
    """A row for each pipeline, beside the first."""
    images = {}

    def consume(name: str, number: int) -> None:
        images[name] = sum(len(labels) for _, labels in epochs[name](number))

    turns = {name: partial(consume, name) for name in epochs}
    seconds = time_in_turns(turns, rounds)
    rows = [row(seconds, name, next(iter(epochs))) for name in epochs]
    return [{**r, "images_per_s": images[r["name"]] / r["median_s"]} for r in rows]


def main() -> None:
    args = parse_arguments()
    with tempfile.TemporaryDirectory() as folder:
        builder = write_set(folder, args.examples)
        size = builder.info.splits["train"].num_bytes / args.examples / 1_000
        streamed = {
            "streamed, by hand": streamed_by_hand(builder, args.batch_size),
            "streamed, samkeras": streamed_by_samkeras(builder, args.batch_size),
        }
        rows = [{**r, "JPEG_kB": size} for r in compare(streamed, args.rounds)]
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (args.arrays, 32, 32, 3), dtype="uint8")
    y = rng.integers(0, 10, args.arrays, dtype="int32")
    in_memory = {
        "in memory, by hand": in_memory_by_hand(x, y, args.batch_size),
        "in memory, samkeras": in_memory_by_samkeras(x, y, args.batch_size),
    }
    report(args, rows + compare(in_memory, args.rounds))


if __name__ == "__main__":
    main()
