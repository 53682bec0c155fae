"""Images in folders, one for each class: JPEG and PNG files of any sizes."""

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.data.shares import choose_each, describe_share
from samkeras.errors import InputError, nearest

SUFFIXES = (".jpg", ".jpeg", ".png")
TEST_NAMES = ("test", "val", "valid", "validation")
DEEP = ("I", "F")  # how Pillow calls pixels of more than 8 bits: I, I;16, F


class ImageFiles(NamedTuple):
    """Files of images and their classes, int32[file]."""

    paths: tuple[str, ...]
    labels: np.ndarray


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """What a folder has.

    Attributes:
        train, validation: its files, in an order that is random and always the same.
        classes: the names of the class folders: numbers by their value, others by
            their letters.
        notes: what a user should know of it, a line each.
    """

    train: ImageFiles
    validation: ImageFiles
    classes: tuple[str, ...]
    notes: tuple[str, ...]


def list_folder(folder: Path) -> ImageFolder:
    """The images of a folder: of class folders; or of a folder train, with or without
    one called test, val, valid or validation, of class folders each.

    Where nothing is there to validate on, one in five of each class is.

    Raises:
        InputError: there are no class folders, one is empty, or one of the test part
            is none of the train part.
    """
    train_root = folder / "train"
    parts = [folder / name for name in TEST_NAMES]
    test_root = next((path for path in parts if path.is_dir()), None)
    root = train_root if train_root.is_dir() else folder
    if root is folder:
        test_root = None
    classes, left_out = _list_classes(root), []
    train = _list_files(root, classes, left_out)
    notes = []
    if test_root is None:
        chosen = choose_each(train.labels)
        notes.append(describe_share(folder.name, chosen, "images"))
        train, validation = _take(train, ~chosen), _take(train, chosen)
    else:
        for name in _list_classes(test_root):
            if name not in classes:
                raise InputError(
                    f"--dataset {folder}: the class folder {test_root.name}/{name} "
                    f"must be in train/ too{nearest(name, classes)}"
                )
        validation = _list_files(test_root, classes, left_out, may_miss=True)
    if left_out:
        notes.append(
            f"{folder.name}: {len(left_out):,} files that are neither JPEG nor PNG are "
            f"left out, such as {left_out[0]}"
        )
    return ImageFolder(train, validation, classes, tuple(notes))


def _list_classes(root: Path) -> tuple[str, ...]:
    names = [e.name for e in os.scandir(root) if e.is_dir() and e.name[0] != "."]
    if len(names) < 2:
        raise InputError(
            f"--dataset {root} must hold a folder of images for each of two classes or "
            f"more. Received: {', '.join(names) or 'no folder'}"
        )
    are_numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=int if are_numbers else None))


def _list_files(
    root: Path, classes: tuple[str, ...], left_out: list[str], may_miss: bool = False
) -> ImageFiles:
    """The files of the class folders, mixed: their first N are a sample of all."""
    paths, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(_walk(root / name))
        images = [path for path in found if path.lower().endswith(SUFFIXES)]
        left_out += [path for path in found if not path.lower().endswith(SUFFIXES)]
        if not images and not may_miss:
            raise InputError(
                f"--dataset: {root / name} must hold images, {', '.join(SUFFIXES)}. "
                f"Received: {len(found)} other files"
            )
        paths += images
        labels += [label] * len(images)
    if not paths:
        raise InputError(f"--dataset: {root} must hold images. Received: none")
    order = np.random.default_rng(0).permutation(len(paths))
    files = ImageFiles(tuple(paths), np.array(labels, "int32"))
    return _take(files, order)


def _walk(folder: Path) -> Iterator[str]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "."]
        yield from (os.path.join(place, name) for name in names if name[0] != ".")


def _take(files: ImageFiles, chosen: np.ndarray) -> ImageFiles:
    places = np.arange(len(files.paths))[chosen]
    return ImageFiles(tuple(files.paths[i] for i in places), files.labels[places])


