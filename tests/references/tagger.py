"""The transformer of Flax's example nlp_seq (examples/nlp_seq/models.py).

Pre-LayerNorm blocks on embedded words with fixed sinusoidal positions; attention
without biases; ELU. The example attends to padding too. Here nothing does, so that each
sentence is what the example makes of it alone.
"""

import jax
import jax.numpy as jnp
import numpy as np

from tests.references import Array, Weights
from tests.references.layers import (
    Dropout,
    block_names,
    cross_entropies,
    dense,
    keep,
    layer_norm,
)

DROPOUT = 0.3


def logits(weights: Weights, words: Array, dropout: Dropout = keep) -> Array:
    """int[sentence, word], 0 where padded, to [sentence, word, tag]."""
    is_word = (words != 0)[:, None, None, :]
    x = dropout(weights["words_embedding/embeddings"][words], DROPOUT)
    x += positions(*x.shape[1:]).astype(x.dtype)
    for name in block_names(weights):
        y = layer_norm(x, weights, f"{name}_norm1")
        y = _attend(y, is_word, weights, f"{name}_attention", dropout)
        x += dropout(y, DROPOUT)
        y = layer_norm(x, weights, f"{name}_norm2")
        y = dropout(jax.nn.elu(dense(y, weights, f"{name}_mlp_in")), DROPOUT)
        x += dropout(dense(y, weights, f"{name}_mlp_out"), DROPOUT)
    return dense(layer_norm(x, weights, "norm"), weights, "outputs")


def positions(length: int, size: int) -> np.ndarray:
    """Sines at even places, cosines at odd ones: float64[word, feature]."""
    rates = 1e-4 ** (2 * (np.arange(size) // 2) / size)
    angles = np.arange(length)[:, np.newaxis] * rates
    return np.where(np.arange(size) % 2, np.cos(angles), np.sin(angles))


def _attend(
    x: Array, is_word: Array, weights: Weights, name: str, dropout: Dropout
) -> Array:
    query, key, value = (
        jnp.einsum("bth,hnd->btnd", x, weights[f"{name}/{part}/kernel"])
        for part in ("query", "key", "value")
    )
    scores = jnp.einsum("bqnd,bknd->bnqk", query / query.shape[-1] ** 0.5, key)
    attention = jax.nn.softmax(jnp.where(is_word, scores, -1e9))
    x = jnp.einsum("bnqk,bknd->bqnd", dropout(attention, DROPOUT), value)
    kernel = weights[f"{name}/attention_output/kernel"]
    return jnp.einsum("btnd,ndh->bth", x, kernel)


def loss(
    weights: Weights,
    words: Array,
    tags: Array,
    sample_weight: Array,
    dropout: Dropout = keep,
) -> tuple[Array, dict]:
    """The mean over sentences of their weight times the sum over their words; and the
    accuracy of words, weighted too, as numerator and denominator.

    Args:
        tags: int[sentence, word], negative where padded.
    """
    outputs, is_word = logits(weights, words, dropout), tags >= 0
    losses = cross_entropies(outputs, jnp.maximum(tags, 0))
    value = jnp.mean((losses * is_word).sum(-1) * sample_weight)
    hits = ((outputs.argmax(-1) == tags).sum(-1) * sample_weight).sum()
    return value, {"accuracy": (hits, (is_word.sum(-1) * sample_weight).sum())}
