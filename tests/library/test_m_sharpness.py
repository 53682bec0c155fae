"""m-sharpness: an epsilon of each group of m examples (Foret et al. 2021, 4.1)."""

import keras
import numpy as np
import pytest

import samkeras
from tests import helpers
from tests.helpers import build_classifier, compile_classifier, perceptron_gradients

RHO, RATE = 0.3, 0.2


def step_by_hand(weights: list, x: np.ndarray, y: np.ndarray, m: int) -> list:
    """The weights after a step of SGD with the groups' SAM gradients averaged."""
    total = helpers.scale(weights, 0.0)
    for group_x, group_y in helpers.batches_of(x, y, m):
        gradients = perceptron_gradients(weights, group_x, group_y)
        epsilon = helpers.scale(gradients, RHO / helpers.norm(gradients))
        perturbed = helpers.add(weights, epsilon)
        part = perceptron_gradients(perturbed, group_x, group_y)
        total = helpers.add(total, helpers.scale(part, len(group_x) / len(x)))
    return helpers.add(weights, helpers.scale(total, -RATE))


@pytest.mark.parametrize("m", [1, 4, 5, 16, 100])
def test_a_step_equals_the_groups_by_hand(m):
    """Equal groups, a smaller last one (16 = 5 + 5 + 5 + 1) and one of the whole."""
    x, y = helpers.random_examples(16)
    model = compile_classifier(
        build_classifier(),
        optimizer=samkeras.SGD(RATE),
        method=samkeras.SAM(RHO),
        m_sharpness=m,
    )
    before = helpers.weights_float64(model)
    helpers.train(model, x, y)
    step, expected = (
        helpers.add(after, helpers.scale(before, -1.0))
        for after in (
            helpers.weights_float64(model),
            step_by_hand(before, x, y, m),
        )
    )
    assert helpers.relative_error(step, expected) < 1e-5  # float32


def test_groups_normalize_by_themselves():
    """With BatchNorm each group has its own statistics, and the moving ones take the
    mean over the groups, as the authors' devices do."""
    x, y = helpers.random_examples(16)
    model = compile_classifier(
        build_classifier(norm=True), method=samkeras.SAM(RHO), m_sharpness=4
    )
    kernel, bias = (np.asarray(w) for w in model.get_layer("hidden").weights)
    hidden = (x @ kernel + bias).reshape(4, 4, -1)
    helpers.train(model, x, y)
    norm = model.get_layer("norm")
    mean, variance = hidden.mean((0, 1)), hidden.var(1).mean(0)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, rtol=1e-4)


def test_groups_of_the_whole_batch_change_nothing():
    """m = batch size is plain SAM; logs, predictions and dropout included."""
    x, y = helpers.random_examples(32)
    results = []
    for m in (None, 16):
        keras.utils.set_random_seed(0)
        model = compile_classifier(
            build_classifier(dropout=0.5),
            method=samkeras.SAM(RHO),
            m_sharpness=m,
            metrics=["accuracy"],
        )
        history = helpers.train(model, x, y, epochs=2)
        results.append((helpers.flat(model.weights), history))
    (whole, logs), (grouped, grouped_logs) = results
    np.testing.assert_allclose(grouped, whole, rtol=1e-5, atol=1e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(grouped_logs[name], values, rtol=1e-4)


def test_groups_train_in_float64():
    x, y = helpers.random_examples(16)
    keras.config.set_dtype_policy("float64")
    model = compile_classifier(
        build_classifier(),
        optimizer=samkeras.SGD(RATE),
        method=samkeras.SAM(RHO),
        m_sharpness=5,
    )
    before = helpers.weights_float64(model)
    helpers.train(model, x.astype("float64"), y)
    error = helpers.relative_error(model.get_weights(), step_by_hand(before, x, y, 5))
    assert error < 1e-6


def test_each_group_draws_its_own_dropout():
    """Two groups of the same examples differ by their draws alone: their mean is not
    the step of one group."""
    x, y = helpers.random_examples(8)
    ends = []
    for copies in (1, 2):
        keras.utils.set_random_seed(0)
        model = compile_classifier(
            build_classifier(dropout=0.5), method=samkeras.SAM(RHO), m_sharpness=8
        )
        helpers.train(model, np.tile(x, (copies, 1)), np.tile(y, copies))
        ends.append(helpers.flat(model.trainable_variables))
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


@pytest.mark.parametrize(
    "arguments", [{"m_sharpness": 0}, {"m_sharpness": 2.0}, {"m_sharpness": True}]
)
def test_groups_need_a_number_of_examples(arguments):
    with pytest.raises(ValueError, match="m_sharpness must be None, or an integer"):
        compile_classifier(build_classifier(), method=samkeras.SAM(RHO), **arguments)
    with pytest.raises(ValueError, match="with a method"):
        compile_classifier(build_classifier(), m_sharpness=4)