def find_shape(path: str) -> tuple[int, int, int]:
    """Height, width and channels of an image, without decoding it."""
    with _opened(path) as image:
        return image.height, image.width, 1 if _is_grey(image) else 3


def read_images(
    paths: tuple[str, ...],
    channels: int,
    size: int | None,
    resize: Callable[[np.ndarray, int], np.ndarray],
) -> np.ndarray:
    """Images in memory: uint8[image, height, width, channel].

    Args:
        paths: their files.
        channels: 3, or 1 where all have to be grey.
        size: height and width that images of different sizes are brought to, by
            `resize`; None: they have to be of one size.

    Raises:
        InputError: a file is no image, or not of the size or channels that it must be.
    """
    first = _decode(paths[0], channels)
    images = np.empty((len(paths), *first.shape), "uint8")

    def read(index: int) -> bool:
        image = _decode(paths[index], channels)
        if image.shape != first.shape:
            return False
        images[index] = image
        return True

    other = _for_each(read, len(paths))
    if other is None:
        return images
    if size is None:
        shapes = [_decode(paths[i], channels).shape[:2] for i in (0, other)]
        raise InputError(
            f"--dataset: images must be of one size, or are brought to one with "
            f"--image_size N. Received: {shapes[0]} of {paths[0]} and {shapes[1]} of "
            f"{paths[other]}"
        )
    images = np.empty((len(paths), size, size, channels), "uint8")

    def read_resized(index: int) -> bool:
        images[index] = resize(_decode(paths[index], channels), size)
        return True

    _for_each(read_resized, len(paths))
    return images


def _for_each(function: Callable[[int], bool], count: int) -> int | None:
    """Calls a function of an index in threads, and says how far it is where that
    takes more than a second. Returns an index of which it is not true, if there is
    one."""
    started, shown = time.monotonic(), False
    chunk = 256

    def call(start: int) -> int | None:
        for index in range(start, min(start + chunk, count)):
            if not function(index):
                return index
        return None

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        starts = range(0, count, chunk)
        try:
            for start, failed in zip(starts, pool.map(call, starts), strict=True):
                if failed is not None:
                    pool.shutdown(cancel_futures=True)
                    return failed
                if sys.stderr.isatty() and time.monotonic() - started > 1:
                    shown = True
                    text = f"\rreading images: {start:,} of {count:,}"
                    print(text, end="", file=sys.stderr, flush=True)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    if shown:
        print(f"\rread {count:,} images{' ' * 20}", file=sys.stderr)
    return None


def _opened(path: str) -> Any:
    from PIL import Image

    try:
        return Image.open(path)
    except Exception as error:  # Pillow raises what damage makes it stumble over
        raise _unreadable(path, error) from None


def _decode(path: str, channels: int) -> np.ndarray:
    """An image: uint8[height, width, channel]."""
    with _opened(path) as image:
        if not _is_grey(image) and channels == 1:
            raise InputError(
                f"--dataset: images must be all grey or all in colour. Received: "
                f"{path} in colour"
            )
        try:
            array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
        except Exception as error:
            raise _unreadable(path, error) from None
        return array.reshape(image.height, image.width, channels)


def _is_grey(image: Any) -> bool:
    if image.mode.startswith(DEEP):
        raise InputError(
            f"--dataset: images must have pixels of 8 bits. Received: {image.filename} "
            f"of Pillow's mode {image.mode}"
        )
    return image.mode in ("1", "L", "LA")


def _unreadable(path: str, error: Exception) -> InputError:
    size = os.path.getsize(path) if os.path.exists(path) else 0
    reason = "it is empty" if not size else " ".join(str(error).split())[:100]
    return InputError(f"--dataset: {path} is not a readable image ({reason})")


@functools.cache
def memory_limit() -> int:
    """Bytes of pixels that are held in memory, half of what the machine has; images
    that take more are streamed."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
