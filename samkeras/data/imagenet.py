"""ImageNet and other sets of images that are brought to one size by cropping."""

import dataclasses
from typing import TYPE_CHECKING

from samkeras.data.arrays import as_bytes
from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.images import (
    is_folder,
    is_keras,
    is_npz,
    load_images,
    stream_folder,
)
from samkeras.data.names import is_function
from samkeras.data.resized_crop import ResizedCrop
from samkeras.data.splits import Splits
from samkeras.data.tfds_sets import (
    SAMPLE,
    describe_tfds,
    prepared_builder,
    split_names,
)
from samkeras.errors import InputError

if TYPE_CHECKING:  # it imports keras
    from samkeras.data.image_stream import ImageStream


def load_imagenet(
    dataset: str, data_dir: str | None, size: int = 224
) -> "Splits[ImageStream] | Splits[ArrayExamples]":
    """An image classification set at one size: random-resized crops to train on, centre
    crops to validate on.

    Args:
        dataset: name of a TFDS set, or a folder as load_images takes it, with images of
            any sizes, which stay on disk;
            or, held in memory, an .npz file, a set of keras.datasets, a function or
            "mnist_5k" as load_images takes them.
        data_dir: directory of prepared TFDS sets, None for TFDS's own. The archives
            of imagenet2012 are taken from its folder downloads/manual.
        size: height and width of the crops, in pixels.

    Returns:
        Of a TFDS set or a folder, ImageStreams; of arrays, x: uint8[example, height,
        width, 1 or 3] and y: int32[example], and ResizedCrop(size) as their transform.

    Raises:
        InputError: there is no such set, it can neither be read nor prepared, or its
            arrays are not images of 1 or 3 channels.
    """
    if (
        dataset == SAMPLE
        or is_npz(dataset)
        or is_function(dataset)
        or is_keras(dataset)
    ):
        return _load_arrays(dataset, data_dir, size)
    if is_folder(dataset):
        return stream_folder(dataset, size)
    info = describe_tfds(dataset, data_dir)

    def read() -> "tuple[ImageStream, ImageStream]":
        from samkeras.data.image_stream import ImageStream

        builder = prepared_builder(dataset, data_dir)
        train, validation = split_names(builder)
        return ImageStream(builder, train, size), ImageStream(builder, validation, size)

    return Splits(dataclasses.replace(info, input_shape=(size, size, 3)), read)


def _load_arrays(
    dataset: str, data_dir: str | None, size: int
) -> Splits[ArrayExamples]:
    splits = load_images(dataset, data_dir)
    if is_function(dataset) and not isinstance(splits.train, ArrayExamples):
        return splits
    shape = splits.info.input_shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        raise InputError(
            f"--dataset {dataset} has examples of shape {shape}; this workload needs "
            "images, (height, width, 1 or 3)"
        )

    def read() -> tuple[Arrays, Arrays]:
        train, test = splits.train, splits.validation
        return (as_bytes(train.x), train.y), (as_bytes(test.x), test.y)

    info = dataclasses.replace(splits.info, input_shape=(size, size, 3))
    return dataclasses.replace(
        splits, info=info, read=read, transform=ResizedCrop(size)
    )
