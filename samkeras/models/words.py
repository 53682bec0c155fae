"""What models of sentences share."""

import keras
from keras import layers, ops

from samkeras.data.sequences import PAD, UNKNOWN


@keras.saving.register_keras_serializable(package="samkeras")
class WordDropout(layers.Layer):
    """Makes some words unknown in training: int[batch, token] to the same.

    A sentence without words becomes an unknown word, as cuDNN takes no empty ones;
    batches that devices share are filled up with such sentences.

    Args:
        rate: probability of each word, padding excluded, from 0 to 1.
        seed: seed of the draws. None (default): one of Python's generator.
    """

    def __init__(self, rate: float, seed: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.seed = rate, seed
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.built = True

    def call(self, tokens, training=False):
        first = ops.where(tokens[:, :1] == PAD, UNKNOWN, tokens[:, :1])
        tokens = ops.concatenate([ops.cast(first, tokens.dtype), tokens[:, 1:]], axis=1)
        if not training or self.rate == 0:
            return tokens
        draws = keras.random.uniform(ops.shape(tokens), seed=self.seed_generator)
        is_dropped = ops.logical_and(draws < self.rate, ops.not_equal(tokens, PAD))
        return ops.where(is_dropped, ops.cast(UNKNOWN, tokens.dtype), tokens)

    def compute_output_spec(self, tokens, training=False):
        return keras.KerasTensor(tokens.shape, tokens.dtype)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}
