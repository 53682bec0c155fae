"""A file of rows of numbers that is gone on with where it ended."""

import hashlib
import json
import os
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

Row = dict[str, np.ndarray]


def digest(arrays: Iterable[Any]) -> str:
    """A digest of arrays, and of trees of them."""
    found = hashlib.sha256()
    for each in keras.tree.flatten([*arrays]):
        array = np.ascontiguousarray(ops.convert_to_numpy(each))
        found.update(f"{array.dtype} {array.shape}".encode())
        found.update(array.tobytes())
    return found.hexdigest()


def read_rows(path: str | os.PathLike[str], of: Mapping[str, str]) -> list[Row]:
    """The rows that a file has; none where it is not there.

    Raises:
        ValueError: it is not a landscape's, or of another one.
    """
    if not os.path.exists(path):
        return []
    try:
        with np.load(path) as file:
            arrays = dict(file)
        known = json.loads(str(arrays.pop("of")))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} holds no landscape ({error}): give another path"
        ) from None
    others = [name for name in of if known.get(name) != of[name]]
    if others:
        raise ValueError(
            f"{path} holds a landscape of other {', '.join(others)}: give another path"
        )
    names = [name for name in arrays if name not in ("x", "y")]
    count = min((len(arrays[name]) for name in names), default=0)
    return [{name: arrays[name][row] for name in names} for row in range(count)]


def write_rows(
    path: str | os.PathLike[str],
    axes: Mapping[str, np.ndarray],
    of: Mapping[str, str],
    rows: Sequence[Row],
) -> None:
    """Puts all rows in the place of a file at once: what is interrupted leaves it. Its
    folder is made."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    new = f"{os.fspath(path)}.new"
    arrays: dict[str, Any] = {"of": np.array(json.dumps(of)), **axes}
    arrays |= {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    with open(new, "wb") as file:
        np.savez(file, **arrays)
    os.replace(new, path)
