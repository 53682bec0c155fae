"""The transformer of Flax's example nlp_seq (examples/nlp_seq/models.py).

Pre-LayerNorm blocks on embedded words with fixed sinusoidal positions; attention
without biases; ELU. It has no attention mask: what a sentence's words are without
padding, they are here.
"""

import numpy as np

from tests.references import Weights
from tests.references.layers import dense, layer_norm


def logits(weights: Weights, words: np.ndarray, num_blocks: int) -> np.ndarray:
    """One sentence, int[word], to float64[word, tag]."""
    x = weights["words_embedding/embeddings"][words]
    x = x + positions(*x.shape)
    for block in range(1, num_blocks + 1):
        name = f"block{block}"
        x = x + _attend(layer_norm(x, weights, f"{name}_norm1"), weights, name)
        y = dense(layer_norm(x, weights, f"{name}_norm2"), weights, f"{name}_mlp_in")
        y = np.where(y > 0, y, np.expm1(np.minimum(y, 0)))
        x = x + dense(y, weights, f"{name}_mlp_out")
    return dense(layer_norm(x, weights, "norm"), weights, "outputs")


def positions(length: int, size: int) -> np.ndarray:
    """Sines at even places, cosines at odd ones: float64[word, feature]."""
    rates = 10_000.0 ** (-np.arange(0, size, 2) / size)
    angles = np.arange(length)[:, np.newaxis] * rates
    return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, size)


def _attend(x: np.ndarray, weights: Weights, name: str) -> np.ndarray:
    query, key, value, out = (
        weights[f"{name}_attention/{part}/kernel"]
        for part in ("query", "key", "value", "attention_output")
    )
    summed = []
    for head in range(query.shape[1]):
        scores = (x @ query[:, head]) @ (x @ key[:, head]).T
        scores = np.exp(scores / np.sqrt(query.shape[2]))
        attention = scores / scores.sum(axis=1, keepdims=True)
        summed.append(attention @ (x @ value[:, head]) @ out[head])
    return np.sum(summed, axis=0)
