"""What was read, in words: examples, sizes, classes and how often each occurs."""

import csv
import io
from typing import Any

import numpy as np

from samkeras.data.examples import ArrayExamples
from samkeras.data.splits import DataInfo, Splits

NAMES = ("classes.txt", "tags.txt", "tasks.txt")
SHOWN = 10  # classes
DIGITS = 6  # that float32 keeps
SCALES = ("task", "mean", "deviation")  # the columns of tasks.csv


def summarize(splits: Splits[Any], in_full: bool = True) -> str:
    """What a set's examples are, those to train on and those to validate on; nothing of
    examples that are neither in memory nor have their labels there.

    Args:
        splits: the set, which is read.
        in_full: whether to tell all classes, or the ten most frequent ones.
    """
    names = next((splits.files[n] for n in NAMES if n in splits.files), "")
    lines = []
    for part, title in ((splits.train, "training"), (splits.validation, "validation")):
        y = getattr(part, "y", None)
        if not isinstance(y, np.ndarray):
            return ""
        sizes = _describe_sizes(part, splits.info)
        lines.append(f"{title}: {len(part):,} examples{sizes}")
        described = _describe_labels(
            _bring_back(y, splits.files.get("tasks.csv", "")),
            splits.info,
            names.split("\n"),
            None if in_full else SHOWN,
        )
        lines += [f"  {line}" for line in described]
    return "\n".join(lines) + "\n"


def _bring_back(y: np.ndarray, scales: str) -> np.ndarray:
    """Numbers as their file has them, by what tells how they were brought to one
    scale."""
    try:
        header, *rows = csv.reader(io.StringIO(scales, newline=""))
        means, deviations = np.array([row[1:] for row in rows], "float64").T
    except (ValueError, csv.Error):
        return y  # a function's own file may be called so, too
    if tuple(header) != SCALES or y.shape[1:] != means.shape:
        return y
    back = y * deviations + means
    for column, size in zip(back.T, abs(means) + deviations, strict=True):
        if 0 < size < np.inf:  # no label in training has any
            column[:] = column.round(DIGITS - int(np.floor(np.log10(size)))) + 0.0
    return back


def _describe_sizes(part: Any, info: DataInfo) -> str:
    if not isinstance(part, ArrayExamples) or part.collate is None:
        return f" of {' x '.join(map(str, info.input_shape))}"
    sizes = part.collate.sizes(part.x)
    what = "words" if info.vocabulary_size else "nodes"
    return (
        f" of {sizes.min():,} to {sizes.max():,} {what}, {sizes.mean():.1f} in the mean"
    )


def _describe_labels(
    y: np.ndarray, info: DataInfo, names: list[str], limit: int | None
) -> list[str]:
    is_float = y.dtype.kind == "f"
    has_tasks = y.ndim == 2 and info.vocabulary_size is None  # or else tags of words
    if info.num_classes and not has_tasks:
        return _describe_classes(y, info.num_classes, names, limit)
    lines = []
    for task, values in enumerate(y.reshape(len(y), -1).T[:limit]):
        present = values[~np.isnan(values)] if is_float else values
        missing = f", {len(values) - len(present):,} missing"
        name = names[task] if task < len(names) and names[task] else f"label {task}"
        if not present.size:
            lines.append(f"{name}: all missing")
        elif info.num_classes:
            mean = present.mean()
            share = f"{np.count_nonzero(present):,} of {len(present):,} are 1"
            lines.append(
                f"{name}: {share}{missing}; majority {max(mean, 1 - mean):.4f}"
            )
        else:
            lines.append(
                f"{name}: from {present.min():g} to {present.max():g}, mean "
                f"{present.mean():g}, variance {present.var():g}{missing}"
            )
    return lines


def _describe_classes(
    y: np.ndarray, num_classes: int, names: list[str], limit: int | None
) -> list[str]:
    counts = np.bincount(y[y >= 0].astype("int64"), minlength=num_classes)
    if len(names) < num_classes:
        names = [str(number) for number in range(num_classes)]
    order = np.argsort(-counts, kind="stable")
    shown = ", ".join(f"{names[i]} {counts[i]:,}" for i in order[:limit])
    more = ", ..." if limit and num_classes > limit else ""
    first = order[0]
    return [
        f"{num_classes} classes: {shown}{more}",
        f"majority: {counts[first] / max(1, counts.sum()):.4f} ({names[first]})",
    ]
