"""Masks: which weights of a model are kept, the others being zero for ever."""

import contextlib
from collections.abc import Callable, Generator, Iterable
from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


class Mask(keras.constraints.Constraint):
    """Which entries of one weight are kept.

    The constraint of its weight, so that every keras optimizer holds it, in whatever
    model the weight is trained.

    Args:
        kept: bool array of the weight's shape, True where it is kept.
        constraint: the weight's own, which is applied first; None if there is none.
    """

    def __init__(
        self, kept: np.ndarray, constraint: Callable[[Tensor], Tensor] | None = None
    ):
        # A variable, so that a compiled step takes it as an input, not a constant.
        self.kept = keras.Variable(np.asarray(kept, "bool"), False, dtype="bool")
        self.constraint = constraint

    def __call__(self, weight: Tensor) -> Tensor:
        if self.constraint is not None:
            weight = self.constraint(weight)
        return self.apply(weight)

    def apply(self, tensor: Tensor) -> Tensor:
        """Zero in place of the entries that are not kept."""
        kept, tensor = ops.convert_to_tensor(self.kept), ops.convert_to_tensor(tensor)
        # A choice, not a product: NaN times zero would be NaN.
        return ops.where(kept, tensor, ops.zeros_like(tensor))


class Masks:
    """The masks of those of some weights that have one."""

    def __init__(self, weights: Iterable[keras.Variable]):
        self._pruned = [w for w in weights if _mask_of(w) is not None]

    def __bool__(self) -> bool:
        return bool(self._pruned)

    @property
    def variables(self) -> list[keras.Variable]:
        """The masks, bool variables of their weights' shapes."""
        return [weight.constraint.kept for weight in self._pruned]

    @property
    def num_pruned(self) -> int:
        """Number of entries that are not kept."""
        masks = map(ops.convert_to_numpy, self.variables)
        return sum(int(mask.size - np.count_nonzero(mask)) for mask in masks)

    def of(self, weight: keras.Variable) -> keras.Variable | None:
        """The mask of a weight, or None where all of it is kept."""
        mask = _mask_of(weight)
        return None if mask is None else mask.kept

    def to_arrays(self, weights: list[keras.Variable]) -> dict[int, np.ndarray]:
        """The masks on the host, each under its weight's place in `weights`: copies."""
        masks = enumerate(map(self.of, weights))
        return {i: np.array(mask) for i, mask in masks if mask is not None}

    def apply(
        self, weights: list[keras.Variable], tensors: list[Tensor]
    ) -> list[Tensor]:
        """Zero in place of the entries of `tensors` whose `weights` are pruned."""
        return [
            tensor if mask is None else mask.apply(tensor)
            for mask, tensor in zip(map(_mask_of, weights), tensors, strict=True)
        ]

    def zero_weights(self) -> None:
        """Sets the pruned entries of the weights themselves to zero."""
        for weight in self._pruned:
            weight.assign(weight.constraint.apply(weight))

    @contextlib.contextmanager
    def lifted(self) -> Generator[None]:
        """Leaves the weights their own constraints alone."""
        masks = [weight.constraint for weight in self._pruned]
        for weight, mask in zip(self._pruned, masks, strict=True):
            weight.constraint = mask.constraint
        try:
            yield
        finally:
            for weight, mask in zip(self._pruned, masks, strict=True):
                weight.constraint = mask


def set_masks(
    weights: list[keras.Variable], kept: list[tuple[keras.Variable, np.ndarray]]
) -> None:
    """Gives weights their masks, and sets what is not kept to zero.

    Args:
        weights: those without a pair are kept whole.
        kept: pairs of one of them and a bool array of its shape, True where it is kept.

    Raises:
        ValueError: an array is not of its weight's shape, or there is no such weight.
    """
    known = set(map(id, weights))
    for weight, mask in kept:
        if id(weight) not in known:
            raise ValueError(
                f"a mask must be of a weight of the model. Received: {weight}"
            )
        if tuple(weight.shape) != np.shape(mask):
            raise ValueError(
                f"the mask of {weight.path} must have its shape "
                f"{tuple(weight.shape)}. Received: {np.shape(mask)}"
            )
    # Keras' variables do not hash, so they are told apart by identity.
    masks = {id(weight): mask for weight, mask in kept}
    for weight in weights:
        _set_mask(weight, masks.get(id(weight)))
    Masks(weights).zero_weights()


def copy_masks(layer: keras.layers.Layer, clone: keras.layers.Layer) -> None:
    """Gives a layer's clone its masks."""
    masks = Masks(layer.weights).to_arrays(layer.weights)
    if masks:
        weights = clone.weights
        set_masks(weights, [(weights[i], mask) for i, mask in masks.items()])


def _mask_of(weight: keras.Variable) -> Mask | None:
    constraint = getattr(weight, "constraint", None)
    return constraint if isinstance(constraint, Mask) else None


def _set_mask(weight: keras.Variable, kept: np.ndarray | None) -> None:
    mask = _mask_of(weight)
    if mask is not None and kept is not None:
        mask.kept.assign(np.asarray(kept, "bool"))  # without compiling anew
    elif mask is not None:
        weight.constraint = mask.constraint
    elif kept is not None:
        weight.constraint = Mask(kept, weight.constraint)
