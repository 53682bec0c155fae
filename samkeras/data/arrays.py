"""What arrays from outside must be: the one place that reads and checks them.

Models take pixels from 0 to 255 and divide by 255 themselves, so that batches of bytes
are gathered fast. What is scaled otherwise is brought to that.
"""

import functools
import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samkeras.data.examples import Arrays
from samkeras.errors import InputError

NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
NUMBERS = "biuf"  # NumPy's kinds: bool, integers and floats
WHITE = 255
DIM = 64  # where no pixel is brighter, a user may have another scale in mind
CHUNK = 1_024  # examples that are converted at a time, for little memory
MAX_NAMED = 5


class UserArrays(NamedTuple):
    """Examples of a user's own, checked.

    Attributes:
        train: x, of pixels from 0 to 255, uint8 or float32[example, height, width,
            channel], or of 255 times the features, [example, feature]; and y,
            int32[example], classes.
        validation: likewise.
        num_classes: one more than the largest class, or a one-hot label's size.
        notes: what the user should know of them, a line each.
    """

    train: Arrays
    validation: Arrays
    num_classes: int
    notes: tuple[str, ...]


def load_npz(path: str) -> UserArrays:
    """Reads x_train, y_train, x_test and y_test from an .npz file, once for all runs.

    Raises:
        InputError: it is not readable, or an array is not what it must be.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # the latter of a null character
        raise InputError(f"--dataset {path}: there is no such file") from None
    return _load_npz(path, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _load_npz(path: str, modified: int, size: int) -> UserArrays:
    return check_arrays(_read_npz(path), path)


def check_arrays(arrays: dict[str, np.ndarray], source: str) -> UserArrays:
    """Images or vectors of a user's own, brought to what models take.

    Args:
        arrays: x_train, y_train, x_test and y_test.
        source: what --dataset says, for messages.

    Raises:
        InputError: an array is not what it must be.
    """
    try:
        x_train, x_test = (_check_layout(arrays[k], k) for k in ("x_train", "x_test"))
        if x_train.shape[1:] != x_test.shape[1:]:
            raise InputError(
                "x_train and x_test must hold examples of one shape. "
                f"Received: {x_train.shape[1:]} and {x_test.shape[1:]}"
            )
        limit = len(x_train)
        y_train, y_test, num_classes = _check_label_pair(arrays, limit, len(x_test))
        x_train, x_test, note = _bring_to_pixels(x_train, x_test)
    except InputError as error:
        raise InputError(f"--dataset {source}: {error}") from None
    notes = (note, _describe_missing(y_train, y_test, num_classes))
    name = Path(source).name
    return UserArrays(
        (x_train, y_train),
        (x_test, y_test),
        num_classes,
        tuple(f"{name}: {text}" for text in notes if text),
    )


def _read_npz(path: str) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            there = set(archive.namelist())
            missing = [key for key in NPZ_KEYS if f"{key}.npy" not in there]
            if missing:
                raise InputError(
                    f"--dataset {path} must hold {', '.join(NPZ_KEYS)}. "
                    f"Missing: {', '.join(missing)}"
                )
            return {key: _read_array(archive, key, path) for key in NPZ_KEYS}
    except InputError:
        raise
    except Exception as error:  # zipfile raises what damage makes it stumble over
        raise InputError(
            f"--dataset {path} is not a readable .npz, as numpy.savez writes it "
            f"({_in_short(error)})"
        ) from None


def _read_array(archive: zipfile.ZipFile, key: str, path: str) -> np.ndarray:
    try:
        with archive.open(f"{key}.npy") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            if file.read(1):  # where it ends, its checksum is compared
                raise ValueError("it goes on after its last number")
    except Exception as error:  # zipfile, zlib and NumPy: a dozen kinds
        raise InputError(
            f"--dataset {path}: {key} is not a readable array of numbers "
            f"({_in_short(error)})"
        ) from None
    return array


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:120] or type(error).__name__


def _check_layout(x: np.ndarray, name: str) -> np.ndarray:
    """Inputs of one of the layouts there are; images gain an axis of channels."""
    _check_numbers(x, name)
    if x.ndim not in (2, 3, 4):
        raise InputError(
            f"{name} must hold images, (examples, height, width) or (examples, height, "
            f"width, channels), or vectors, (examples, features). Received: shape "
            f"{x.shape}"
        )
    if x.size == 0:
        raise InputError(f"{name} must hold examples. Received: shape {x.shape}")
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        raise InputError(
            f"{name} must have its channels last: {name}.transpose(0, 2, 3, 1). "
            f"Received: shape {x.shape}"
        )
    return np.ascontiguousarray(x[..., np.newaxis] if x.ndim == 3 else x)


def _check_numbers(array: np.ndarray, name: str) -> None:
    if array.dtype.kind not in NUMBERS:
        raise InputError(f"{name} must hold numbers. Received: type {array.dtype}")


def _check_label_pair(
    arrays: dict[str, np.ndarray], num_train: int, num_test: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The labels to train and to validate on, and their number of classes."""
    y_train, num_classes = check_labels(
        arrays["y_train"], "y_train", num_train, num_train
    )
    y_test, num_in_test = check_labels(arrays["y_test"], "y_test", num_test, num_train)
    num_classes = max(num_classes, num_in_test)
    if num_classes < 2:
        raise InputError(
            "y_train and y_test must be of at least two classes. "
            "Received: class 0 alone"
        )
    return y_train, y_test, num_classes


