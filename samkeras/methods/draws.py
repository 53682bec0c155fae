"""Random numbers that are functions of a seed and of the step."""

import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from samkeras.hyperparameter import is_integer

Tensor = Any
GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: places near each other are far apart


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

    def __reduce__(self) -> tuple[type["Draws"], tuple[int]]:
        # keras' generator is not pickled.
        return Draws, (self.seed,)

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

    def choose(
        self, tensors: list[Tensor], step: Tensor, probability: Tensor
    ) -> list[Tensor]:
        """A bool tensor of the shape of each, true with a probability > 0 and <= 1.

        By a hash of the entry's place, which costs a fraction of keras' draws, as many
        as a small model's pass, and is the same on every backend.

        Args:
            tensors: what they are like.
            step: int scalar; different numbers give different draws.
            probability: of each entry, a multiple of 2^-24.
        """
        # Of 24 bits, which float32 holds.
        least = ops.cast(ops.round((1 - probability) * 2**24), "int32")
        found: list[Tensor] = []
        for number, tensor in enumerate(tensors):
            key = ops.cast(step * len(tensors) + number, "uint32")
            key = _mix(key + _mix(ops.convert_to_tensor(self.seed, "uint32")))
            # TensorFlow counts in uint32 with XLA alone.
            places = ops.cast(
                ops.arange(math.prod(tensor.shape), dtype="int32"), "uint32"
            )
            bits = _mix(ops.bitwise_xor(places * _number(GOLDEN), key))
            places = ops.cast(_shifted(bits, 8), "int32")
            found.append(ops.reshape(places >= least, tensor.shape))
        return found


def _mix(bits: Tensor) -> Tensor:
    """MurmurHash3's finalizer: each bit depends on all of uint32."""
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        bits = _fold(bits, shift) * _number(factor)
    return _fold(bits, 16)


def _fold(bits: Tensor, shift: int) -> Tensor:
    return ops.bitwise_xor(bits, _shifted(bits, shift))


def _shifted(bits: Tensor, by: int) -> Tensor:
    return ops.bitwise_right_shift(bits, _number(by))


def _number(value: int) -> Tensor:
    return ops.convert_to_tensor(value, "uint32")
