"""What metrics that are updated within a pass say of groups of m examples."""

import keras
import numpy as np
import pytest

import samkeras
from tests.helpers import FEATURES, random_examples, train


class Counting(samkeras.SAMModel):
    """Counts its examples in compute_loss."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.count = keras.metrics.Sum(name="count")

    def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
        self.count.update_state(keras.ops.ones(keras.ops.shape(x)[0]))
        return super().compute_loss(x, y, y_pred, sample_weight, training)


@pytest.mark.parametrize("m", [4, 5])
def test_metrics_take_one_group_after_another(m):
    """Losses of two outputs and a count are those of the whole batches (8, 8, 8, 6 of
    30 examples), whether m divides them or not: a learning rate of 0 leaves nothing
    else to differ."""
    x, _ = random_examples(30)
    rng = np.random.default_rng(2)
    y = {name: rng.standard_normal((30, 2)).astype("float32") for name in "ab"}
    y["b"] *= 3
    logs = {}
    for size in (None, m):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((FEATURES,))
        outputs = {name: keras.layers.Dense(2, name=name)(inputs) for name in "ab"}
        model = Counting(inputs, outputs)
        model.compile(
            optimizer=keras.optimizers.SGD(0.0),
            loss={"a": "mse", "b": "mse"},
            method=samkeras.SAM(0.1),
            m_sharpness=size,
        )
        logs[size] = train(model, x, y, batch_size=8)
    for name in ("loss", "a_loss", "b_loss", "count"):
        assert logs[m][name] == pytest.approx(logs[None][name], rel=1e-5), name
    assert logs[m]["count"] == [30]
