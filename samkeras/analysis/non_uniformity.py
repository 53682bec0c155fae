"""How differently the examples' losses are curved (figure 6b of the paper)."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from samkeras.analysis.curvature import Data
from samkeras.analysis.data_loss import (
    DataLoss,
    Measurement,
    Point,
    Program,
    check_count,
    prepare,
)
from samkeras.analysis.lanczos import ROUNDING, Multiply, Pairs, find_largest
from samkeras.backend import backend
from samkeras.errors import nearest
from samkeras.objective import Batch
from samkeras.scope import Scope
from samkeras.tensors import Tensor

METHODS = ("gauss_newton", "hessian")
MOMENTS = (2, 3, 4)
# The most floats that a batch's derivatives of single examples take, and outputs.
MOST_FLOATS, MOST_OUTPUTS = 2**26, 1000


@dataclass(frozen=True, kw_only=True)
class NonUniformity(Measurement):
    """The non-uniformity s_k of the examples' Hessians.

    Attributes:
        value: s_k = eigenvalue^(1/k); NaN where that is negative, see `reason`.
        k: the moment.
        method: "gauss_newton" or "hessian".
        eigenvalue: the largest one of mean H_i^k - H^k.
        residual: within which it has an eigenvalue.
        converged: whether that is small, and likewise those of `sharpness` and of what
            `gap` is of.
        products: how often the matrix was multiplied.
        sharpness: H's largest eigenvalue, by the same method.
        gap: the relative difference of that and the true H's: how wrong the method is.
        reason: why the value is NaN; "" if it is not.
    """

    value: float
    k: int
    method: str
    eigenvalue: float
    residual: float
    converged: bool
    products: int
    sharpness: float
    gap: float
    reason: str


def non_uniformity(
    model: keras.Model,
    data: Data,
    k: int = 2,
    *,
    method: str = "gauss_newton",
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    batch_size: int = 256,
) -> NonUniformity:
    """s_k = lambda_max(mean_i H_i^k - H^k)^(1/k), H_i the Hessian of example i's loss
    and H their mean (theorem 6.3 of the paper; k = 2: Wu et al. 2018).

    "hessian" multiplies with each H_i, k times, and is exact. "gauss_newton", tens of
    times faster, has H_i = J_i'S_i J_i, of the outputs' Jacobian J_i and the loss'
    second derivatives S_i by the outputs, so that with K_i = J_i J_i'

        H_i^k v = J_i' S_i (K_i S_i)^(k-1) J_i v,

    which is the same where the residuals are zero, or the model linear; `gap` says how
    near that is. All scales with the loss: "mse" is a mean over the outputs, too.

    Examples:
        >>> found = samkeras.analysis.non_uniformity(model, (x, y), k=2)
        >>> found.value > 0, found.gap < 1e-3
        (True, True)

    Args:
        model, data, batch_size, seed: see `top_eigenvalues`.
        k: 2, 3 or 4. Of several, `non_uniformities` computes once what they share.
        method: "gauss_newton" or "hessian".
        tolerance: of residuals, relative to eigenvalues.
        max_products: when to end without.

    Returns:
        s_k, with how exact it is.

    Raises:
        ValueError: an argument is out of its range, or an example's loss depends on the
            others of its batch.
    """
    (found,) = non_uniformities(
        model,
        data,
        (k,),
        method=method,
        tolerance=tolerance,
        max_products=max_products,
        seed=seed,
        batch_size=batch_size,
    )
    return found


def non_uniformities(
    model: keras.Model,
    data: Data,
    ks: Sequence[int] = MOMENTS,
    *,
    method: str = "gauss_newton",
    tolerance: float = 1e-3,
    max_products: int = 100,
    seed: int = 0,
    batch_size: int = 256,
) -> list[NonUniformity]:
    """s_k of several k, with one computation of what they share: the Hessian's largest
    eigenvalue and each example's K_i.

    Examples:
        >>> s_2, s_3, s_4 = samkeras.analysis.non_uniformities(model, (x, y))
        >>> s_4.k
        4

    Args:
        ks: each 2, 3 or 4. Default (2, 3, 4).
        model, data, method, tolerance, max_products, seed, batch_size: see
            `non_uniformity`.

    Returns:
        One s_k for each of `ks`.

    Raises:
        ValueError: as `non_uniformity`.
    """
    for k in ks:
        if k not in MOMENTS:
            raise ValueError(f"k must be 2, 3 or 4. Received: {k!r}")
    if method not in METHODS:
        raise ValueError(
            f"method must be one of {', '.join(METHODS)}. "
            f"Received: {method!r}{nearest(str(method), METHODS)}"
        )
    check_count(max_products, "max_products")
    loss = prepare(model, data, batch_size)
    _check_alone(loss)

    def find_top(multiply: Multiply, scale: float = 0.0) -> Pairs:
        generator = np.random.default_rng(seed)
        return find_largest(
            multiply,
            lambda: loss.keep(generator.standard_normal(loss.size)),
            loss.measured["num_weights"],
            1,
            tolerance,
            max_products,
            scale,
        )

    found = find_top(loss.product)
    exact = top = float(found.values[0])
    are_converged = found.converged
    multiply, powers = loss.product, functools.partial(_make_power, loss)
    if method == "gauss_newton":
        powers = _make_gauss_newton(loss)
        multiply = powers(1)
        found = find_top(multiply)
        top = float(found.values[0])
        are_converged &= found.converged
    gap = abs(top - exact) / abs(exact) if exact else 0.0

    def find(k: int) -> NonUniformity:
        power = powers(k)

        def subtract(vector: np.ndarray) -> np.ndarray:
            repeated = vector
            for _ in range(k):
                repeated = multiply(repeated)
            return power(vector) - repeated

        pairs = find_top(subtract, abs(top) ** k)
        eigenvalue = float(pairs.values[0])
        floor = ROUNDING * float(np.finfo(loss.dtype).eps) * abs(top) ** k
        is_negative = eigenvalue < -floor
        return NonUniformity(
            value=np.nan if is_negative else max(eigenvalue, 0.0) ** (1 / k),
            k=k,
            method=method,
            eigenvalue=eigenvalue,
            residual=float(pairs.residuals[0]),
            converged=pairs.converged and are_converged,
            products=pairs.products,
            sharpness=top,
            gap=gap,
            reason=f"mean H_i^{k} - H^{k} has no positive eigenvalue: some examples' "
            "Hessians have negative ones"
            if is_negative
            else "",
            **loss.measured,
        )

    return [find(k) for k in ks]


def _check_alone(loss: DataLoss) -> None:
    """Looks whether each example has a loss of its own."""
    together, alone = backend.fetch(loss.run(_sum_alone, loss.batches[0]))
    if not np.isclose(together, alone, rtol=1e-3, atol=1e-6):
        raise ValueError(
            "the loss of an example must not depend on the others of its batch, as by "
            "BatchNormalization of the batch's own statistics, or a mask. Received a "
            f"batch of {together:g}, whose examples alone have {alone:g}"
        )


def _sum_alone(loss: DataLoss, point: Point, batch: Batch) -> tuple[Tensor, Tensor]:
    def evaluate(example: Any) -> Tensor:
        return loss.total_at(point, _batch_of(example))(point.weights)

    together = loss.total_at(point, batch)(point.weights)
    return together, ops.sum(backend.map_each(evaluate, batch))


def _make_power(loss: DataLoss, k: int) -> Callable[[np.ndarray], np.ndarray]:
    """v -> mean_i H_i^k v."""
    parts = loss.split(min(loss.batch_size, max(1, MOST_FLOATS // loss.size)))
    # The Hessian that a weight of the mean has.
    factor = (loss.num_examples / float(loss.total)) ** (k - 1)

    def multiply(vector: np.ndarray) -> np.ndarray:
        tensor, program = loss.to_tensor(vector), _find_power(k)
        found = loss.mean_of(loss.run(program, b, tensor) for b in parts.batches)
        return found * np.asarray(factor, found.dtype)

    return multiply


@functools.cache
def _find_power(k: int) -> Program:
    """The sum over a batch of H_i^k v."""

    def multiply(loss: DataLoss, point: Point, batch: Batch, vector: Tensor) -> Tensor:
        def repeat(example: Any) -> Tensor:
            total = loss.total_at(point, _batch_of(example))
            vectors = point.spread(vector)
            for _ in range(k):
                product = backend.hessian_product(total, point.weights, vectors)
                vectors = point.objective.mask(product)
            return point.flatten(vectors)

        return ops.sum(backend.map_each(repeat, batch), axis=0)

    return multiply


def _make_gauss_newton(
    loss: DataLoss,
) -> Callable[[int], Callable[[np.ndarray], np.ndarray]]:
    """k -> (v -> mean_i H_i^k v)."""
    outputs = loss.run(_count_outputs, loss.batches[0])
    count = int(backend.fetch(outputs))
    if count > MOST_OUTPUTS:
        raise ValueError(
            f"gauss_newton takes at most {MOST_OUTPUTS} outputs of an example: take "
            f"method='hessian'. Received: {count}"
        )
    parts = loss.split(min(loss.batch_size, max(1, MOST_FLOATS // (count * loss.size))))
    found = [backend.fetch(loss.run(_find_grams, batch)) for batch in parts.batches]
    grams, curvatures = (
        np.concatenate(each).astype("float64") for each in zip(*found, strict=True)
    )
    curvatures *= loss.num_examples / float(loss.total)
    sizes = [part.num_examples for part in loss.each_batch()]

    def make(k: int) -> Callable[[np.ndarray], np.ndarray]:
        inner = curvatures
        for _ in range(k - 1):
            inner = curvatures @ grams @ inner
        batches = [
            (batch, ops.convert_to_tensor(part, loss.dtype))
            for batch, part in zip(
                loss.batches, np.split(inner, np.cumsum(sizes)[:-1]), strict=True
            )
        ]

        def multiply(vector: np.ndarray) -> np.ndarray:
            tensor = loss.to_tensor(vector)
            sums = (loss.run(_sandwich, *batch, tensor) for batch in batches)
            return loss.sum_over(sums) / np.asarray(loss.num_examples, loss.dtype)

        return multiply

    return make


def _count_outputs(loss: DataLoss, point: Point, batch: Batch) -> Tensor:
    outputs = loss.outputs_at(point, batch)(point.weights)
    return ops.convert_to_tensor(outputs.shape[1], "int32")


def _find_grams(loss: DataLoss, point: Point, batch: Batch) -> tuple[Tensor, Tensor]:
    """K_i = J_i J_i' and S_i of each example: [example, output, output]."""
    y_pred = loss.predict_at(point, batch, point.weights)
    if not hasattr(y_pred, "shape"):
        raise ValueError(
            "gauss_newton takes a model of one output: take method='hessian'. "
            f"Received outputs {[*keras.tree.flatten(y_pred)]}"
        )
    shape: tuple[int, ...] = (1, *y_pred.shape[1:])
    rows = ops.eye(int(np.prod(shape)), dtype=point.dtype)

    def find(example: Any) -> tuple[Tensor, Tensor]:
        single = _batch_of(example)
        outputs = loss.outputs_at(point, single)
        y_pred = loss.predict_at(point, single, point.weights)

        def total(y_preds: list[Tensor]) -> Tensor:
            with Scope(collect_losses=True):  # without those that layers add
                return loss.sum_of(loss.loss_of(y_preds[0], single), single)

        def pull(row: Tensor) -> Tensor:
            return _pull_back(point, outputs, row[None])

        def bend(row: Tensor) -> Tensor:
            vector = ops.cast(ops.reshape(row, shape), y_pred.dtype)
            (product,) = backend.hessian_product(total, [y_pred], [vector])
            return ops.reshape(product, (-1,))

        jacobian = backend.map_each(pull, rows)
        curvature = backend.map_each(bend, rows)
        return ops.matmul(jacobian, ops.transpose(jacobian)), curvature

    return backend.map_each(find, batch)