def check_labels(
    y: np.ndarray, name: str, count: int, num_train: int
) -> tuple[np.ndarray, int]:
    """Labels as classes, int32[example], and the number of classes.

    Args:
        y: classes, [example] or [example, 1], or one-hot, [example, class].
        name: what messages call it.
        count: examples that need a label.
        num_train: training examples, of which each class is taken to have one: a
            label beyond that would make a model of as many outputs.

    Raises:
        InputError: they are something else.
    """
    _check_numbers(y, name)
    if y.ndim not in (1, 2) or len(y) != count:
        raise InputError(
            f"{name} must hold a label for each of {count} examples: shape ({count},), "
            f"({count}, 1) or, one-hot, ({count}, classes). Received: shape {y.shape}"
        )
    if y.ndim == 2 and y.shape[1] != 1:
        return _from_one_hot(y, name), y.shape[1]
    y = y.reshape(-1)
    rule = f"classes, whole numbers from 0 on and below {num_train}, the number of "
    check_classes(y, num_train, f"{name} must hold {rule}training examples")
    return y.astype("int32"), int(y.max()) + 1


def check_classes(y: np.ndarray, num_classes: int, rule: str) -> None:
    """Raises an InputError that states the rule unless all labels are whole numbers
    from 0 to num_classes - 1."""
    is_class = (y >= 0) & (y < num_classes)  # which NaN is not
    if is_class.all() and y.dtype.kind == "f":
        is_class = y == np.trunc(y)
    if not is_class.all():
        raise InputError(f"{rule}. Received: {y[~is_class][0]}")


def _from_one_hot(y: np.ndarray, name: str) -> np.ndarray:
    is_one = y == 1
    is_right = (is_one | (y == 0)).all(axis=1) & (is_one.sum(axis=1) == 1)
    if not is_right.all():
        row = is_right.argmin()
        values = ", ".join(map(str, y[row, :MAX_NAMED]))
        more = ", ..." if y.shape[1] > MAX_NAMED else ""
        raise InputError(
            f"{name}, of shape {y.shape}, must be one-hot: a single 1 and zeros in "
            f"each row. Received: [{values}{more}] in row {row}"
        )
    return is_one.argmax(axis=1).astype("int32")


