"""The loss and the metrics of a model on lines and planes through its weights."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import keras
import numpy as np
from keras import ops

from samkeras.analysis.curvature import Data
from samkeras.analysis.data_loss import DataLoss, Measurement, Point, prepare
from samkeras.analysis.directions import Directions
from samkeras.analysis.rows import Row, digest, read_rows, write_rows
from samkeras.backend import backend
from samkeras.backend.insides import (
    find_metrics,
    find_normalizations,
    normalized_by_batch,
)
from samkeras.objective import Batch
from samkeras.scope import Scope
from samkeras.tensors import Tensor

BatchNorm = Literal["eval", "refit"]
Numbers = Mapping[str, np.ndarray]
AROUND = np.linspace(-1.0, 1.0, 51)
BETWEEN = np.linspace(-0.5, 1.5, 41)  # both ends among them


@dataclass(frozen=True, kw_only=True)
class Line(Measurement):
    """Loss and metrics on a line of weights.

    Attributes:
        at: float64[point]: the weights are origin + at direction.
        train, test: the "loss" and the model's metrics by their names, such as
            "accuracy", float64[point] each; without test data `test` is empty.
        num_test_examples: of the test data.
        length: the distance of one unit.
        batch_norm: "eval" or "refit".
    """

    at: np.ndarray
    train: Numbers
    test: Numbers
    num_test_examples: int
    length: float
    batch_norm: BatchNorm


@dataclass(frozen=True, kw_only=True)
class Plane(Measurement):
    """Loss and metrics on a plane of weights.

    Attributes:
        x, y: float64[column], float64[row]: the weights are origin + x d_1 + y d_2.
        train, test: the "loss" and the model's metrics by their names, such as
            "accuracy", float64[row, column] each, as matplotlib's contour takes them;
            without test data `test` is empty.
        num_test_examples: of the test data.
        lengths: the distances of one unit of x and one of y.
        cosine: of the two directions.
        batch_norm: "eval" or "refit".
    """

    x: np.ndarray
    y: np.ndarray
    train: Numbers
    test: Numbers
    num_test_examples: int
    lengths: np.ndarray
    cosine: float
    batch_norm: BatchNorm


def plane(
    model: keras.Model,
    data: Data,
    directions: Directions,
    *,
    x: Sequence[float] | np.ndarray = AROUND,
    y: Sequence[float] | np.ndarray = AROUND,
    origin: Sequence[Any] | np.ndarray | None = None,
    test: Data | None = None,
    batch_norm: BatchNorm = "eval",
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
) -> Plane:
    """The loss f and the metrics at origin + x d_1 + y d_2.

    (Li et al. 2018, "Visualizing the loss landscape of neural nets".)

    Examples:
        >>> directions = samkeras.analysis.random_directions(model)
        >>> found = samkeras.analysis.plane(model, (x, y), directions)
        >>> found.train["loss"].shape  # plt.contour(found.x, found.y, ...)
        (51, 51)

    Args:
        model: a compiled keras.Model.
        data: arrays (x, y[, sample_weight]), an iterable of such batches, or a DataLoss
            of them, which keeps what was compiled.
        directions: two of them.
        x, y: coordinates, any numbers of them.
        origin: an array for each trainable weight, or all in one flat vector, such as
            the end of a path. None (default): the model's weights.
        test: other examples, such as validation data. None (default): none.
        batch_norm: the statistics of BatchNorm layers: "eval" (default), those that the
            model has, wherever the weights are; "refit", at each point those of `data`
            there, as one pass over its batches, each normalized by its own, gives them.
        path: an .npz file of all numbers, written row by row. If it is there, it is
            gone on with. None (default): none.
        batch_size: the most examples at once.

    Returns:
        The loss and the metrics at all points.

    Raises:
        ValueError: an argument is out of its range or does not fit the weights, or the
            file is of something else.
    """
    loss, columns, rows = prepare(model, data, batch_size), _check(x), _check(y)
    if len(directions.vectors) != 2:
        raise ValueError(
            f"a plane has two directions. Received: {len(directions.vectors)}"
        )
    survey = _Survey(loss, test, directions.vectors, origin, batch_norm)
    return Plane(
        x=columns,
        y=rows,
        **survey.take(columns, rows, path),
        lengths=directions.lengths,
        cosine=directions.cosine,
    )


def line(
    model: keras.Model,
    data: Data,
    direction: np.ndarray,
    *,
    at: Sequence[float] | np.ndarray = AROUND,
    origin: Sequence[Any] | np.ndarray | None = None,
    test: Data | None = None,
    batch_norm: BatchNorm = "eval",
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
) -> Line:
    """The loss f and the metrics at origin + t d; see `plane`.

    Examples:
        >>> d = samkeras.analysis.random_directions(model).vectors[0]
        >>> found = samkeras.analysis.line(model, (x, y), d, test=(x[:8], y[:8]))
        >>> found.at.shape, found.test["loss"].shape
        ((51,), (51,))

    Args:
        direction: a flat vector.
        at: the numbers t.
        model, data, origin, test, batch_norm, path, batch_size: see `plane`.

    Returns:
        The loss and the metrics at all points.

    Raises:
        ValueError: as `plane`.
    """
    loss, points = prepare(model, data, batch_size), _check(at)
    vectors = np.asarray(direction)[None]
    survey = _Survey(loss, test, vectors, origin, batch_norm)
    found = survey.take(points, np.zeros(1), path)
    for split in ("train", "test"):
        found[split] = {name: rows[0] for name, rows in found[split].items()}
    return Line(at=points, **found, length=float(Directions(vectors).lengths[0]))


def interpolation(
    model: keras.Model,
    data: Data,
    start: Sequence[Any] | np.ndarray,
    end: Sequence[Any] | np.ndarray,
    *,
    at: Sequence[float] | np.ndarray = BETWEEN,
    test: Data | None = None,
    batch_norm: BatchNorm = "eval",
    path: str | os.PathLike[str] | None = None,
    batch_size: int = 256,
) -> Line:
    """The loss f and the metrics at start + t (end - start), from one trained network
    at t = 0 to another one at t = 1. (Goodfellow et al. 2015.)

    A model with BatchNorm wants `batch_norm="refit"`: the statistics that it has are
    those of one place.

    Examples:
        >>> start = [np.array(w) for w in model.trainable_variables]
        >>> history = model.fit(x, y, verbose=0)
        >>> end = model.trainable_variables
        >>> found = samkeras.analysis.interpolation(model, (x, y), start, end)
        >>> found.at.shape
        (41,)

    Args:
        start, end: an array for each trainable weight, or all in one flat vector.
        at: the numbers t.
        model, data, test, batch_norm, path, batch_size: see `plane`.

    Returns:
        The loss and the metrics at all points.

    Raises:
        ValueError: as `plane`.
    """
    loss = prepare(model, data, batch_size)
    if batch_norm == "eval" and find_normalizations(model):
        warnings.warn(
            "the BatchNorm statistics that the model has are not those of the weights "
            "in between: give batch_norm='refit'",
            stacklevel=2,
        )
    origin = _to_vector(loss, start, "start")
    return line(
        model,
        loss,
        _to_vector(loss, end, "end") - origin,
        at=at,
        origin=origin,
        test=test,
        batch_norm=batch_norm,
        path=path,
    )


class _Survey:
    """What measures a row of points after the other."""

    def __init__(
        self,
        loss: DataLoss,
        test: Data | None,
        vectors: np.ndarray,
        origin: Sequence[Any] | np.ndarray | None,
        batch_norm: BatchNorm,
    ):
        if batch_norm not in get_args(BatchNorm):
            raise ValueError(
                f"batch_norm must be eval or refit. Received: {batch_norm!r}"
            )
        if vectors.shape[1:] != (loss.size,):
            raise ValueError(
                f"a direction must be a vector of {loss.size} numbers. Received one of "
                f"shape {vectors.shape[1:]}"
            )
        self._splits = {"train": loss}
        if isinstance(test, DataLoss):
            self._splits["test"] = prepare(loss.model, test, loss.batch_size)
        elif test is not None:
            self._splits["test"] = loss.on(test)
        self._loss, self._batch_norm = loss, batch_norm
        self._metrics = _build_metrics(loss)
        self._start: list[Tensor] = (
            self._metrics.stateless_reset_state() if self._metrics else []
        )
        own = loss.flatten(loss.weights)
        start = own if origin is None else _to_vector(loss, origin, "origin")
        self._place = [loss.to_tensor(start - own), loss.to_tensor(vectors)]
        self._of = {
            "weights": digest([start, *_find_state(loss)]),
            "directions": digest([vectors]),
            "data": digest(loss.batches),
            "test data": digest(self._splits["test"].batches if test else []),
            "loss and metrics": _describe(loss.model),
            "batch_norm": batch_norm,
        }

    def take(
        self,
        x: np.ndarray,
        y: np.ndarray,
        path: str | os.PathLike[str] | None,
    ) -> dict[str, Any]:
        """The fields that a Line and a Plane share."""
        of = {**self._of, "grid": digest([x, y])}
        rows = [] if path is None else read_rows(path, of)
        for number in y[len(rows) :]:
            rows.append(self._take_row(x, number))
            if path is not None:
                write_rows(path, {"x": x, "y": y}, of, rows)
        found: dict[str, dict[str, np.ndarray]] = {"train": {}, "test": {}}
        for name in rows[0]:
            split, _, number = name.partition("_")
            found[split][number] = np.stack([row[name] for row in rows])
        test = self._splits.get("test")
        return {
            **found,
            "num_test_examples": test.num_examples if test else 0,
            "batch_norm": self._batch_norm,
            **self._loss.measured,
        }

    def _take_row(self, x: np.ndarray, y: float) -> Row:
        """Numbers of each point of a row, fetched from the device at once."""
        # One program a point: XLA's CPU convolves slowly in a loop.
        found = backend.fetch([self._take_point(value, y) for value in x])
        row: Row = {}
        for split, data in self._splits.items():
            losses = [np.sum(np.asarray(p[split][0], "float64")) for p in found]
            row[f"{split}_loss"] = np.array(losses) / float(data.total)
            for name in found[0][split][1]:
                metric = [float(point[split][1][name]) for point in found]
                row[f"{split}_{name}"] = np.array(metric)
        return row

    def _take_point(self, x: float, y: float) -> dict[str, Any]:
        """The losses of the batches, and the metrics."""
        offset, vectors = self._place
        coordinates = self._loss.to_tensor(np.array([x, y])[: len(vectors)])
        place = [offset, vectors, coordinates]
        statistics: list[Tensor] = []
        if self._batch_norm == "refit":
            statistics = _refit(self._loss, place)
        return {
            split: self._evaluate(data, place, statistics)
            for split, data in self._splits.items()
        }

    def _evaluate(
        self, data: DataLoss, place: list[Tensor], statistics: list[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        losses: list[Tensor] = []
        state = self._start
        for batch in data.batches:
            total, state = data.run(_measure, batch, place, statistics, state)
            losses.append(total)
        return losses, self._metrics.stateless_result(state) if self._metrics else {}


def _build_metrics(loss: DataLoss) -> Any:
    """A model's metrics, with their variables, which keras makes when it first sees
    labels."""
    metrics = find_metrics(loss.model)
    if metrics is not None and not metrics.built:
        x, y, _ = keras.utils.unpack_x_y_sample_weight(loss.batches[0])
        with Scope():
            metrics.build(y, backend.trace(loss.model, x))
    return metrics


def _measure(
    loss: DataLoss,
    point: Point,
    batch: Batch,
    place: list[Tensor],
    statistics: list[Tensor],
    state: list[Tensor],
) -> tuple[Tensor, list[Tensor]]:
    """The sum of a batch's losses, and the metrics' state after it."""
    point = _move(point, place)
    layers = find_normalizations(loss.model)
    moving = [v for x in layers for v in (x.moving_mean, x.moving_variance)]
    # Without statistics none is fitted.
    fitted = dict(zip(map(id, moving), statistics, strict=False))
    others = [(v, fitted.get(id(v), value)) for v, value in point.state]
    mean, y_pred, _ = point.objective.evaluate(point.weights, others, batch)
    metrics = find_metrics(loss.model)
    if metrics:
        _, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        state = metrics.stateless_update_state(state, y, y_pred, sample_weight)
    return loss.sum_of(mean, batch), state


def _refit(loss: DataLoss, place: list[Tensor]) -> list[Tensor]:
    """The mean and variance of each BatchNorm layer over the data at a point."""
    if not find_normalizations(loss.model):
        return []
    sums = [loss.run(_find_moments, batch, place) for batch in loss.batches]
    statistics: list[Tensor] = []
    for number in range(len(sums[0])):
        mean, square = (
            sum(each[number][part] for each in sums) / loss.num_examples
            for part in range(2)
        )
        statistics += [mean, square - ops.square(mean)]
    return statistics


def _find_moments(
    loss: DataLoss, point: Point, batch: Batch, place: list[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """The mean of each BatchNorm layer's inputs and of their squares in a batch, times
    its examples."""
    point = _move(point, place)
    with normalized_by_batch(loss.model):
        evaluate = point.objective.evaluate
        _, _, updates = evaluate(point.weights, point.state, batch)
    found = {id(variable): value for variable, value in updates}
    moments: list[tuple[Tensor, Tensor]] = []
    for layer in find_normalizations(loss.model):
        mean, variance = (
            found[id(v)] for v in (layer.moving_mean, layer.moving_variance)
        )
        count = ops.cast(ops.shape(keras.tree.flatten(batch)[0])[0], mean.dtype)
        moments.append((count * mean, count * (variance + ops.square(mean))))
    return moments


def _move(point: Point, place: list[Tensor]) -> Point:
    """The point of a line or plane."""
    offset, vectors, coordinates = place
    return point.shifted(offset + ops.matmul(coordinates, vectors))


def _check(numbers: Sequence[float] | np.ndarray) -> np.ndarray:
    found = np.asarray(numbers, "float64")
    if found.ndim != 1 or not len(found) or not np.isfinite(found).all():
        raise ValueError(
            f"coordinates must be a list of finite numbers. Received: {numbers!r}"
        )
    return found


def _to_vector(
    loss: DataLoss, weights: Sequence[Any] | np.ndarray, name: str
) -> np.ndarray:
    """Weights, which may be a flat vector already, as one."""
    if isinstance(weights, np.ndarray) and weights.dtype == object:
        weights = [*weights]  # a list of arrays, kept as one
    if isinstance(weights, np.ndarray) and weights.ndim == 1:
        if len(weights) != loss.size:
            raise ValueError(
                f"{name} has {len(weights):,} numbers, the model {loss.size:,}"
            )
        return loss.keep(weights)
    return loss.flatten([*weights])


def _find_state(loss: DataLoss) -> list[Any]:
    """The variables that the loss depends on beside the trainable ones; the state of
    random generators is of integers."""
    state = loss.model.non_trainable_variables
    return [variable for variable in state if "float" in variable.dtype]


def _describe(model: keras.Model) -> str:
    """What tells losses and metrics of a model apart from others."""
    losses, metrics = keras.tree.flatten(model.loss), find_metrics(model)
    names = [
        type(x).__name__
        if isinstance(x, keras.losses.Loss)
        else getattr(x, "__name__", x)
        for x in losses
    ]
    names += [variable.path for variable in metrics.variables] if metrics else []
    return " ".join(map(str, names))
