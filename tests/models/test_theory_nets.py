"""The data sets and networks of the studies of theory, by hand."""

import keras
import numpy as np
import pytest

import samkeras
from samkeras.data.theory_sets import load_allen_zhu, load_factorization, load_relu_1d
from samkeras.models.theory_nets import (
    SumOfSquares,
    build_allen_zhu,
    build_factorization,
    build_relu_1d,
)
from tests.helpers import flat


def test_the_twelve_points_are_those_of_the_cited_code():
    (x, y), validated = load_relu_1d().read()
    np.testing.assert_allclose(x[[0, 5, 11], 0], [-1.305, -0.055, 1.445], rtol=1e-12)
    np.testing.assert_allclose(y[[0, 2, 11], 0], [-1.655, 0.345, -0.655], rtol=1e-12)
    assert x.shape == y.shape == (12, 1)
    assert validated[0] is x


def test_the_linear_map_has_the_condition_number_that_is_asked_for():
    """The cited code's 1e-10 is of the rows of A, not of its singular values."""
    for asked, low, high in ((None, 10, 40), (100.0, 99.9, 100.1)):
        (x, y), _ = load_factorization(asked).read()
        matrix, residual, *_ = np.linalg.lstsq(x, y)
        assert low < np.linalg.cond(matrix) < high
        assert residual.max() < 1e-20
    assert (x.shape, y.shape) == ((1000, 6), (1000, 10))


def test_allen_zhus_labels():
    (x, y), (x_validation, _) = load_allen_zhu().read()
    np.testing.assert_allclose(np.linalg.norm(x, axis=1), 1.0, rtol=1e-12)
    a, b, c, d = x[7]
    expected = (np.sin(3 * a) + np.sin(3 * b) + np.sin(3 * c) - 2) ** 2 * np.cos(7 * d)
    assert y[7, 0] == pytest.approx(expected, rel=1e-12)
    assert np.var(y) == pytest.approx(32.2, rel=0.15)
    assert len(x) == len(x_validation) == 1000


@pytest.mark.one_backend
def test_the_rank_that_is_missing_is_the_loss_that_is_left():
    """Eckart and Young: no product of rank 4 is nearer; gradient descent finds it."""
    (x, y), _ = load_factorization().read()
    model = build_factorization(rank=4)
    model.compile(samkeras.SGD(0.1, momentum=0.9), SumOfSquares(), jit_compile=True)
    model.fit(x, y, batch_size=1000, epochs=400, verbose=0)
    # The nearest in the metric of x, whose covariance is not quite the identity.
    scale = np.linalg.cholesky(x.T @ x / len(x))
    matrix = np.linalg.lstsq(x, y)[0].T
    values = np.linalg.svd(matrix @ scale, compute_uv=False)
    expected = np.sum(values[4:] ** 2)
    assert model.evaluate(x, y, verbose=0) == pytest.approx(expected, rel=1e-4)


def test_a_step_of_unnormalized_sam_on_two_numbers():
    """(u v x - y)^2 by hand: at w + rho g, not at w + rho g / |g|."""
    u, v, x, y, rho, rate = 0.5, 1.5, 2.0, 1.0, 0.1, 0.01
    inputs = keras.Input((1,))
    hidden = keras.layers.Dense(1, use_bias=False)(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(1, use_bias=False)(hidden))
    model.set_weights([np.array([[u]]), np.array([[v]])])
    model.compile(
        samkeras.SGD(rate), SumOfSquares(), method=samkeras.UnnormalizedSAM(rho)
    )
    model.train_on_batch(np.array([[x]]), np.array([[y]]))

    def gradient(u, v):
        return np.array([v, u]) * 2 * (u * v * x - y) * x

    place = np.array([u, v]) + rho * gradient(u, v)  # (0.8, 1.6)
    np.testing.assert_allclose(place, [0.8, 1.6])
    expected = np.array([u, v]) - rate * gradient(*place)
    np.testing.assert_allclose(np.ravel(model.get_weights()), expected, rtol=1e-5)


def test_the_first_layer_alone_is_trained():
    """By the gradient of the closed form, which is linear in W where no sign changes;
    all else stays to the bit."""
    (x, y), _ = load_allen_zhu().read()
    x, y = x[:50], y[:50]
    model = build_allen_zhu(0.1)
    kernel, offset, output = (np.asarray(v, "float64") for v in model.variables)
    assert [v.path for v in model.trainable_variables] == ["hidden/kernel"]
    is_on = x @ kernel + offset > 0
    predicted = (is_on * (x @ kernel + offset)) @ output
    signal = 2 * (predicted - y) @ output.T * is_on
    expected = kernel - 0.01 * x.T @ signal / len(x)
    model.compile(samkeras.SGD(0.01), SumOfSquares())
    loss = model.train_on_batch(x, y)
    assert loss == pytest.approx(np.mean((predicted - y) ** 2), rel=1e-5)
    np.testing.assert_allclose(model.variables[0], expected, rtol=1e-4, atol=1e-5)
    for variable, before in zip(model.variables[1:], (offset, output), strict=True):
        np.testing.assert_array_equal(variable, before.astype("float32"))


def test_weights_start_as_the_sources_have_them():
    kernel, bias, output = map(np.asarray, build_relu_1d(20.0).variables)
    assert set(np.unique(kernel)) == {-2.5, 2.5}
    assert np.mean(kernel) == pytest.approx(0, abs=0.25)
    assert np.std(bias) == pytest.approx(2.5, rel=0.1)
    assert np.std(output) == pytest.approx(4.0, rel=0.1)
    first, second = map(np.asarray, build_factorization(rank=500).variables)
    assert np.max(np.abs(first)) == pytest.approx(6**-0.5, rel=0.01)
    assert np.max(np.abs(second)) == pytest.approx(500**-0.5, rel=0.01)
    kernel, offset, output = map(np.asarray, build_allen_zhu(20.0).variables)
    sizes = [np.std(each) for each in (kernel, offset, output)]
    np.testing.assert_allclose(sizes, [2000**-0.5, 2000**-0.5, 1.0], rtol=0.1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: build_relu_1d(0.2),
        lambda: build_factorization(2),
        lambda: build_allen_zhu(0.2),
    ],
)
def test_a_saved_network_gives_the_same(build, tmp_path):
    model = build()
    x = np.random.default_rng(0).standard_normal((3, *model.input_shape[1:]))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model.predict(x), loaded.predict(x))
    assert len(loaded.trainable_variables) == len(model.trainable_variables)
    assert flat(loaded.get_weights()).size == model.count_params()
