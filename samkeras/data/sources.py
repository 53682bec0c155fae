"""Data sets that a function of a user's own returns, and the one place that checks the
examples of any."""

import dataclasses
import functools
import hashlib
import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.data.examples import ArrayExamples
from samkeras.data.graphs import Graph, GraphCollate
from samkeras.data.padding import Collate
from samkeras.data.sequences import NO_LABEL, SequenceCollate
from samkeras.data.splits import Content, DataInfo, Splits
from samkeras.errors import InputError, nearest
from samkeras.imports import explain, import_file

# keras and spektral are other sources of ours, and TFDS has names of these kinds, too.
OTHERS = "keras|spektral|huggingface|kubric|robotics"
FUNCTION = re.compile(
    rf"(.+\.py|(?!(?:{OTHERS}):)[^\W\d]\w*(?:\.[^\W\d]\w*)*):([^\W\d]\w*)"
)
PARTS = ("training", "validation")


def is_function(dataset: str) -> bool:
    """Whether a data set's name is module:function, with packages before it or not, or
    path.py:function."""
    return FUNCTION.fullmatch(dataset) is not None


@functools.lru_cache(maxsize=4)
def find_object(dataset: str) -> Any:
    """What module:name or path.py:name stands for; once for all runs.

    Raises:
        InputError: there is no such file, module or name, or importing it fails.
    """
    place, _, name = dataset.rpartition(":")
    path = Path(os.path.expanduser(place)).absolute()
    try:
        if not place.endswith(".py"):
            if str(Path.cwd()) not in sys.path:
                sys.path.append(str(Path.cwd()))
            module = importlib.import_module(place)
        elif path.is_file():
            module = import_file(path.resolve())
        else:
            raise InputError(f"--dataset {dataset}: there is no file {place}")
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(
            f"--dataset {dataset}: cannot import {place}: {explain(error)}"
        ) from error
    if not hasattr(module, name):
        hint = nearest(name, (each for each in vars(module) if each[0] != "_"))
        raise InputError(f"--dataset {dataset}: {place} has no {name}{hint}")
    return getattr(module, name)


def call_function(
    dataset: str, kind: str, convert: Callable[[Any], Any] = lambda found: found
) -> Splits[Any]:
    """The data set that a function returns, read and checked, once for all runs.

    Args:
        dataset: module:function or path.py:function, a function of no arguments that
            returns samkeras.workload.Splits.
        kind: what the workload takes: "images", "sentences", "tags" or "graphs".
        convert: makes Splits of what else a function may return. Default: nothing is.

    Returns:
        The Splits, with the numbers of examples there are and what they hold.

    Raises:
        InputError: it fails, or its examples are not what the workload takes.
    """
    return check_splits(convert(_call(dataset, find_object(dataset))), kind, dataset)


@functools.lru_cache(maxsize=4)
def _call(dataset: str, function: Any) -> Any:
    try:
        splits = function() if callable(function) else function
        if isinstance(splits, Splits):
            _ = splits.train
    except InputError as error:
        raise InputError(f"--dataset {dataset}: {error}") from None
    except (Exception, SystemExit) as error:
        raise InputError(f"--dataset {dataset}: {explain(error)}") from error
    return splits


def cut(splits: Splits[Any], max_length: int | None) -> Splits[Any]:
    """Sentences cut to a number of words, and their tags where they have some."""

    def shorten(part: Any) -> Any:
        if not isinstance(part, ArrayExamples):
            return part
        y = part.y if part.y.ndim == 1 else part.y[:, :max_length]
        return dataclasses.replace(part, x=part.x[:, :max_length], y=y)

    train, validation = shorten(splits.train), shorten(splits.validation)
    return dataclasses.replace(splits, read=lambda: (train, validation))


