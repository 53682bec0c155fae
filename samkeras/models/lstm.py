"""A bidirectional LSTM with attention, the classifier of Flax's example sst2."""

from typing import Any

import keras
from keras import layers, ops

from samkeras.model import SAMModel
from samkeras.models.common import WordDropout, output_dtype, scale_width

Tensor = Any

HIDDEN, EMBEDDING = 256, 300
DROPOUT, WORD_DROPOUT = 0.5, 0.1
# The scores of padding, of weight 0; not -inf, whose gradient may be NaN.
MASKED = -1e9


def build_lstm(
    vocabulary_size: int,
    num_outputs: int = 1,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    dropout: float = DROPOUT,
) -> SAMModel:
    """A classifier of sentences: embedded words, an LSTM in both directions, attention
    over its outputs and a tanh layer.

    Widths, and the dropout of words and of the embedding, are the paper's. Where it is
    silent, this is Flax's example sst2: dropout of the LSTM's outputs, of their sum and
    of the last hidden layer, one bias a gate, none in the attention, all initializers.

    Args:
        vocabulary_size: number of ids, with those of padding and of unknown words.
        num_outputs: number of outputs, not scaled.
        width_mult: factor of all hidden sizes, 256, and of the embedding's, 300.
        depth: number of LSTMs on top of each other. None (default): 1.
        dropout: rate, of words apart. Default 0.5.

    Returns:
        An uncompiled SAMModel from int[batch, token], the ids of words and then 0 for
        padding, to logits, which padding does not change.
    """
    hidden = scale_width(HIDDEN, width_mult)
    inputs = keras.Input((None,), dtype="int32")
    x = WordDropout(WORD_DROPOUT, name="word_dropout")(inputs)
    x = layers.Embedding(
        vocabulary_size,
        scale_width(EMBEDDING, hidden / HIDDEN),
        embeddings_initializer=keras.initializers.RandomNormal(stddev=0.1),
        mask_zero=True,
        name="embedding",
    )(x)
    x = layers.Dropout(dropout, name="embedding_dropout")(x)
    for number in range(1, (depth or 1) + 1):
        # On CPU as fast as one scan over both directions with the inputs projected
        # before it, and TensorFlow has cuDNN behind it.
        lstm = layers.LSTM(
            hidden,
            kernel_initializer="lecun_normal",
            recurrent_initializer=orthogonal_gates,
            unit_forget_bias=False,
            return_sequences=True,
        )
        x = layers.Bidirectional(lstm, name=f"lstm{number}")(x)
        x = layers.Dropout(dropout, name=f"lstm{number}_dropout")(x)
    x = AttentionPooling(hidden, name="attention")(x)
    x = layers.Dropout(dropout, name="attention_dropout")(x)
    x = layers.Dense(hidden, "tanh", kernel_initializer="lecun_normal", name="hidden")(
        x
    )
    x = layers.Dropout(dropout, name="hidden_dropout")(x)
    outputs = layers.Dense(
        num_outputs,
        use_bias=False,
        kernel_initializer="lecun_normal",
        dtype=output_dtype(),
        name="outputs",
    )(x)
    return SAMModel(inputs, outputs)


@keras.saving.register_keras_serializable(package="samkeras")
def orthogonal_gates(shape: tuple[int, int], dtype: str | None = None) -> Tensor:
    """Orthogonal matrices side by side, one a gate, as Flax's cells start with."""
    units, width = shape
    gates = [
        keras.initializers.Orthogonal()((units, units), dtype)
        for _ in range(width // units)
    ]
    return ops.concatenate(gates, axis=1)


@keras.saving.register_keras_serializable(package="samkeras")
class AttentionPooling(layers.Layer):
    """Sums tokens by weights that a small network gives each of them by itself:
    float[batch, token, feature] to float[batch, feature].

    Args:
        units: hidden units of that network.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.supports_masking = True

    def build(self, input_shape):
        shapes = {"keys": (input_shape[-1], self.units), "energy": (self.units, 1)}
        self.keys_kernel, self.energy_kernel = (
            self.add_weight(
                shape=shape, initializer="lecun_normal", name=f"{name}_kernel"
            )
            for name, shape in shapes.items()
        )

    def call(self, x, mask=None):
        energies = ops.tanh(ops.matmul(x, self.keys_kernel))
        scores = ops.matmul(energies, self.energy_kernel)
        scores = ops.cast(scores, keras.backend.result_type(scores.dtype, "float32"))
        if mask is not None:
            scores = ops.where(mask[..., None], scores, MASKED)
        weights = ops.cast(ops.softmax(scores, axis=1), x.dtype)
        return ops.sum(weights * x, axis=1)

    def compute_mask(self, inputs, previous_mask):
        return None  # there are no tokens any more

    def compute_output_spec(self, x, mask=None):
        return keras.KerasTensor((x.shape[0], x.shape[-1]), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
