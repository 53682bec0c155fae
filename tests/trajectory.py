"""Trains fixed cases and saves each step's numbers: the same program on each backend.

    KERAS_BACKEND=jax python -m tests.trajectory FILE.npz

Run by test_backends_agree.py. Initial weights and batches come from NumPy, since the
backends draw different random numbers from the same seed.
"""

import sys

import keras
import numpy as np

import samkeras
from samkeras.data.atari import FRAMES
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.data.sequences import SequenceCollate
from samkeras.losses import PresentBinaryCrossentropy, TokenCrossentropy
from samkeras.models.actor_critic import build_actor_critic
from samkeras.models.gcn import build_gcn
from samkeras.models.lstm import build_lstm
from samkeras.models.tagger import build_tagger
from samkeras.ppo import PPOLoss, Target

NUM_TASK_STEPS = 10
NUM_STEPS, BATCH, FEATURES, CLASSES, WORDS, LENGTH = 20, 16, 5, 3, 11, 4


class TokenModel(samkeras.SAMModel):
    """Subclassed, and perturbed through everything that adds to the loss.

    x: int32[batch, word] -> float32[batch, class].
    """

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(WORDS, 6)
        self.pool = keras.layers.GlobalAveragePooling1D()
        self.hidden = keras.layers.Dense(
            7, "tanh", kernel_regularizer="l2", activity_regularizer="l2"
        )
        self.logits = keras.layers.Dense(CLASSES)

    def call(self, x):
        return self.logits(self.hidden(self.pool(self.embedding(x))))


def build_norm_model(dropout: float) -> samkeras.SAMModel:
    """x: float32[batch, feature] -> float32[batch, class], with BatchNorm."""
    inputs = keras.Input((FEATURES,))
    x = keras.layers.Dense(8)(inputs)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.Activation("tanh")(x)
    x = keras.layers.Dropout(dropout, seed=5)(x)
    return samkeras.SAMModel(inputs, keras.layers.Dense(CLASSES)(x))


def set_numpy_weights(model: keras.Model) -> None:
    """Gives every weight numbers that do not depend on the backend."""
    rng = np.random.default_rng(0)
    values = (0.5 * rng.standard_normal(w.shape) for w in model.weights)
    # Variances must be positive; every other weight may be too.
    model.set_weights([abs(value) + 0.1 for value in values])


def record_steps(model: keras.Model, x: np.ndarray, **kwargs) -> dict:
    """Trains on one batch after another.

    Returns:
        weights: float64[step, number], all of them after each step, and the logged
        means so far, float64[step], under their names.
    """
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), **kwargs
    )
    labels = np.random.default_rng(2).integers(0, CLASSES, len(x))
    rows, logs = [], []
    for start in range(0, len(x), BATCH):
        batch = x[start : start + BATCH], labels[start : start + BATCH]
        logs.append(model.train_on_batch(*batch, return_dict=True))
        weights = [np.ravel(w) for w in model.get_weights()]
        rows.append(np.concatenate(weights).astype("float64"))
    numbers = {name: np.array([log[name] for log in logs]) for name in logs[0]}
    return {"weights": np.stack(rows), **numbers}


def train_norm_model(dropout: float = 0.0) -> dict:
    """SAM, momentum and l2 with BatchNorm."""
    model = build_norm_model(dropout)
    set_numpy_weights(model)
    x = np.random.default_rng(1).standard_normal((NUM_STEPS * BATCH, FEATURES))
    return record_steps(
        model,
        x.astype("float32"),
        optimizer=samkeras.SGD(0.1, momentum=0.9),
        method=samkeras.SAM(0.3),
        l2=0.01,
    )


def train_token_model(method: samkeras.SAM | None) -> dict:
    """A model with an Embedding and regularizers, built before it is compiled."""
    model = TokenModel()
    x = np.random.default_rng(1).integers(0, WORDS, (NUM_STEPS * BATCH, LENGTH))
    model(x[:1])
    set_numpy_weights(model)
    optimizer = samkeras.SGD(0.1, momentum=0.9, nesterov=True)
    return record_steps(model, x, optimizer=optimizer, method=method)


