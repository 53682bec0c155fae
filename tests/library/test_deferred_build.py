"""A subclassed model is built by its first step, as a keras.Model is."""

import keras
import numpy as np
import pytest

import samkeras
from tests.helpers import CLASSES, random_examples


class Network:
    """Dense, BatchNorm and dropout, of a size that the first batch says."""

    def __init__(self):
        super().__init__()
        self.hidden = keras.layers.Dense(4, "tanh")
        self.norm = keras.layers.BatchNormalization()
        self.dropout = keras.layers.Dropout(0.5, seed=1)
        self.logits = keras.layers.Dense(CLASSES)

    def call(self, x, training=False):
        x = self.norm(self.hidden(x), training=training)
        return self.logits(self.dropout(x, training=training))


class OurNetwork(Network, samkeras.SAMModel):
    pass


class PlainNetwork(Network, keras.Model):
    pass


def train(model_class, run_eagerly, by_batch, **kwargs) -> list[np.ndarray]:
    keras.utils.set_random_seed(1)
    model = model_class()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        loss,
        run_eagerly=run_eagerly,
        **kwargs,
    )
    x, y = random_examples(24)
    if by_batch:
        for start in (0, 8, 16):
            model.train_on_batch(x[start : start + 8], y[start : start + 8])
    else:
        model.fit(x, y, batch_size=8, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize(
    ("run_eagerly", "by_batch"),
    [(False, False), (True, False), (True, True)],
    ids=["compiled", "eager", "train_on_batch"],
)
def test_the_first_step_trains_what_it_builds(run_eagerly, by_batch):
    """At a rho of zero every step is that of keras.Model, the first one included."""
    expected = train(PlainNetwork, run_eagerly, by_batch)
    sam = {"method": samkeras.SAM(0.0)}
    for kwargs in (sam, {"l2": 1e-30}, {**sam, "m_sharpness": 8}):
        actual = train(OurNetwork, run_eagerly, by_batch, **kwargs)
        for weight, plain in zip(actual, expected, strict=True):
            np.testing.assert_allclose(weight, plain, rtol=1e-5, atol=1e-7)
