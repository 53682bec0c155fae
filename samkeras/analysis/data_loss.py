"""The mean loss of a model over data, as a function of its weights."""

import contextlib
import copy
import functools
import inspect
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

import keras
import numpy as np
from keras import ops

from samkeras.backend import backend
from samkeras.backend.insides import unrounded
from samkeras.masks import Masks
from samkeras.objective import Batch, Objective, Pairs, pairs_of
from samkeras.scope import Scope
from samkeras.tensors import Tensor, widest

Program = Callable[..., Any]

MEAN, WEIGHTED = "sum_over_batch_size", "mean_with_sample_weight"


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured.

    Attributes:
        num_examples: of the data.
        num_weights: trainable ones that are not pruned: the Hessian's size.
        dtype: of weights and products.
    """

    num_examples: int
    num_weights: int
    dtype: str


@dataclass(frozen=True)
class Point:
    """Where a compiled function is: a model's loss and its variables' values.

    Attributes:
        objective: the loss in evaluation.
        weights: the trainable weights' values.
        state: the others'.
    """

    objective: Objective
    weights: list[Tensor]
    state: Pairs

    @property
    def dtype(self) -> str:
        """The type of flat vectors."""
        return widest(self.weights)

    def spread(self, vector: Tensor) -> list[Tensor]:
        """A flat vector as tensors like the weights, zero where they are pruned."""
        tensors: list[Tensor] = []
        start = 0
        for weight in self.weights:
            shape: tuple[int, ...] = tuple(weight.shape)
            end = start + int(np.prod(shape))
            part = ops.reshape(vector[start:end], shape)
            tensors.append(ops.cast(part, weight.dtype))
            start = end
        return self.objective.mask(tensors)

    def flatten(self, tensors: list[Tensor]) -> Tensor:
        """Tensors like the weights as a flat vector, zero where they are pruned."""
        parts = [
            ops.reshape(ops.cast(t, self.dtype), (-1,))
            for t in self.objective.mask(tensors)
        ]
        return ops.concatenate(parts)

    def shifted(self, offset: Tensor) -> "Point":
        """The same at weights that differ by a flat vector."""
        offsets = self.spread(offset)
        weights = [w + o for w, o in zip(self.weights, offsets, strict=True)]
        return Point(self.objective, weights, self.state)


class DataLoss:
    """A model's mean loss over examples, as a function of its weights.

    It is the loss that the model was compiled with, as `evaluate` reports it: in
    inference mode, without l2 or the weights' regularizers, in a fixed order, with
    sample weights. Products of float32 numbers are not rounded to TF32 or bfloat16, and
    a model of mixed precision is computed in float32. The weights are those that the
    model has at each call; all of it compiles once.

    Vectors are flat: the trainable weights one after the other, each in C order. Pruned
    entries are zero in all of them, frozen weights have none.

    Examples:
        >>> data = samkeras.analysis.DataLoss(model, (x, y))
        >>> loss, gradient = data.gradient()
        >>> gradient.shape, data.product(gradient).shape  # g and H g: 5 weights
        ((5,), (5,))
        >>> top = samkeras.analysis.top_eigenvalues(model, data)  # compiles once
        >>> trace = samkeras.analysis.trace(model, data)

    Args:
        model: a compiled keras.Model.
        data: arrays (x, y[, sample_weight]) whose first axis is the example, or an
            iterable of such batches.
        batch_size: the most examples at once.

    Raises:
        ValueError: the model is not compiled or its loss has no mean, its weights are
            of 16 bits or read past keras, or there are no examples.
    """

    def __init__(
        self,
        model: keras.Model,
        data: Batch | Iterable[Batch],
        batch_size: int = 256,
    ):
        if not model.compiled:
            raise ValueError("compile the model with its loss before it is measured")
        self.model, self.batch_size = model, batch_size
        self._reduction = _find_reduction(model)
        self.batches: list[Batch] = _split(data, batch_size)
        self.num_examples = sum(map(_count, self.batches))
        # How many examples the loss is a mean over, or their weight.
        self.total = sum(map(self._find_amount, self.batches))
        self._programs: dict[Program, Callable[..., Any]] = {}
        self._build()

    @property
    def weights(self) -> list[keras.Variable]:
        """What the loss is a function of."""
        return self.model.trainable_variables

    @property
    def size(self) -> int:
        """The length of vectors."""
        return sum(int(np.prod(weight.shape)) for weight in self.weights)

    @property
    def dtype(self) -> str:
        """The type of vectors."""
        return widest(self.weights)

    @property
    def measured(self) -> dict[str, Any]:
        """The fields of a Measurement."""
        return {
            "num_examples": self.num_examples,
            "num_weights": self.size - Masks(self.weights).num_pruned,
            "dtype": self.dtype,
        }

    def loss(self, offset: np.ndarray | None = None) -> float:
        """f(w + offset)."""
        tensor = self.to_tensor(offset)
        totals = [self.run(_evaluate, batch, tensor) for batch in self.batches]
        return float(np.sum(_to_float64(totals)) / self.total)

    def gradient(self, offset: np.ndarray | None = None) -> tuple[float, np.ndarray]:
        """f and its gradient at w + offset."""
        tensor = self.to_tensor(offset)
        parts = [self.run(_differentiate, batch, tensor) for batch in self.batches]
        losses, gradients = zip(*parts, strict=True)
        loss = float(np.sum(_to_float64(losses)) / self.total)
        return loss, self.mean_of(gradients)

    def product(self, vector: np.ndarray) -> np.ndarray:
        """The Hessian at w times a vector."""
        tensor = self.to_tensor(vector)
        product = self.mean_of(
            self.run(_multiply, batch, tensor) for batch in self.batches
        )
        if not np.isfinite(product).all():
            raise ValueError(
                "the loss has second derivatives that are not finite: look for such "
                "numbers in the data and the weights"
            )
        return product

    def mean_of(self, totals: Iterable[Tensor]) -> np.ndarray:
        """The mean over the data, of flat sums over the examples of each batch."""
        vector = self.sum_over(totals)
        return vector / np.asarray(self.total, vector.dtype)

    def sum_over(self, totals: Iterable[Tensor]) -> np.ndarray:
        """The sum over batches, of flat vectors."""
        return backend.fetch(functools.reduce(lambda a, b: a + b, totals))

    def flatten(self, arrays: Sequence[Any]) -> np.ndarray:
        """Arrays like the weights, variables too, as a vector, with zeros where the
        weights are pruned.

        Raises:
            ValueError: they are not of the weights' shapes.
        """
        weights = self.weights
        if len(arrays) != len(weights):
            raise ValueError(
                "there must be one array for each trainable weight, of which the model "
                f"has {len(weights)}. Received: {len(arrays):,}"
            )
        parts = [np.asarray(ops.convert_to_numpy(array)) for array in arrays]
        for weight, part in zip(weights, parts, strict=True):
            if part.shape != tuple(weight.shape):
                raise ValueError(
                    "there must be one array for each trainable weight, of its shape: "
                    f"{tuple(weight.shape)} of {weight.path}. Received: {part.shape}"
                )
        return self.keep(np.concatenate([np.ravel(part) for part in parts]))

    def keep(self, vector: np.ndarray) -> np.ndarray:
        """A vector of the right type, with zeros where the weights are pruned."""
        vector = np.array(vector, self.dtype)
        masks = Masks(self.weights).to_arrays(self.weights)
        start = 0
        for number, weight in enumerate(self.weights):
            end = start + int(np.prod(weight.shape))
            if number in masks:
                vector[start:end] *= np.ravel(masks[number])
            start = end
        return vector

    def to_tensor(self, vector: np.ndarray | None) -> Tensor:
        """A vector on the device, zeros for None."""
        if vector is None:
            return ops.zeros(self.size, self.dtype)
        return ops.convert_to_tensor(vector, self.dtype)

    def each_batch(self) -> list[Self]:
        """The loss on each of the batches alone."""
        parts: list[Self] = []
        for batch in self.batches:
            part = copy.copy(self)
            part.batches, part.num_examples = [batch], _count(batch)
            part.total = self._find_amount(batch)
            parts.append(part)
        return parts

    def split(self, size: int) -> Self:
        """The same in batches of at most that many examples."""
        parts = copy.copy(self)
        parts.batches, parts.batch_size = _split(self.batches, size), size
        return parts

    def on(self, data: Batch | Iterable[Batch], batch_size: int | None = None) -> Self:
        """The same on other data, with what is compiled so far; their arrays are like
        these.

        Args:
            data, batch_size: as of the class; None (default): the same.
        """
        other = copy.copy(self)
        other.batch_size = batch_size or self.batch_size
        other.batches = _split(data, other.batch_size)
        other.num_examples = sum(map(_count, other.batches))
        other.total = sum(map(other._find_amount, other.batches))
        return other

    def run(self, program: Program, batch: Batch, *arguments: Tensor) -> Any:
        """What a function (loss, point, batch, tensors ...) gives, compiled once."""
        if program not in self._programs:
            self._programs[program] = self._compile(program)
        with self._measuring():
            return self._programs[program](batch, *arguments)

    def total_at(self, point: Point, batch: Batch) -> Callable[[list[Tensor]], Tensor]:
        """weights -> the sum of the losses of a batch's examples."""

        def total(weights: list[Tensor]) -> Tensor:
            loss, _, _ = point.objective.evaluate(weights, point.state, batch)
            return self.sum_of(loss, batch)

        return total

    def sum_of(self, loss: Tensor, batch: Batch) -> Tensor:
        """The sum over a batch's examples, of its loss or a part of it."""
        if self._reduction == "sum":
            return loss
        return loss * ops.cast(self._find_amount(batch), loss.dtype)

    def outputs_at(
        self, point: Point, batch: Batch
    ) -> Callable[[list[Tensor]], Tensor]:
        """weights -> the model's outputs, [example, number], those of several outputs
        one after the other."""

        def call(weights: list[Tensor]) -> Tensor:
            y_pred = self.predict_at(point, batch, weights)
            parts: list[Tensor] = []
            for y in keras.tree.flatten(y_pred):
                shape: tuple[int, ...] = tuple(y.shape[1:])
                parts.append(ops.reshape(y, (ops.shape(y)[0], int(np.prod(shape)))))
            return ops.concatenate(parts, axis=1)

        return call

    def predict_at(self, point: Point, batch: Batch, weights: list[Tensor]) -> Any:
        """The model's outputs."""
        return point.objective.evaluate(weights, point.state, batch)[1]

    def loss_of(self, y_pred: Tensor, batch: Batch) -> Tensor:
        """The loss of predictions."""
        x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        return self.model.compute_loss(
            x=x,
            y=y,
            y_pred=y_pred,
            sample_weight=sample_weight,
            **_in_inference(self.model.compute_loss),
        )

    def _build(self) -> None:
        """Makes what model and loss make when they are first called, and looks whether
        they can be measured. Nothing is computed on JAX."""
        first = _take(self.batches[0], 0, 1)
        with Scope(), self._measuring():
            _, loss = backend.trace(self._forward, first)
        is_own = type(self.model).compute_loss is not keras.Model.compute_loss
        if self.model.loss is None and not self.model.losses and not is_own:
            raise ValueError("compile the model with its loss before it is measured")
        if len(loss.shape):
            raise ValueError(
                f"the loss must be a number. Received one of shape {tuple(loss.shape)}"
            )
        narrow = [w.path for w in self.weights if "16" in w.dtype]
        if narrow:
            raise ValueError(
                "weights must be of float32 or float64: give a float32 copy of the "
                f"model. Received: {narrow[0]}, of 16 bits"
            )
        if not self.weights:
            raise ValueError("the model has no trainable weights")
        raw: list[keras.Variable] = []

        def differentiate() -> Tensor:
            point = self._find_point()
            found = point.objective.differentiate(point.weights, point.state, first, [])
            raw.extend([] if found.raw is None else [found.raw])
            return found.loss

        with self._measuring():
            backend.trace(differentiate)
        if raw and raw[0].trainable:
            raise ValueError(
                "the model must read its weights through keras. Received: "
                f"{raw[0].path}, which is read past it, as by a TFSMLayer"
            )

    def _forward(self, batch: Batch) -> tuple[Any, Tensor]:
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        y_pred = self.model(x, **_in_inference(self.model.call))
        return y_pred, self.loss_of(y_pred, batch)

    def _compile(self, program: Program) -> Callable[..., Any]:
        def compute(batch: Batch, *arguments: Tensor) -> Any:
            return program(self, self._find_point(), batch, *arguments)

        def find_variables() -> list[keras.Variable]:
            state = self.model.non_trainable_variables
            return [*self.weights, *state, *Masks(self.weights).variables]

        return backend.compile_reading(compute, find_variables)

    def _find_point(self) -> Point:
        objective = Objective(
            self._forward,
            self.weights,
            self.model.non_trainable_variables,
            False,
            ops.ones(()),
        )
        values = backend.values_of(objective.weights)
        return Point(objective, values, pairs_of(objective.state))

    def _find_amount(self, batch: Batch) -> Any:
        """How many examples a batch's loss is a mean over, or their weight."""
        _, _, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
        if self._reduction == WEIGHTED and sample_weight is not None:
            return ops.sum(sample_weight)
        return _count(batch)

    @contextlib.contextmanager
    def _measuring(self) -> Generator[None]:
        with (
            unrounded(self.model),
            backend.full_precision(),
            backend.explain_derivatives(),
        ):
            yield


