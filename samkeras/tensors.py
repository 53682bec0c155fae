"""Lists of tensors as one vector, one tensor per weight."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any
NORM_FLOOR = 1e-30  # for gradients of zero; small ones near a minimum stay above it


def widest(tensors: list[Tensor]) -> str:
    """The type to compute numbers of all tensors in: float64 if one of them is, else
    float32, since half-precision squares overflow."""
    dtypes = (keras.backend.standardize_dtype(tensor.dtype) for tensor in tensors)
    return "float64" if "float64" in dtypes else "float32"


def dot(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """The inner product of two vectors: a scalar of the `widest` type."""
    dtype = widest([*left, *right])
    products = (
        ops.sum(ops.cast(a, dtype) * ops.cast(b, dtype))
        for a, b in zip(left, right, strict=True)
    )
    return sum(products)


def global_norm(tensors: list[Tensor]) -> Tensor:
    """The L2 norm of a vector: a scalar of the `widest` type."""
    return ops.sqrt(dot(tensors, tensors))


def add(left: list[Tensor], right: list[Tensor]) -> list[Tensor]:
    """The sum of two vectors."""
    return [a + b for a, b in zip(left, right, strict=True)]


def scale(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    """A vector times a number; each tensor keeps its type."""
    return [tensor * ops.cast(factor, tensor.dtype) for tensor in tensors]


def are_finite(tensors: list[Tensor]) -> Tensor:
    """Whether a vector has neither infinities nor NaN: bool scalar."""
    return ops.all(ops.stack([ops.all(ops.isfinite(t)) for t in tensors]))


def map_floats(function: Callable[..., Tensor], tree: Any, *others: Any) -> Any:
    """Maps the floating point leaves; integers, such as seeds, are the first tree's."""

    def apply(leaf: Tensor, *more: Tensor) -> Tensor:
        is_float = "float" in keras.backend.standardize_dtype(leaf.dtype)
        return function(leaf, *more) if is_float else leaf

    return keras.tree.map_structure(apply, tree, *others)
