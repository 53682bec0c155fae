"""A transformer that tags words (Flax's nlp_seq example)."""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import layers, ops

from samkeras.data.sequences import PAD
from samkeras.model import SAMModel
from samkeras.models.common import WordDropout, output_dtype, scale_width
from samkeras.models.normalization import LayerNorm
from samkeras.quiet import silence_native_stderr

Tensor = Any

HIDDEN, HEAD, DEPTH, DROPOUT = 512, 64, 6, 0.3


def build_tagger(
    vocabulary_size: int,
    num_outputs: int,
    width_mult: float = 1.0,
    *,
    depth: int | None = None,
    dropout: float = DROPOUT,
    word_dropout: float = 0.0,
    word_counts: Sequence[int] | None = None,
) -> SAMModel:
    """A pre-LayerNorm encoder over the words of a sentence, with fixed sinusoidal
    positions and a tag for each word. Unlike the example's, it pays no attention to
    padding, has no ROOT token, and biases that start at 0, not at N(0, 1e-6).

    Of keras-hub it takes SinePositionEncoding. Its TransformerEncoder has biases in the
    attention, which this block has not, so the block is built of keras' own layers.

    Args:
        vocabulary_size: words that have an id, padding and unknown ones included.
        num_outputs: number of tags, not scaled.
        width_mult: factor of the hidden size, 512. The MLP, four times as wide, and the
            number of heads, one for 64 of it, scale with it.
        depth: number of encoder blocks. None (default): 6.
        dropout: rate, of words and of the attention's weights, too. Default 0.3.
        word_dropout: with probability word_dropout / (word_dropout + count) a word is
            unknown in training, see `WordDropout`. Default 0, as in the paper.
        word_counts: how often the training set has each word, by its id.

    Returns:
        An uncompiled SAMModel from ids, int32[sentence, word], 0 at the end as padding,
        to logits, float32[sentence, word, tag].
    """
    # It imports TensorFlow, which takes seconds and logs what concerns no user.
    with silence_native_stderr():
        from keras_hub.layers import SinePositionEncoding

    hidden = scale_width(HIDDEN, width_mult)
    words = keras.Input((None,), dtype="int32", name="words")
    is_word = IsWord(name="is_word")(words)
    x = words
    if word_dropout:
        x = WordDropout(word_dropout, word_counts, name="word_dropout")(x)
    x = layers.Embedding(
        vocabulary_size,
        hidden,
        embeddings_initializer=keras.initializers.RandomNormal(stddev=hidden**-0.5),
        name="words_embedding",
    )(x)
    # Positions are never dropped.
    positions = SinePositionEncoding(name="positions")(x)
    x = layers.add([layers.Dropout(dropout)(x), positions])
    for number in range(1, (depth or DEPTH) + 1):
        x = _encoder_block(x, is_word, hidden, dropout, f"block{number}")
    x = LayerNorm(name="norm")(x)
    outputs = layers.Dense(num_outputs, dtype=output_dtype(), name="outputs")(x)
    return SAMModel(words, outputs)


@keras.saving.register_keras_serializable(package="samkeras")
class IsWord(layers.Layer):
    """Where ids are no padding, as attention takes it: bool[sentence, 1, word]."""

    def call(self, words):
        return ops.expand_dims(ops.not_equal(words, PAD), 1)


def _encoder_block(
    x: Tensor, is_word: Tensor, hidden: int, dropout: float, name: str
) -> Tensor:
    num_heads = max(1, hidden // HEAD)
    # Xavier-uniform from the hidden size to itself, which keras' own initializer does
    # not see in a kernel of three axes.
    limit = math.sqrt(3 / hidden)
    y = LayerNorm(name=f"{name}_norm1")(x)
    y = layers.MultiHeadAttention(
        num_heads,
        hidden // num_heads,
        dropout=dropout,
        use_bias=False,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        name=f"{name}_attention",
    )(y, y, attention_mask=is_word)
    x = layers.add([x, layers.Dropout(dropout)(y)])
    y = LayerNorm(name=f"{name}_norm2")(x)
    y = layers.Dense(4 * hidden, "elu", name=f"{name}_mlp_in")(y)
    y = layers.Dropout(dropout)(y)
    y = layers.Dense(hidden, name=f"{name}_mlp_out")(y)
    return layers.add([x, layers.Dropout(dropout)(y)])