def check_splits(splits: Any, kind: str, dataset: str) -> Splits[Any]:
    """A data set, its examples checked against its description, by which the
    description is completed.

    Args:
        splits: the data set.
        kind: "images", "sentences", "tags" or "graphs".
        dataset: what messages call it.

    Raises:
        InputError: they are not what a workload of that kind takes.
    """
    is_described = isinstance(splits, Splits) and isinstance(splits.info, DataInfo)
    if not is_described:
        raise InputError(
            f"--dataset {dataset} must return samkeras.workload.Splits, with a "
            f"DataInfo as its info. Received: {type(splits).__name__}"
        )
    info, wanted = splits.info, _KINDS[kind]
    if not wanted.is_met(info):
        raise InputError(
            f"--dataset {dataset}: this workload needs {wanted.what}. Received: "
            f"{_describe(info)}"
        )
    parts = (splits.train, splits.validation)
    collate = splits.collate or wanted.collate
    for part, name in zip(parts, PARTS, strict=True):
        if isinstance(part, ArrayExamples):
            try:
                _check_examples(part, info, kind)
            except InputError as error:
                raise InputError(
                    f"--dataset {dataset}, {name} examples: {error}"
                ) from None
    train, validation = (
        dataclasses.replace(part, collate=collate)
        if isinstance(part, ArrayExamples)
        else part
        for part in parts
    )
    changes: dict[str, Any] = {
        "num_train": len(train),
        "num_validation": len(validation),
    }
    if kind != "graphs":
        # Two classes of sentences are one output of the workload's model.
        is_binary = kind == "sentences" and info.num_classes == 2
        changes["num_outputs"] = 1 if is_binary else info.num_classes
    return dataclasses.replace(
        splits,
        info=dataclasses.replace(info, **changes),
        read=lambda: (train, validation),
        collate=collate,
        content=splits.content or _digest(parts, dataset),
    )


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a workload takes: in words, of a description, and how it is padded."""

    what: str
    is_met: Callable[[DataInfo], bool]
    collate: Collate | None = None


_KINDS = {
    "images": _Kind(
        "images or vectors of classes: an input_shape of 3 numbers or 1, and "
        "num_classes",
        lambda info: (
            len(info.input_shape) in (1, 3)
            and info.vocabulary_size is None
            and (info.num_classes or 0) > 1
        ),
    ),
    "sentences": _Kind(
        "sentences of classes: a vocabulary_size and num_classes",
        lambda info: bool(info.vocabulary_size) and (info.num_classes or 0) > 1,
        SequenceCollate(),
    ),
    "tags": _Kind(
        "sentences of tagged words: a vocabulary_size, word_counts of that length and "
        "num_classes",
        lambda info: (
            info.vocabulary_size == len(info.word_counts or ()) > 0
            and (info.num_classes or 0) > 1
        ),
        SequenceCollate(has_token_labels=True),
    ),
    "graphs": _Kind(
        "graphs: an input_shape (None, features), no vocabulary_size",
        lambda info: (
            len(info.input_shape) == 2
            and info.input_shape[0] is None
            and info.vocabulary_size is None
        ),
        GraphCollate(),
    ),
}


def _describe(info: DataInfo) -> str:
    names = ("input_shape", "num_classes", "vocabulary_size")
    return ", ".join(f"{name} {getattr(info, name)}" for name in names)


def _check_examples(examples: ArrayExamples, info: DataInfo, kind: str) -> None:
    x, y = examples.x, examples.y
    for name, array in (("x", x), ("y", y)):
        if not isinstance(array, np.ndarray):
            raise InputError(f"{name} must be an array. Received: {type(array)}")
    if len(x) != len(y) or not len(x):
        raise InputError(
            "x and y must have as many rows, one or more. Received: "
            f"{len(x)} and {len(y)}"
        )
    if kind == "images":
        return  # samkeras.data.arrays checks them, as any arrays of images
    if kind == "graphs":
        check_graphs(x, y, info)
        return
    _check_ids(x, "x", info.vocabulary_size or 0, lowest=0, dimensions=2)
    if kind == "sentences":
        _check_ids(y, "y", info.num_classes or 0, lowest=0, dimensions=1)
        return
    _check_ids(y, "y", info.num_classes or 0, lowest=NO_LABEL - 1, dimensions=2)
    if y.shape != x.shape:
        raise InputError(
            f"y must have a tag for each word of x, {x.shape}. Received: {y.shape}"
        )


def _check_ids(
    ids: np.ndarray, name: str, count: int, lowest: int, dimensions: int
) -> None:
    if ids.dtype.kind not in "iu" or ids.ndim != dimensions:
        raise InputError(
            f"{name} must be of whole numbers, with {dimensions} axes. Received: "
            f"{ids.dtype} of shape {ids.shape}"
        )
    is_wrong = (ids < lowest) | (ids >= count)
    if is_wrong.any():
        raise InputError(
            f"{name} must be from {lowest} to {count - 1}. Received: {ids[is_wrong][0]}"
        )


def check_graphs(x: np.ndarray, y: np.ndarray, info: DataInfo) -> None:
    """Checks graphs and their labels.

    Raises:
        InputError: a graph has no nodes, other features than the rest or edges
            to nodes that are not there; numbers are not finite; or labels are neither
            0, 1 nor missing (NaN), where they are no regression.
    """
    num_features = info.input_shape[-1]
    for index, graph in enumerate(x):
        if not isinstance(graph, Graph):
            raise InputError(
                f"x must be of samkeras.data.graphs.Graph. Received: {type(graph)}"
            )
        shape = graph.nodes.shape
        if len(shape) != 2 or not shape[0] or shape[1] != num_features:
            raise InputError(
                f"graph {index} must have nodes of {num_features} features, one or "
                f"more. Received: shape {shape}"
            )
        if not np.isfinite(graph.nodes).all():
            raise InputError(f"graph {index} has node features that are not finite")
        edges = graph.edges
        is_right = edges.ndim == 2 and len(edges) == 2 and edges.dtype.kind in "iu"
        if is_right and edges.size:
            is_right = 0 <= edges.min() <= edges.max() < shape[0]
        if not is_right:
            raise InputError(
                f"graph {index} must have edges [2, edge] of nodes from 0 to "
                f"{shape[0] - 1}. Received: {edges.tolist()!s:.60}"
            )
    if y.ndim != 2 or y.shape[1] != info.num_outputs or y.dtype.kind not in "biuf":
        raise InputError(
            f"y must be of shape ({len(x)}, {info.num_outputs}), a number a task. "
            f"Received: {y.dtype} of shape {y.shape}"
        )
    present = y[~np.isnan(y)]
    if not present.size:
        raise InputError("y must have labels. Received: missing ones alone")
    is_wrong = ~np.isfinite(present)
    rule = "finite numbers"
    if info.num_classes:
        is_wrong, rule = (present != 0) & (present != 1), "0 or 1"
    if is_wrong.any():
        raise InputError(
            f"y must be of {rule}, NaN where missing. Received: {present[is_wrong][0]}"
        )


def _digest(parts: tuple[Any, ...], dataset: str) -> Content:
    """What examples in memory hold; of others, what the code that makes them says."""
    digest, size = hashlib.sha256(), 0
    for array in _arrays(parts, dataset):
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
        size += array.nbytes
    return Content(size, digest.hexdigest())


def _arrays(parts: tuple[Any, ...], dataset: str) -> Iterator[np.ndarray]:
    for part in parts:
        if not isinstance(part, ArrayExamples):
            path = sys.modules[find_object(dataset).__module__].__file__
            yield np.frombuffer(Path(str(path)).read_bytes(), "uint8")
            continue
        for array in (part.x, part.y):
            if array.dtype != object:
                yield array
                continue
            for graph in array:
                yield from (graph.nodes, graph.edges)
