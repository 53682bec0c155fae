"""Steps of quadratics, and networks that are linear or nearly so."""

import keras
import numpy as np
import pytest
from keras import layers

import samkeras
from samkeras import analysis
from samkeras.linearized import centre
from tests.analysis.making import build_linear, build_quadratic, rotate
from tests.helpers import build_classifier, compile_classifier, random_examples


def take_step(model, seed: int = 0, scale: float = 0.1) -> list[np.ndarray]:
    """Moves the weights somewhere, and returns where they were."""
    rng = np.random.default_rng(seed)
    start = [np.array(w) for w in model.trainable_variables]
    for weight in model.trainable_variables:
        weight.assign_add(scale * rng.standard_normal(weight.shape))
    return start


def test_the_smoothness_of_a_quadratic_is_the_same_along_a_step():
    """|Ad| / |d| for every fraction, and mu between the least and largest value."""
    matrix = rotate([*np.linspace(0.5, 4, 12)])
    model, data = build_quadratic(matrix[None])
    start = take_step(model, scale=1.0)
    before = np.concatenate(start)
    step = np.concatenate([np.array(w) for w in model.trainable_variables]) - before
    found = analysis.smoothness(model, data, start)
    expected = np.linalg.norm(matrix @ step) / np.linalg.norm(step)
    np.testing.assert_allclose(found.smoothness, expected, rtol=1e-3)
    np.testing.assert_allclose(found.distance, np.linalg.norm(step), rtol=1e-4)
    gradient = matrix @ before
    at_start = gradient @ gradient / (before @ gradient)
    np.testing.assert_allclose(found.pl_at_start, at_start, rtol=1e-3)
    assert 0.5 <= found.pl <= found.pl_at_start
    np.testing.assert_allclose(found.gradient_norms[0], np.linalg.norm(gradient), 1e-3)
    np.testing.assert_allclose(found.losses[0], before @ gradient / 2, rtol=1e-3)
    assert found.losses.shape == (7,)
    top = analysis.top_eigenvalues(model, data, 1)
    assert found.smoothness < top.values[0]


def test_in_one_dimension_both_constants_are_the_curvature():
    model = build_linear(1, 1, "mse")
    x = np.array([[1.0], [2.0]], "float32")
    start = take_step(model, scale=1.0)
    found = analysis.smoothness(model, (x, 3 * x), start, fractions=[0.5, 1])
    curvature = 2 * np.mean(x**2)
    constants = [found.smoothness, found.pl, found.pl_at_start]
    np.testing.assert_allclose(constants, curvature, rtol=1e-3)


def test_least_squares_of_low_rank_has_its_smallest_curvature():
    """mu is at least the smallest eigenvalue that is not zero."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 9)).astype("float32")
    model = build_linear(1, 9, "mse")
    y = x @ rng.standard_normal((9, 1)).astype("float32")
    found = analysis.smoothness(model, (x, y), take_step(model))
    assert found.pl > np.linalg.eigvalsh(2 * x @ x.T / 4)[0] * (1 - 1e-3)


def test_what_cannot_be_known_is_no_number():
    """At the least loss there is no PL constant, without a step no smoothness."""
    model = build_linear(1, 2, "mse")
    x = np.eye(2, dtype="float32")
    start = [np.array(w) for w in model.trainable_variables]
    found = analysis.smoothness(model, (x, x @ start[0]), start)
    assert np.isnan([found.smoothness, found.pl, found.pl_at_start]).all()
    assert found.distance == 0
    assert "the step moves no weight" in found.reason
    assert "the loss is at its minimum" in found.reason
    take_step(model)
    found = analysis.smoothness(model, (x, x @ start[0]), start)
    assert found.reason == ""
    assert np.isnan(found.pl_at_start)
    np.testing.assert_allclose(found.pl, 1, rtol=1e-3)


def test_a_training_step_is_measured_and_changes_nothing():
    x, labels = random_examples(32)
    model = compile_classifier(build_classifier(), method=samkeras.SAM(0.1))
    start = [np.array(w) for w in model.trainable_variables]
    model.train_on_batch(x, labels)
    after = model.get_weights()
    found = analysis.smoothness(model, (x, labels), start)
    assert found.smoothness > 0
    assert found.pl > 0
    for weight, value in zip(model.get_weights(), after, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_a_linear_model_stays_linear():
    x, _ = random_examples(20)
    model = build_linear(3, 5, "mse")
    start = take_step(model, scale=1.0)
    found = analysis.linearity(model, (x, np.zeros((20, 3))), start, batch_size=8)
    assert found.value < 1e-5
    assert found.reason == ""
    change = x @ (np.array(model.trainable_variables[0]) - start[0])
    np.testing.assert_allclose(
        found.change, np.linalg.norm(change) / np.sqrt(20), rtol=1e-4
    )


def test_a_network_is_the_less_linear_the_further_it_went():
    """To first order as |w - w0|; a product of two weights is so exactly."""
    x, labels = random_examples(32)
    values = []
    for scale in (0.02, 0.04):
        keras.utils.set_random_seed(0)
        model = compile_classifier(build_classifier(keras.Model))
        found = analysis.linearity(
            model, (x, labels), take_step(model, scale=scale), batch_size=16
        )
        values.append(found.value)
    assert 1.8 < values[1] / values[0] < 2.2
    found = analysis.linearity(model, (x, labels), model.trainable_variables)
    assert np.isnan(found.value)
    assert found.reason == "no output has changed"
    assert found.distance == 0


def test_numbers_that_are_not_finite_have_a_reason():
    model = build_linear(1, 2, "mse")
    start = take_step(model)
    data = (np.full((2, 2), 1e30, "float32"), np.zeros((2, 1), "float32"))
    for measure in (analysis.smoothness, analysis.linearity):
        assert "not finite" in measure(model, data, start).reason


def test_centring_and_alpha_change_no_linearity():
    x, labels = random_examples(32)
    values = []
    for alpha in (1.0, 10.0):
        keras.utils.set_random_seed(0)
        model = compile_classifier(centre(lambda: build_classifier(keras.Model), alpha))
        found = analysis.linearity(model, (x, labels), take_step(model))
        values.append(found.value)
    np.testing.assert_allclose(values[1], values[0], rtol=1e-4)


def test_recurrent_and_several_outputs():
    inputs = keras.Input((4, 2))
    x = layers.LSTM(3, use_cudnn=False)(inputs)
    model = keras.Model(inputs, {"a": layers.Dense(2)(x), "b": x})
    model.compile(loss={"a": "mse", "b": "mse"})
    rng = np.random.default_rng(0)
    y = {"a": np.zeros((6, 2)), "b": np.zeros((6, 3))}
    found = analysis.linearity(
        model, (rng.random((6, 4, 2), "float32"), y), take_step(model, scale=1e-2)
    )
    assert 0 < found.value < 0.1


def test_bad_input_is_said_in_one_line():
    model = build_linear(1, 3, "mse")
    data = np.ones((2, 3), "float32"), np.ones((2, 1), "float32")
    for start in ([], [np.ones((3, 2))], [np.ones((3, 1))] * 2):
        with pytest.raises(ValueError, match="one array for each trainable weight"):
            analysis.smoothness(model, data, start)
    for fractions in ([], [0], [1.5], 1):
        with pytest.raises(ValueError, match="fractions must be numbers > 0 and <= 1"):
            analysis.smoothness(model, data, [np.ones((3, 1))], fractions=fractions)
