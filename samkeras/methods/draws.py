"""Random numbers that are functions of a seed and of the step."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from samkeras.hyperparameter import is_integer

Tensor = Any


class Draws:
    """Draws that repeat on the same backend and need nothing saved.

    Args:
        seed: 0 <= seed < 2**32.

    Raises:
        ValueError: `seed` is not such an integer.
    """

    def __init__(self, seed: int):
        if not is_integer(seed) or not 0 <= seed < 2**32:
            raise ValueError(
                f"seed must be an integer >= 0 and < 2**32. Received: seed={seed!r}"
            )
        self.seed = int(seed)
        self._generator = keras.random.SeedGenerator(self.seed)

    def like(
        self, tensors: list[Tensor], step: Tensor, draw: Callable[..., Tensor]
    ) -> list[Tensor]:
        """A tensor of the shape and type of each.

        Args:
            tensors: what they are like.
            step: int scalar; different numbers give different draws.
            draw: of keras.random, such as `normal`.
        """
        # The generator counts its draws in the second word, so a stride of the number
        # of tensors keeps every (step, tensor) apart.
        seed = ops.convert_to_tensor(self.seed, "uint32")
        state = ops.stack([seed, ops.cast(step * len(tensors), "uint32")])
        with keras.StatelessScope(state_mapping=[(self._generator.state, state)]):
            return [
                draw(ops.shape(t), dtype=t.dtype, seed=self._generator) for t in tensors
            ]
