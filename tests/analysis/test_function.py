"""The function of a network, and how much its slope varies."""

import keras
import numpy as np
import pytest

from samkeras.analysis import FittedFunction, fitted_function
from samkeras.backend import backend
from samkeras.models.theory_nets import build_relu_1d


def build_kinked(slopes, kinks, outputs):
    """f(x) = sum_j c_j relu(w_j x + b_j) with its kinks at -b_j / w_j."""
    model = build_relu_1d(len(slopes) / 100)
    w, k = np.array(slopes), np.array(kinks)
    model.set_weights([w[None], -w * k, np.array(outputs)[:, None]])
    return model


def test_kinks_set_by_hand_have_their_variation():
    """The sum of |c w|; kinks at one place count together, those outside do not, nor
    does where a neuron's slope is on the other side."""
    x = np.array([-1.0, 0.25, 1.0])
    cases = [
        ([2.0, -3.0], [0.5, -0.5], [1.5, 0.5], 3.0 + 1.5),
        ([2.0, 2.0], [0.5, 0.5], [1.0, -0.5], 1.0),
        ([2.0, 1.0], [0.5, 1.5], [1.0, 7.0], 2.0),
    ]
    for slopes, kinks, outputs, expected in cases:
        model = build_kinked(slopes, kinks, outputs)
        found = fitted_function(model, -1.0, 1.0)
        assert found.slope_variation == pytest.approx(expected, abs=0.05)
        y = model.predict(x[:, None], verbose=0)[:, 0]
        np.testing.assert_allclose(np.interp(x, found.x, found.y), y, atol=1e-2)


def test_in_float64_it_is_exact():
    with backend.double_precision():
        keras.config.set_dtype_policy("float64")
        keras.config.set_floatx("float64")
        model = build_kinked([2.0, -3.0, 4.0], [0.5, -0.51, 0.1], [1.5, 0.5, -1.0])
        found = fitted_function(model, -1.0, 1.0, num_points=301)
        assert found.slope_variation == pytest.approx(3.0 + 1.5 + 4.0, rel=1e-9)


def test_a_line_has_no_variation():
    x = np.linspace(0, 1, 11)
    assert FittedFunction(x, 3 * x + 1).slope_variation == pytest.approx(0, abs=1e-9)


def test_what_has_no_such_function_is_refused():
    model = build_kinked([1.0], [0.0], [1.0])
    with pytest.raises(ValueError, match=r"low must be below high. Received: 1 and 0"):
        fitted_function(model, 1, 0)
    with pytest.raises(ValueError, match=r"num_points must be an integer >= 3"):
        fitted_function(model, 0, 1, num_points=2)
    two = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match=r"one input and one output. Received one of"):
        fitted_function(two, 0, 1)