def _describe_missing(y_train: np.ndarray, y_test: np.ndarray, num_classes: int) -> str:
    """What to say of classes that no training example is of."""
    missing = np.setdiff1d(np.arange(num_classes), y_train)
    if not missing.size:
        return ""
    shown = ", ".join(map(str, missing[:MAX_NAMED]))
    more = ", ..." if len(missing) > MAX_NAMED else ""
    text = (
        f"no training example is of {len(missing)} of the {num_classes} classes "
        f"({shown}{more})"
    )
    count = np.isin(y_test, missing).sum()
    return f"{text}; {count} of the test examples are" if count else text


def _bring_to_pixels(
    x_train: np.ndarray, x_test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, str]:
    """Inputs on the scale that models take, and what to say of it."""
    low, high = _find_range(x_train, "x_train")
    test_low, test_high = _find_range(x_test, "x_test")
    scale = _find_scale(x_train, "x_train", low, high)
    test_scale = _find_scale(x_test, "x_test", test_low, test_high)
    # Bytes may well be dark in a small test set.
    are_bytes = scale == "bytes" and x_test.dtype == np.uint8
    if {scale, test_scale} == {"unit", "bytes"} and test_high > 0 and not are_bytes:
        raise InputError(
            "x_train and x_test must be on one scale. Received: up to "
            f"{high:g} and up to {test_high:g}"
        )
    factor = 1 if scale == "bytes" else WHITE
    note = _describe_scale(x_train, scale, low, high)
    return _to_pixels(x_train, factor), _to_pixels(x_test, factor), note


def _describe_scale(x: np.ndarray, scale: str, low: float, high: float) -> str:
    what = "vectors" if x.ndim == 2 else "pixels"
    if scale == "features" or (scale == "unit" and high > 0):
        return f"{what} from {low:g} to {high:g} are taken as such, not divided by 255"
    if what == "vectors":
        return f"vectors from {low:g} to {high:g} are taken as pixels, divided by 255"
    return f"no pixel is brighter than {high:g} of 255" if high < DIM else ""


def _find_range(x: np.ndarray, name: str) -> tuple[float, float]:
    low, high = float(x.min()), float(x.max())  # both are NaN where there is one
    largest = max(-low, high) * WHITE
    if not largest <= float(np.finfo("float32").max):  # which NaN is not
        is_finite = np.isfinite(x).reshape(len(x), -1).all(axis=1)
        where = "" if is_finite.all() else f" in example {is_finite.argmin()}"
        value = high if np.isnan(high) or high > -low else low
        raise InputError(
            f"{name} must hold finite numbers of float32. Received: {value:g}{where}"
        )
    return low, high


def _find_scale(x: np.ndarray, name: str, low: float, high: float) -> str:
    """The scale of inputs: "unit", from 0 to 1; "bytes", to 255, whole numbers if they
    are vectors; or, of vectors alone, "features" of any."""
    if low >= 0 and high <= 1:
        return "unit"
    is_image = x.ndim == 4
    # Below 2 is what overshoots the scale of 1, as resized images do.
    if low >= 0 and 2 <= high <= WHITE and (is_image or np.all(x == np.rint(x))):
        return "bytes"
    if is_image:
        raise InputError(
            f"{name} must hold pixels from 0 to 255 or from 0 to 1. "
            f"Received: {x.dtype} from {low:g} to {high:g}"
        )
    return "features"


def _to_pixels(x: np.ndarray, factor: int) -> np.ndarray:
    """x times a factor: as bytes where that is exact, else as float32."""
    if x.dtype == np.uint8 and factor == 1:
        return x
    pixels = np.empty(x.shape, "uint8")
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK] * np.float32(factor)
        whole = np.rint(part)
        # A byte that was divided by 255 comes back up to float32's rounding.
        is_byte = (np.abs(part - whole) < 1e-3) & (whole >= 0) & (whole <= WHITE)
        if not is_byte.all():
            return (x * np.float32(factor)).astype("float32")
        pixels[start : start + CHUNK] = whole
    return pixels


def as_bytes(images: np.ndarray) -> np.ndarray:
    """Images of pixels from 0 to 255 rounded to uint8, as Pillow needs them."""
    return images if images.dtype == np.uint8 else np.rint(images).astype("uint8")
