"""Images in folders, one for each class: JPEG and PNG files of any sizes."""

import functools
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from samkeras.data.reading import for_each
from samkeras.data.shares import (
    VALIDATION,
    choose_each,
    describe_left_out,
    describe_share,
)
from samkeras.errors import InputError, nearest
from samkeras.files import read_file

SUFFIXES = (".jpg", ".jpeg", ".png")
# What the part to train on is called, in capitals or not.
TRAIN_NAMES = ("train", "training")
HIDDEN = (".", "__MACOSX")  # the latter is what macOS puts into archives
PNG = b"\x89PNG\r\n\x1a\n"
HEADS = (b"\xff\xd8\xff", PNG, b"GIF8", b"BM")  # TensorFlow takes all of these
BITS, COLOUR_TYPE = 24, 25  # the bytes of a PNG file that tell them
GREY_TYPES = (0, 4)  # the latter with transparency
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
    one called val, valid, validation, dev or else test, of class folders each.

    Where nothing is there to validate on, one in five of each class is.

    Raises:
        InputError: there are no class folders, one is empty, one of the test part
            is none of the train part, or the train part is missing.
    """
    root, test_root, notes = _find_parts(folder)
    classes, left_out = _list_classes(root), []
    train = _list_files(root, classes, left_out)
    if test_root is None:
        chosen = choose_each(train.labels)
        notes.append(describe_share(folder.name, chosen, "images"))
        train, validation = _take(train, ~chosen), _take(train, chosen)
    else:
        for name in _list_classes(test_root):
            if name not in classes:
                raise InputError(
                    f"--dataset {folder}: the class folder {test_root.name}/{name} "
                    f"must be in {root.name}/ too{nearest(name, classes)}"
                )
        validation = _list_files(test_root, classes, left_out, may_miss=True)
    if left_out:
        notes.append(
            f"{folder.name}: {len(left_out):,} files that are neither JPEG nor PNG are "
            f"left out, such as {left_out[0]}"
        )
    return ImageFolder(train, validation, classes, tuple(notes))


def _find_parts(folder: Path) -> tuple[Path, Path | None, list[str]]:
    """The folder whose class folders are to train on, that to validate on, and what to
    say of others."""
    called = {name.lower(): folder / name for name in _list_folders(folder)}
    train = next((called[n] for n in TRAIN_NAMES if n in called), None)
    test = next((called[n] for n in VALIDATION if n in called), None)
    are_parts = bool(called) and called.keys() <= {*TRAIN_NAMES, *VALIDATION}
    if train is None and are_parts:
        raise InputError(
            f"--dataset {folder} must hold a folder {TRAIN_NAMES[0]} beside "
            f"{', '.join(path.name for path in called.values())}. Received: none"
        )
    # Among other classes, train may well be one, of vehicles.
    if train is None or not (are_parts or _list_folders(train)):
        return folder, None, []
    others = [f"{each.name}/" for each in called.values() if each not in (train, test)]
    chosen = f"{test.name}/" if test else f"a part of {train.name}/"
    return train, test, describe_left_out(folder.name, chosen, others)


def _list_folders(root: Path) -> list[str]:
    _, folders, _ = next(os.walk(root, onerror=_refuse))
    return sorted(name for name in folders if not name.startswith(HIDDEN))


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f"--dataset: cannot read {error.filename}: {error.strerror}")


def _list_classes(root: Path) -> tuple[str, ...]:
    names = _list_folders(root)
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
        found, images = sorted(_walk(root / name)), []
        for path in found:
            part = images if path.lower().endswith(SUFFIXES) else left_out
            part.append(path)
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
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
        yield from (f"{place}{os.sep}{name}" for name in names if name[0] != ".")


def _take(files: ImageFiles, chosen: np.ndarray) -> ImageFiles:
    places = np.arange(len(files.paths))[chosen]
    return ImageFiles(tuple(files.paths[i] for i in places), files.labels[places])


def check_head(head: bytes, path: str) -> None:
    """Checks what an image's file begins with, as a stream decodes it: before it comes
    to it.

    Raises:
        InputError: it is neither JPEG nor PNG, nor what the stream takes in their
            place, or has more than 8 bits a channel.
    """
    if not head.startswith(HEADS):
        raise InputError(
            f"--dataset: {path} is not a readable image (neither JPEG nor PNG: it "
            f"begins with {head[:8]!r})"
        )
    if head.startswith(PNG) and head[BITS : BITS + 1] == b"\x10":
        raise InputError(
            f"--dataset: images must have pixels of 8 bits. Received: {path} of 16"
        )


def check_sizes(paths: Iterable[str]) -> None:
    """Raises an InputError if a file is empty: before a stream comes to it."""
    for path in paths:
        if not os.path.getsize(path):
            raise _unreadable(path)


def find_shape(
    paths: tuple[str, ...], channels: int | None = None
) -> tuple[int, int, int]:
    """Height and width of the first of images, and the channels of all: 3 where one is
    in colour. None is decoded.

    Args:
        paths: their files.
        channels: that are asked for anyway: whether all are grey is not looked for.
    """
    image = _opened(_read(paths[0]), paths[0])
    is_grey = _is_grey(image, paths[0])
    if is_grey and channels is None:

        def is_grey_file(index: int) -> bool:
            # Pillow would take three times as long, and a decoding reads it all anew.
            head = _read_head(paths[index])
            if head.startswith(PNG) and len(head) > COLOUR_TYPE:
                return head[COLOUR_TYPE] in GREY_TYPES
            data = _read(paths[index])
            return _is_grey(_opened(data, paths[index]), paths[index])

        is_grey = for_each(is_grey_file, len(paths), "images") is None
    return image.height, image.width, 1 if is_grey else 3


def read_images(
    paths: tuple[str, ...],
    shape: tuple[int, int, int],
    image_size: int | None,
    resize: Callable[[np.ndarray, int], np.ndarray],
    digests: np.ndarray | None = None,
) -> tuple[np.ndarray, bool]:
    """Images in memory: uint8[image, *shape], of which no other copy is made; and
    whether some are grey and some in colour.

    Args:
        paths: their files.
        shape: height, width and channels: 3, or 1 where all have to be grey.
        image_size: the height and width, where images may be of any size: those of one
            that is no larger have zeros around them, others are brought to it by
            `resize`. None: they have to be of the height and width.
        resize: makes a square of a size of an image.
        digests: uint8[image, 32], is given the SHA-256 of each file. None (default):
            nobody asks.

    Raises:
        InputError: a file is no image, or not of the size or channels that it must be.
    """
    height, width, channels = shape
    images = np.zeros((len(paths), *shape), "uint8")
    are_grey = np.zeros(len(paths), bool)

    def decode(index: int) -> np.ndarray:
        data = _read(paths[index])
        if digests is not None:
            digests[index] = np.frombuffer(hashlib.sha256(data).digest(), "uint8")
        image, are_grey[index] = _decode(data, paths[index], channels)
        return image

    def are_mixed() -> bool:
        return bool(are_grey.any() and not are_grey.all())

    first = decode(0).shape
    if first[0] <= height and first[1] <= width:
        top, left = (height - first[0]) // 2, (width - first[1]) // 2
        inner = images[:, top : top + first[0], left : left + first[1]]

        def read(index: int) -> bool:
            image = decode(index)
            if image.shape != first:
                return False
            inner[index] = image
            return True

        other = for_each(read, len(paths), "images")
        if other is None:
            return images, are_mixed()
        if image_size is None:
            found = decode(other).shape
            raise InputError(
                f"--dataset: images must be of one size; workloads that have "
                f"--image_size N bring them to one. Received: {first[:2]} of "
                f"{paths[0]} and {found[:2]} of {paths[other]}"
            )

    def read_resized(index: int) -> bool:
        images[index] = resize(decode(index), height)
        return True

    for_each(read_resized, len(paths), "images")
    return images, are_mixed()


def _read(path: str) -> bytes:
    try:
        return read_file(path)
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_head(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read(COLOUR_TYPE + 1)
    except OSError as error:
        raise _unreadable(path, error) from None


def _opened(data: bytes, path: str) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data))
    except Exception as error:  # Pillow raises what damage makes it stumble over
        raise _unreadable(path, error) from None


def _decode(data: bytes, path: str, channels: int) -> tuple[np.ndarray, bool]:
    """The image that a file's bytes are of, uint8[height, width, channel], and whether
    it is grey there."""
    image, mode = _opened(data, path), "L" if channels == 1 else "RGB"
    is_grey = _is_grey(image, path)
    if not is_grey and channels == 1:  # it has changed since its shape was found
        raise InputError(
            f"--dataset: images must be all grey or all in colour. Received: {path} in "
            "colour"
        )
    try:
        # np.asarray of the image takes longer, by what it finds out first.
        pixels = (image if image.mode == mode else image.convert(mode)).tobytes()
    except Exception as error:
        raise _unreadable(path, error) from None
    shape = (image.height, image.width, channels)
    return np.frombuffer(pixels, "uint8").reshape(shape), is_grey


def _is_grey(image: Any, path: str) -> bool:
    if image.mode.startswith(DEEP):
        raise InputError(
            f"--dataset: images must have pixels of 8 bits. Received: {path} of "
            f"Pillow's mode {image.mode}"
        )
    return image.mode in ("1", "L", "LA")


def _unreadable(path: str, error: Exception | None = None) -> InputError:
    is_empty = error is None or (os.path.isfile(path) and not os.path.getsize(path))
    reason = "it is empty" if is_empty else " ".join(str(error).split())[:100]
    return InputError(f"--dataset: {path} is not a readable image ({reason})")


@functools.cache
def memory_limit() -> int:
    """Bytes of pixels that are held in memory, half of what the machine has; images
    that take more are streamed."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
