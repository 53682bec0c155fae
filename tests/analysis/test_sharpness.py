"""Rises of losses that are known: of quadratics, around their minimum or beside it."""

import keras
import numpy as np
import pytest

from samkeras import analysis
from samkeras.analysis.sharpness import _find_checks
from samkeras.masks import set_masks
from tests.analysis.making import build_linear, build_quadratic, rotate
from tests.helpers import build_classifier, compile_classifier, random_examples

VALUES = [4.0, 2.0, *np.linspace(-1, 1, 9), -3.0]


def build_at_minimum(matrices):
    """A quadratic model with weights of zero."""
    model, data = build_quadratic(matrices)
    for weight in model.trainable_variables:
        weight.assign(np.zeros(weight.shape))
    return model, data


def test_the_largest_rise_around_a_stationary_point():
    """rho^2 lambda_max / 2, which the gradient of zero does not show."""
    model, data = build_at_minimum(rotate(VALUES)[None])
    found = analysis.sharpness(model, data, 0.5, steps=30)
    np.testing.assert_allclose(found.value, 0.5**2 * 4 / 2, rtol=1e-3)
    assert (found.one_step, found.loss) == (0, 0)
    assert (found.rho, found.p, found.m) == (0.5, 2, None)
    alone = analysis.sharpness(model, data, 0.5, restarts=0)
    assert alone.value == 0


def test_one_step_is_sams():
    """rho |g| + rho^2 g.Ag / (2 |g|^2), and the ascent finds more."""
    matrix = rotate(VALUES)
    model, data = build_quadratic(matrix[None])
    weights = np.concatenate([np.array(w) for w in model.trainable_variables])
    gradient = matrix @ weights
    length = np.linalg.norm(gradient)
    quadratic = gradient @ matrix @ gradient / length**2
    found = analysis.sharpness(model, data, 0.1)
    np.testing.assert_allclose(
        found.one_step, 0.1 * length + 0.1**2 * quadratic / 2, rtol=1e-3
    )
    np.testing.assert_allclose(found.loss, weights @ gradient / 2, rtol=1e-4)
    assert found.value > found.one_step


def test_in_a_box():
    """p = inf: all entries of e are +-rho; SAM's are the gradient's signs."""
    diagonal = np.linspace(0.5, 3, 12, dtype="float32")
    model, data = build_at_minimum(np.diag(diagonal)[None])
    found = analysis.sharpness(model, data, 0.1, p=np.inf)
    np.testing.assert_allclose(found.value, 0.1**2 * diagonal.sum() / 2, rtol=1e-3)
    for weight in model.trainable_variables:
        weight.assign(np.ones(weight.shape))
    found = analysis.sharpness(model, data, 0.1, p=float("inf"))
    expected = (1.1**2 - 1) * diagonal.sum() / 2
    np.testing.assert_allclose([found.one_step, found.value], expected, rtol=1e-4)


