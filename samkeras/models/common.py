"""What models share: scaled widths, the last layer and the dropout of words."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from samkeras.data.sequences import PAD, UNKNOWN

Tensor = Any


def logits(
    features: Tensor,
    num_outputs: int,
    kernel_initializer: str | keras.initializers.Initializer = "lecun_normal",
) -> Tensor:
    """The outputs, in `output_dtype`: [batch, output]."""
    return layers.Dense(
        num_outputs,
        kernel_initializer=kernel_initializer,
        dtype=output_dtype(),
        name="outputs",
    )(features)


def output_dtype() -> str:
    """What a model's outputs are computed in: float32 under mixed precision too, and
    float64 where keras' policy is that."""
    policy = keras.config.dtype_policy()
    return keras.backend.result_type(policy.compute_dtype, "float32")


def scale_width(width: int, width_mult: float) -> int:
    """A width times its multiplier, rounded to a whole number, at least 1."""
    return max(1, round(width * width_mult))


@keras.saving.register_keras_serializable(package="samkeras")
class WordDropout(layers.Layer):
    """Makes some words unknown in training: int[batch, token] to the same.

    A sentence without words becomes an unknown word, as cuDNN takes no empty ones;
    batches that devices share are filled up with such sentences.

    Args:
        rate: probability of each word, padding excluded, from 0 to 1. With `counts`
            at least 0: words are dropped with probability rate / (rate + count), rare
            ones the most (Kiperwasser and Goldberg 2016), as words that are unknown
            later are rare.
        counts: how often the training set has each word, by its id. None (default):
            all words are dropped alike.
        seed: seed of the draws. None (default): one of Python's generator.
    """

    def __init__(
        self,
        rate: float,
        counts: Sequence[int] | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.counts = None if counts is None else list(counts)
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, tokens, training=False):
        first = ops.where(tokens[:, :1] == PAD, UNKNOWN, tokens[:, :1])
        tokens = ops.concatenate([ops.cast(first, tokens.dtype), tokens[:, 1:]], axis=1)
        if not training or self.rate == 0:
            return tokens
        draws = keras.random.uniform(ops.shape(tokens), seed=self.seed_generator)
        rate = self.rate
        if self.counts is not None:
            counts = ops.take(ops.convert_to_tensor(self.counts, "float32"), tokens)
            rate = rate / (rate + counts)
        is_dropped = ops.logical_and(draws < rate, ops.not_equal(tokens, PAD))
        return ops.where(is_dropped, ops.cast(UNKNOWN, tokens.dtype), tokens)

    def compute_output_spec(self, tokens, training=False):
        return keras.KerasTensor(tokens.shape, tokens.dtype)

    def get_config(self):
        config = {"rate": self.rate, "counts": self.counts, "seed": self.seed}
        return {**super().get_config(), **config}