def _evaluate(loss: DataLoss, point: Point, batch: Batch, offset: Tensor) -> Tensor:
    return loss.total_at(point, batch)(point.shifted(offset).weights)


def _differentiate(
    loss: DataLoss, point: Point, batch: Batch, offset: Tensor
) -> tuple[Tensor, Tensor]:
    weights = point.shifted(offset).weights
    found = point.objective.differentiate(weights, point.state, batch, [])
    gradient = point.flatten(found.gradients)
    return loss.sum_of(found.loss, batch), loss.sum_of(gradient, batch)


def _multiply(loss: DataLoss, point: Point, batch: Batch, vector: Tensor) -> Tensor:
    total, vectors = loss.total_at(point, batch), point.spread(vector)
    return point.flatten(backend.hessian_product(total, point.weights, vectors))


def prepare(
    model: keras.Model, data: Batch | Iterable[Batch] | DataLoss, batch_size: int
) -> DataLoss:
    """Data as a DataLoss, which may be one already.

    Raises:
        ValueError: it is another model's.
    """
    if not isinstance(data, DataLoss):
        return DataLoss(model, data, batch_size)
    if data.model is not model:
        raise ValueError("the DataLoss must be of the model that is measured")
    return data


def check_count(value: Any, name: str, least: int = 1) -> None:
    """Refuses what is no whole number of at least `least`."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not is_whole or value < least:
        raise ValueError(f"{name} must be an integer >= {least}. Received: {value!r}")


def _in_inference(function: Callable[..., Any]) -> dict[str, bool]:
    """The argument that says so, where a function takes one."""
    parameters = inspect.signature(function).parameters
    return {"training": False} if "training" in parameters else {}


def _find_reduction(model: keras.Model) -> str:
    losses: list[Any] = keras.tree.flatten(model.loss)
    found: set[str] = {getattr(loss, "reduction", None) or MEAN for loss in losses}
    found = {MEAN if kind == "mean" else kind for kind in found}
    known = {MEAN, "sum", WEIGHTED}
    if len(found) > 1 or not found <= known:
        raise ValueError(
            "the loss must be a mean over examples, or all losses their sums. "
            f"Received losses with reduction={', '.join(sorted(found))}"
        )
    return next(iter(found), MEAN)


def _split(data: Batch | Iterable[Batch], batch_size: int) -> list[Batch]:
    """Batches of tensors, of at most that many examples."""
    check_count(batch_size, "batch_size")
    if hasattr(data, "shape"):
        raise ValueError(
            "data must be arrays (x, y) or an iterable of such batches. Received: one "
            "array"
        )
    batches: Iterable[Any] = [data] if isinstance(data, tuple) else data
    parts: list[Batch] = []
    for batch in batches:
        given = cast(tuple[Any, ...], batch if isinstance(batch, tuple) else (batch,))
        whole = tuple(part for part in given if part is not None)
        arrays = keras.tree.flatten(whole)
        if not all(hasattr(array, "shape") for array in arrays):
            raise ValueError("x, y and sample_weight must be arrays. Received: a list")
        sizes = {len(array) for array in arrays}
        if len(sizes) != 1:
            raise ValueError(
                "all arrays must have the same number of examples. "
                f"Received: {sorted(sizes)}"
            )
        starts = range(0, sizes.pop(), batch_size)
        parts += [_take(whole, start, start + batch_size) for start in starts]
    if not parts:
        raise ValueError("there must be data to measure. Received no examples")
    return parts


def _take(batch: Batch, start: int, end: int) -> Batch:
    """Some examples of a batch, as tensors."""

    def take(array: Any) -> Tensor:
        return ops.convert_to_tensor(array[start:end])

    return keras.tree.map_structure(take, batch)


def _count(batch: Batch) -> Any:
    """The number of a batch's examples."""
    return ops.shape(keras.tree.flatten(batch)[0])[0]


def _to_float64(numbers: Sequence[Tensor]) -> np.ndarray:
    return np.asarray([np.asarray(n, "float64") for n in backend.fetch([*numbers])])
