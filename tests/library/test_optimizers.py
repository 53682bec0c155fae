"""samkeras.SGD against keras' and optax' momentum."""

import keras
import numpy as np
import pytest
from keras import ops

import samkeras
from tests.helpers import relative_error

NUM_STEPS = 12


def descend(optimizer, learning_rates) -> list[np.ndarray]:
    """The weight after each step along gradients that do not depend on it."""
    rng = np.random.default_rng(0)
    variable = keras.Variable(rng.standard_normal(6).astype("float32"))
    optimizer.build([variable])
    path = []
    for learning_rate in learning_rates:
        optimizer.learning_rate = learning_rate
        gradient = rng.standard_normal(6).astype("float32")
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        path.append(ops.convert_to_numpy(variable))
    return path


@pytest.mark.parametrize("nesterov", [False, True])
def test_constant_learning_rate_equals_keras_momentum(nesterov):
    """Where the learning rate does not change it does not matter what holds it."""
    ours, theirs = (
        descend(sgd(0.1, momentum=0.9, nesterov=nesterov), [0.1] * NUM_STEPS)
        for sgd in (samkeras.SGD, keras.optimizers.SGD)
    )
    assert relative_error(ours, theirs) < 1e-6  # float32: lr is factored differently


@pytest.mark.parametrize("nesterov", [False, True])
def test_dropped_learning_rate_equals_optax_momentum(nesterov):
    """After a drop the old learning rate is gone at once, as in optax."""
    optax = pytest.importorskip("optax", reason="the reference")
    learning_rates = [0.1] * 6 + [0.01] * 6
    ours = descend(samkeras.SGD(0.1, momentum=0.9, nesterov=nesterov), learning_rates)

    rng = np.random.default_rng(0)
    weight = rng.standard_normal(6).astype("float32")
    sgd = optax.sgd(lambda step: learning_rates[int(step)], 0.9, nesterov)
    state, expected = sgd.init(weight), []
    for _ in learning_rates:
        gradient = rng.standard_normal(6).astype("float32")
        update, state = sgd.update(gradient, state)
        weight = np.asarray(optax.apply_updates(weight, update))
        expected.append(weight)
    assert relative_error(ours, expected) < 1e-6  # float32
    keras_sgd = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=nesterov)
    assert relative_error(descend(keras_sgd, learning_rates), expected) > 1e-2


def test_without_momentum_it_is_plain_descent():
    """momentum = 0 has no velocity: w - lr * g."""
    variable = keras.Variable(np.ones(2, "float32"))
    optimizer = samkeras.SGD(0.5)
    optimizer.build([variable])
    optimizer.apply([ops.convert_to_tensor([1.0, -2.0])], [variable])
    np.testing.assert_array_equal(ops.convert_to_numpy(variable), [0.5, 2.0])


def test_config_survives_serialization():
    """A saved optimizer comes back as ours, not as keras' SGD."""
    optimizer = samkeras.SGD(0.25, momentum=0.5, nesterov=True, clipnorm=2.0)
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert type(again) is samkeras.SGD
    assert again.get_config() == optimizer.get_config()