def train_task(build, make_batch, loss, scale: float = 0.3) -> dict:
    """SAM steps of a workload's model without its dropout, on batches of one shape and
    of weights, some of them 0."""
    model = build()
    for layer in model.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    set_numpy_weights(model)
    for weight in model.trainable_variables:
        weight.assign(scale * keras.ops.convert_to_numpy(weight))
    model.compile(samkeras.SGD(0.05), loss, method=samkeras.SAM(0.1))
    rng = np.random.default_rng(4)
    rows, losses = [], []
    for _ in range(NUM_TASK_STEPS):
        x, y, weights = make_batch(rng)
        losses.append(model.train_on_batch(x, y, weights))
        weights = [np.ravel(w) for w in model.get_weights()]
        rows.append(np.concatenate(weights).astype("float64"))
    return {"weights": np.stack(rows), "loss": np.array(losses)}


def sentences(rng: np.random.Generator) -> np.ndarray:
    """int32[8, 8], of 1 to 8 words."""
    x = rng.integers(2, WORDS, (8, 8))
    lengths = rng.integers(1, 9, (8, 1))
    return np.where(np.arange(8) < lengths, x, 0).astype("int32")


def tagged(rng: np.random.Generator) -> tuple:
    x = sentences(rng)
    y = np.where(x > 0, rng.integers(0, CLASSES, x.shape), -1)
    collate = SequenceCollate(has_token_labels=True)
    x, y, weights = collate.pad(x, y.astype("int32"), 8)
    return x, y, weights / collate.labels_per_example(y)


def classified(rng: np.random.Generator) -> tuple:
    return sentences(rng), rng.integers(0, 2, (8, 1)), np.ones(8, "float32")


def molecules(rng: np.random.Generator, num_graphs: int = 6) -> tuple:
    graphs = [
        Graph(
            rng.integers(0, 3, (count, FEATURES)).astype("uint8"),
            rng.integers(0, count, (2, 2 * count)).astype("int32"),
        )
        for count in rng.integers(2, 12, num_graphs)
    ]
    y = rng.choice([0, 1, np.nan], (num_graphs, CLASSES)).astype("float32")
    return GraphCollate().pad(as_array(graphs), y, 12)


def played(rng: np.random.Generator) -> tuple:
    x = rng.integers(0, 256, (8, *FRAMES)).astype("uint8")
    target = Target(
        rng.integers(0, CLASSES, 8),
        np.log(rng.uniform(0.25, 0.45, 8)),
        rng.normal(size=8),
        rng.normal(size=8),
        np.full(8, 0.2),
    )
    return x, np.stack(target, axis=-1).astype("float32"), np.ones(8, "float32")


TASK_CASES = {
    "tagger": lambda: train_task(
        lambda: build_tagger(WORDS, CLASSES, 0.03, depth=2, dropout=0.0),
        tagged,
        TokenCrossentropy(),
    ),
    "lstm": lambda: train_task(
        lambda: build_lstm(WORDS, 1, 0.03),
        classified,
        keras.losses.BinaryCrossentropy(from_logits=True),
    ),
    "gcn": lambda: train_task(
        lambda: build_gcn(FEATURES, CLASSES, 0.05, depth=2),
        molecules,
        PresentBinaryCrossentropy(),
    ),
    "actor_critic": lambda: train_task(
        lambda: build_actor_critic(FRAMES, CLASSES, 0.1), played, PPOLoss(), scale=0.02
    ),
}

# The subclassed models come first: keras derives SAMModel from its Functional for the
# rest of the process once a functional one exists.
CASES = {
    "tokens_sam": lambda: train_token_model(samkeras.SAM(0.3)),
    "tokens_plain": lambda: train_token_model(None),
    "norm": train_norm_model,
    **TASK_CASES,
}


def main(path: str) -> None:
    numbers = {
        f"{case}/{name}": values
        for case, train_case in CASES.items()
        for name, values in train_case().items()
    }
    np.savez(path, **numbers)


if __name__ == "__main__":
    main(sys.argv[1])