def test_relative_to_the_weights():
    """rho^2 lambda_max(DAD) / 2 at the minimum, with D = diag |w|."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((30, 8)).astype("float32")
    model = build_linear(1, 8, "mse")
    weights = rng.standard_normal((8, 1)).astype("float32")
    model.set_weights([weights])
    scale = np.diag(np.abs(weights[:, 0]))
    hessian = scale @ (2 * x.T @ x / 30) @ scale
    data = analysis.DataLoss(model, (x, x @ weights), 16)
    found = analysis.sharpness(model, data, 0.2, adaptive=True, steps=40)
    expected = 0.2**2 * np.linalg.eigvalsh(hessian)[-1] / 2
    np.testing.assert_allclose(found.value, expected, rtol=1e-2)
    assert found.value <= expected * (1 + 1e-5)
    found = analysis.average_sharpness(model, data, 0.2, adaptive=True, draws=50)
    expected = 0.2**2 * np.trace(hessian) / 2
    assert abs(found.value - expected) < 4 * found.standard_error


def test_m_sharpness_is_the_mean_over_groups_in_order():
    matrices = np.stack([rotate(VALUES, seed) for seed in range(5)])
    model, data = build_at_minimum(matrices)
    found = analysis.sharpness(model, data, 0.1, m=2, steps=30)
    groups = [matrices[:2].mean(0), matrices[2:4].mean(0), matrices[4]]
    tops = [np.linalg.eigvalsh(group)[-1] for group in groups]
    expected = 0.1**2 / 2 * np.average(tops, weights=[2, 2, 1])
    np.testing.assert_allclose(found.value, expected, rtol=1e-2)
    assert found.m == 2
    assert found.num_examples == 5
    assert found.value > analysis.sharpness(model, data, 0.1, steps=30).value
    prepared = analysis.DataLoss(model, data, 2)
    again = analysis.sharpness(model, prepared, 0.1, m=2, steps=30)
    assert again.value == found.value


def test_the_average_rise_at_a_minimum_is_half_the_trace():
    matrix = rotate([*np.linspace(0, 3, 12)])
    model, data = build_at_minimum(matrix[None])
    found = analysis.average_sharpness(model, data, 0.1, draws=200)
    expected = 0.1**2 * np.trace(matrix) / 2
    assert abs(found.value - expected) < 4 * found.standard_error
    assert found.standard_error < 0.1 * expected


def test_pruned_weights_stay_zero():
    matrix = rotate(VALUES)
    model, data = build_at_minimum(matrix[None])
    kept = np.random.default_rng(0).random(12) < 0.6
    parts = model.get_layer("quadratic").parts
    set_masks(parts, [(parts[0], kept[:4]), (parts[1], kept[4:])])
    found = analysis.sharpness(model, data, 0.5, steps=40)
    top = np.linalg.eigvalsh(matrix[np.ix_(kept, kept)])[-1]
    np.testing.assert_allclose(found.value, 0.5**2 * top / 2, rtol=1e-2)
    found = analysis.average_sharpness(model, data, 0.1, draws=200)
    expected = 0.1**2 * np.trace(matrix[np.ix_(kept, kept)]) / 2
    assert abs(found.value - expected) < 4 * found.standard_error


@pytest.mark.parametrize("adaptive", [False, True])
def test_more_steps_and_radii_find_more_of_a_network(adaptive):
    """And nothing of the model changes."""
    x, labels = random_examples(32)
    model = compile_classifier(build_classifier(keras.Model))
    before = model.get_weights()
    data = analysis.DataLoss(model, (x, labels))
    found = [
        analysis.sharpness(model, data, rho, adaptive=adaptive, steps=steps)
        for rho, steps in ((0.1, 2), (0.1, 20), (0.3, 20))
    ]
    assert found[0].one_step <= found[0].value <= found[1].value < found[2].value
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.one_backend
def test_steps_are_looked_at_when_auto_pgd_says():
    """Of 100 steps: after 22, 41, 57, 70, 80, 87, 93, 99 (Croce & Hein 2020)."""
    assert sorted(_find_checks(100))[:8] == [22, 41, 57, 70, 80, 87, 93, 99]


def test_bad_input_is_said_in_one_line():
    model, data = build_at_minimum(rotate(VALUES)[None])
    for options, message in (
        ({"rho": 0}, "rho must be a finite number > 0. Received: 0"),
        ({"rho": 0.1, "p": 3}, "p must be 2 or inf. Received: 3"),
        ({"rho": 0.1, "m": 0}, "m must be an integer >= 1"),
        ({"rho": 0.1, "steps": 0}, "steps must be an integer >= 1"),
        ({"rho": 0.1, "restarts": -1}, "restarts must be an integer >= 0"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.sharpness(model, data, **options)
    with pytest.raises(ValueError, match=r"batch_size of m. Received: m=2, batch"):
        analysis.sharpness(model, analysis.DataLoss(model, data), 0.1, m=2)
    with pytest.raises(ValueError, match="sigma must be a finite number > 0"):
        analysis.average_sharpness(model, data, np.inf)
