"""The classifier of Flax's example sst2 (examples/sst2/models.py).

An LSTM ahead and one from the last word back, so that padding is never read; attention
by keys alone over their outputs; a tanh layer and an output without a bias. Gates are
in the order input, forget, candidate, output.
"""

import numpy as np

from tests.references import Weights
from tests.references.layers import dense


def logits(weights: Weights, words: np.ndarray) -> np.ndarray:
    """One sentence, int[word], to float64[output]."""
    x = weights["embedding/embeddings"][words]
    ahead = _run(x, weights, "lstm1/forward_lstm/lstm_cell")
    back = _run(x[::-1], weights, "lstm1/backward_lstm/lstm_cell")[::-1]
    x = np.concatenate([ahead, back], axis=1)
    energies = np.tanh(x @ weights["attention/keys_kernel"])
    scores = np.exp(energies @ weights["attention/energy_kernel"])
    context = np.sum(scores * x, axis=0) / scores.sum()
    return dense(np.tanh(dense(context, weights, "hidden")), weights, "outputs")


def _run(x: np.ndarray, weights: Weights, cell: str) -> np.ndarray:
    """An LSTM over one sentence: float64[word, unit]."""
    kernel, recurrent_kernel, bias = (
        weights[f"{cell}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")
    )
    h = c = np.zeros(len(recurrent_kernel))
    outputs = []
    for word in x:
        i, f, g, o = np.split(word @ kernel + h @ recurrent_kernel + bias, 4)
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
        outputs.append(h)
    return np.array(outputs)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
