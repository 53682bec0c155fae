"""A bidirectional LSTM with attention, the classifier of Flax's example sst2."""

from typing import Any

import keras
from keras import layers, ops

from samkeras.data.sequences import PAD, UNKNOWN
from samkeras.model import SAMModel
from samkeras.models.images import scale_width

Tensor = Any

HIDDEN, EMBEDDING = 256, 300
DROPOUT, WORD_DROPOUT = 0.5, 0.1
# Added to the scores of padding, not -inf: a sentence may be nothing but padding.
MASKED = -1e9


def build_lstm(
    vocabulary_size: int,
    num_outputs: int = 1,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
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
    x = layers.Dropout(DROPOUT, name="embedding_dropout")(x)
    for number in range(1, (depth or 1) + 1):
        x = BidirectionalLSTM(hidden, name=f"lstm{number}")(x)
        x = layers.Dropout(DROPOUT, name=f"lstm{number}_dropout")(x)
    x = AttentionPooling(hidden, name="attention")(x)
    x = layers.Dropout(DROPOUT, name="attention_dropout")(x)
    x = layers.Dense(hidden, "tanh", kernel_initializer="lecun_normal", name="hidden")(
        x
    )
    x = layers.Dropout(DROPOUT, name="hidden_dropout")(x)
    # Logits stay in float32 under mixed precision.
    outputs = layers.Dense(
        num_outputs,
        use_bias=False,
        kernel_initializer="lecun_normal",
        dtype="float32",
        name="outputs",
    )(x)
    return SAMModel(inputs, outputs)


@keras.saving.register_keras_serializable(package="samkeras")
class WordDropout(layers.Layer):
    """Makes some words unknown in training: int[batch, token] to the same.

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
        if not training or self.rate == 0:
            return tokens
        draws = keras.random.uniform(ops.shape(tokens), seed=self.seed_generator)
        is_dropped = ops.logical_and(draws < self.rate, ops.not_equal(tokens, PAD))
        return ops.where(is_dropped, ops.cast(UNKNOWN, tokens.dtype), tokens)

    def compute_output_spec(self, tokens, training=False):
        return keras.KerasTensor(tokens.shape, tokens.dtype)

    def get_config(self):
        return {**super().get_config(), "rate": self.rate, "seed": self.seed}


@keras.saving.register_keras_serializable(package="samkeras")
class BidirectionalLSTM(layers.Layer):
    """An LSTM from the first word to the last and another one back, side by side:
    float[batch, token, feature] to float[batch, token, 2 * units], 0 at padding.

    Faster than keras' own: one scan runs both, on inputs projected all at once.

    Args:
        units: outputs of each direction.
    """

    def __init__(self, units: int, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.supports_masking = True
        # XLA makes TensorFlow's loops ten times slower on CPU, where it can at all.
        self.supports_jit = keras.backend.backend() != "tensorflow"

    def build(self, input_shape):
        directions = ("forward", "backward")
        # Keras' own gates: input, forget, cell, output.
        self.kernels, self.recurrent_kernels, self.biases = (
            [
                self.add_weight(
                    shape=shape, initializer=initializer, name=f"{direction}_{name}"
                )
                for direction in directions
            ]
            for shape, initializer, name in (
                ((input_shape[-1], 4 * self.units), "lecun_normal", "kernel"),
                ((self.units, 4 * self.units), _orthogonal_gates, "recurrent_kernel"),
                ((4 * self.units,), "zeros", "bias"),
            )
        )

    def call(self, x, mask=None):
        x = ops.swapaxes(x, 0, 1)
        is_word = ops.ones(ops.shape(x)[:2]) if mask is None else ops.transpose(mask)
        is_word = ops.cast(is_word, x.dtype)[..., None]
        projected = [
            ops.matmul(x, kernel) + bias
            for kernel, bias in zip(self.kernels, self.biases, strict=True)
        ]
        weights = [ops.convert_to_tensor(k) for k in self.recurrent_kernels]
        # Padding comes first on the way back, where it leaves the state at 0.
        steps = (
            projected[0],
            ops.flip(projected[1], 0),
            is_word,
            ops.flip(is_word, 0),
        )

        def step(state, now):
            (h1, c1, h2, c2), (p1, p2, m1, m2) = state, now
            h1, c1 = _lstm_cell(p1 + ops.matmul(h1, weights[0]), c1, m1)
            h2, c2 = _lstm_cell(p2 + ops.matmul(h2, weights[1]), c2, m2)
            new = (h1, c1, h2, c2)
            return new, new

        zeros = ops.zeros((ops.shape(x)[1], self.units), x.dtype)
        _, (ahead, _, back, _) = ops.scan(step, (zeros,) * 4, steps)
        y = ops.concatenate([ahead, ops.flip(back, 0)], -1)
        return ops.swapaxes(y, 0, 1)

    def compute_output_spec(self, x, mask=None):
        return keras.KerasTensor((*x.shape[:-1], 2 * self.units), self.compute_dtype)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


def _lstm_cell(gates: Tensor, c: Tensor, is_word: Tensor) -> tuple[Tensor, Tensor]:
    """One step of an LSTM, whose state becomes 0 at padding: (output, cell)."""
    i, f, g, o = ops.split(gates, 4, axis=-1)
    c = is_word * (ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g))
    return ops.sigmoid(o) * ops.tanh(c), c


def _orthogonal_gates(shape: tuple[int, int], dtype: str) -> Tensor:
    """Orthogonal matrices side by side, one a gate, as Flax's cells start with."""
    units = shape[0]
    return ops.concatenate(
        [keras.initializers.Orthogonal()((units, units), dtype) for _ in range(4)], 1
    )


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
        scores = ops.cast(ops.matmul(energies, self.energy_kernel), "float32")
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
