"""Masks: which weights of a model are kept, the others being zero for ever."""

from typing import Any

import keras
import numpy as np
from keras import ops

Tensor = Any


class Masks:
    """Which entries of some of a model's weights are kept.

    A plain object, so that keras does not count the masks among the model's weights.

    Args:
        kept: pairs of a weight and a bool array of its shape, True where it is kept.

    Raises:
        ValueError: an array is not of its weight's shape.
    """

    def __init__(self, kept: list[tuple[keras.Variable, np.ndarray]]):
        self._masks = {}
        for weight, mask in kept:
            if tuple(weight.shape) != np.shape(mask):
                raise ValueError(
                    f"the mask of {weight.path} must have its shape "
                    f"{tuple(weight.shape)}. Received: {np.shape(mask)}"
                )
            # Variables, so that a compiled step takes them as inputs, not constants.
            # Keras' variables do not hash, so they are told apart by identity.
            variable = keras.Variable(np.asarray(mask, "bool"), False, dtype="bool")
            self._masks[id(weight)] = (weight, variable)

    @property
    def variables(self) -> list[keras.Variable]:
        """The masks, bool variables of their weights' shapes."""
        return [mask for _, mask in self._masks.values()]

    @property
    def num_pruned(self) -> int:
        """Number of entries that are not kept."""
        masks = map(ops.convert_to_numpy, self.variables)
        return sum(int(mask.size - np.count_nonzero(mask)) for mask in masks)

    def of(self, weight: keras.Variable) -> keras.Variable | None:
        """The mask of a weight, or None where all of it is kept."""
        return self._masks.get(id(weight), (weight, None))[1]

    def to_arrays(self, weights: list[keras.Variable]) -> dict[int, np.ndarray]:
        """The masks on the host, each under its weight's place in `weights`: copies."""
        masks = enumerate(map(self.of, weights))
        return {i: np.array(mask) for i, mask in masks if mask is not None}

    def apply(
        self, weights: list[keras.Variable], tensors: list[Tensor]
    ) -> list[Tensor]:
        """Zero in place of the entries of `tensors` whose `weights` are pruned."""
        return [
            tensor if mask is None else _where(mask, tensor)
            for mask, tensor in zip(map(self.of, weights), tensors, strict=True)
        ]

    def zero_weights(self) -> None:
        """Sets the pruned entries of the weights themselves to zero."""
        for weight, mask in self._masks.values():
            weight.assign(_where(mask, weight))


def _where(mask: keras.Variable, tensor: Tensor) -> Tensor:
    mask, tensor = ops.convert_to_tensor(mask), ops.convert_to_tensor(tensor)
    # A choice, not a product: NaN times zero would be NaN.
    return ops.where(mask, tensor, ops.zeros_like(tensor))
