"""The classifier of Flax's example sst2 (examples/sst2/models.py).

An LSTM ahead and one from the last word back, neither of which reads padding; attention
by keys alone over their outputs; a tanh layer and an output without a bias. Gates are
in the order input, forget, candidate, output.
"""

import jax
import jax.numpy as jnp

from tests.references import Array, Weights
from tests.references.layers import Dropout, binary_cross_entropies, dense, keep

PAD, UNKNOWN = 0, 1
WORD_DROPOUT, DROPOUT = 0.1, 0.5


def logits(weights: Weights, words: Array, dropout: Dropout = keep) -> Array:
    """int[sentence, word], 0 where padded, to [sentence]. A sentence without words has
    an unknown one."""
    first = jnp.where(words[:, 0] == PAD, UNKNOWN, words[:, 0])
    words = words.at[:, 0].set(first)
    is_word = words != PAD
    is_kept = dropout(jnp.ones(words.shape), WORD_DROPOUT) > 0
    words = jnp.where(is_word & ~is_kept, UNKNOWN, words)
    x = dropout(weights["embedding/embeddings"][words], DROPOUT).swapaxes(0, 1)
    x = jnp.concatenate(
        [_run(x, is_word.T, weights, way) for way in ("forward", "backward")], -1
    )
    x = dropout(x.swapaxes(0, 1), DROPOUT)
    energies = jnp.tanh(x @ weights["attention/keys_kernel"])
    scores = (energies @ weights["attention/energy_kernel"])[..., 0]
    attention = jax.nn.softmax(jnp.where(is_word, scores, -1e9))
    x = dropout(jnp.einsum("bt,bth->bh", attention, x), DROPOUT)
    x = dropout(jnp.tanh(dense(x, weights, "hidden")), DROPOUT)
    return (x @ weights["outputs/kernel"])[:, 0]


def _run(x: Array, is_word: Array, weights: Weights, way: str) -> Array:
    """An LSTM: [word, sentence, feature] to [word, sentence, unit]. Padding leaves its
    state as it is."""
    cell = f"lstm1/{way}_lstm/lstm_cell"
    recurrent_kernel = weights[f"{cell}/recurrent_kernel"]

    def advance(state, inputs):
        (h, c), (x, is_word) = state, inputs
        z = dense(x, weights, cell) + h @ recurrent_kernel
        i, f, g, o = jnp.split(z, 4, -1)
        new_c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        new_h = jax.nn.sigmoid(o) * jnp.tanh(new_c)
        h, c = jnp.where(is_word, new_h, h), jnp.where(is_word, new_c, c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], len(recurrent_kernel)), x.dtype)
    inputs = (x, is_word[..., None])
    _, h = jax.lax.scan(advance, (zeros, zeros), inputs, reverse=way == "backward")
    return h


def loss(
    weights: Weights,
    words: Array,
    labels: Array,
    sample_weight: Array,
    dropout: Dropout = keep,
) -> tuple[Array, dict]:
    """The mean over sentences, weighted; and the accuracy, weighted too, as numerator
    and denominator."""
    outputs = logits(weights, words, dropout)
    losses = binary_cross_entropies(outputs, labels)
    hits = ((outputs > 0) == labels) * sample_weight
    accuracy = (hits.sum(), sample_weight.sum())
    return jnp.mean(losses * sample_weight), {"accuracy": accuracy}