def _sandwich(
    loss: DataLoss, point: Point, batch: Batch, inner: Tensor, vector: Tensor
) -> Tensor:
    """The sum over a batch of J_i'B_i J_i v."""
    outputs = loss.outputs_at(point, batch)
    pushed = backend.push_forward(outputs, point.weights, point.spread(vector))
    weighted = ops.einsum("bij,bj->bi", inner, ops.cast(pushed, point.dtype))
    return _pull_back(point, outputs, weighted)


def _pull_back(
    point: Point, outputs: Callable[[list[Tensor]], Tensor], cotangent: Tensor
) -> Tensor:
    """J'u, flat."""

    def weigh(weights: list[Tensor]) -> tuple[Tensor, tuple[()]]:
        y_pred = outputs(weights)
        return ops.sum(y_pred * ops.cast(cotangent, y_pred.dtype)), ()

    variables = point.objective.weights
    _, gradients, _ = backend.value_and_grad(weigh, point.weights, variables, [])
    return point.flatten(
        [
            ops.zeros_like(w) if g is None else g
            for g, w in zip(gradients, point.weights, strict=True)
        ]
    )


def _batch_of(example: Any) -> Batch:
    """A batch of one example."""

    def expand(array: Tensor) -> Tensor:
        return ops.expand_dims(array, 0)

    return keras.tree.map_structure(expand, example)
