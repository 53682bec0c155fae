"""s_k of examples whose Hessians are known, or dense."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from samkeras import analysis
from samkeras.backend import backend
from tests.analysis.making import build_linear, build_quadratic, find_dense, rotate

METHODS = ("gauss_newton", "hessian")


def half_square(y_true, y_pred):
    return ops.sum(ops.square(y_pred - y_true), axis=-1) / 2


def find_expected(hessians: np.ndarray, k: int) -> float:
    """lambda_max(mean H_i^k - H^k)."""
    powers = np.mean([np.linalg.matrix_power(h, k) for h in hessians], axis=0)
    difference = powers - np.linalg.matrix_power(hessians.mean(0), k)
    return np.linalg.eigvalsh(difference)[-1]


def find_hessians(model, arrays) -> np.ndarray:
    """Each example's own, float64."""
    data = analysis.DataLoss(model, arrays, 1)
    parts = [find_dense(part) for part in data.each_batch()]
    return np.stack(parts).astype("float64")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("k", [2, 3, 4])
def test_unit_vectors(k, method):
    """H_i = e_i e_i' have s_k = (1/n - n^-k)^(1/k), n of them."""
    model = build_linear(1, 6, half_square)
    x = np.eye(6, dtype="float32")
    found = analysis.non_uniformity(
        model, (x, np.zeros((6, 1))), k, method=method, batch_size=4
    )
    np.testing.assert_allclose(found.value, (1 / 6 - 6.0**-k) ** (1 / k), rtol=1e-4)
    np.testing.assert_allclose(found.sharpness, 1 / 6, rtol=1e-4)
    assert found.gap < 1e-5  # the model is linear
    assert found.converged
    assert found.reason == ""
    assert (found.k, found.method, found.num_examples) == (k, method, 6)


@pytest.mark.parametrize("method", METHODS)
def test_examples_of_one_length(method):
    """lambda_max = max_j r^(2k-2) l_j - l_j^k, of H's eigenvalues l_j."""
    x = np.random.default_rng(0).standard_normal((20, 5))
    x = (2 * x / np.linalg.norm(x, axis=1, keepdims=True)).astype("float32")
    values = np.linalg.eigvalsh(x.T @ x / 20)
    model = build_linear(1, 5, half_square)
    data = analysis.DataLoss(model, (x, np.zeros((20, 1))))
    for k in (2, 3, 4):
        found = analysis.non_uniformity(model, data, k, method=method)
        expected = np.max(4.0 ** (k - 1) * values - values**k)
        np.testing.assert_allclose(found.eigenvalue, expected, rtol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_equal_examples_are_uniform(method):
    """What is left of the difference is rounding, of no sign that means something."""
    x = np.ones((8, 5), "float32")
    model = build_linear(1, 5, half_square)
    data = analysis.DataLoss(model, (x, np.zeros((8, 1))))
    for k in (2, 3, 4):
        found = analysis.non_uniformity(model, data, k, method=method)
        assert found.value < 0.05 * found.sharpness
        assert found.reason == ""


class Product(layers.Layer):
    """u v x."""

    def build(self, shape):
        self.u = self.add_weight(shape=(), initializer="ones", name="u")
        self.v = self.add_weight(shape=(), initializer="ones", name="v")

    def call(self, x):
        return self.u * self.v * x


@pytest.mark.parametrize("method", METHODS)
def test_a_net_of_two_numbers_that_interpolates(method):
    """H_i = x_i^2 (v, u)(v, u)': its square's length is (u^2 + v^2)^k x^(2k)."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Product()(inputs))
    model.compile(loss=half_square)
    model.set_weights([np.array(1.5), np.array(-0.5)])
    x = np.linspace(-1, 2, 7, dtype="float32")[:, None]
    data = analysis.DataLoss(model, (x, -0.75 * x))
    for k in (2, 3, 4):
        found = analysis.non_uniformity(model, data, k, method=method)
        moments = np.mean(x ** (2 * k)) - np.mean(x**2) ** k
        np.testing.assert_allclose(found.eigenvalue, 2.5**k * moments, rtol=1e-3)
        np.testing.assert_allclose(found.sharpness, 2.5 * np.mean(x**2), rtol=1e-4)
        assert found.gap < 1e-4


def build_net(loss: object) -> keras.Model:
    inputs = keras.Input((5,))
    x = layers.Dense(3, activation="tanh")(inputs)
    model = keras.Model(inputs, layers.Dense(2)(x))
    model.compile(loss=loss)
    return model


def test_a_small_net_has_what_its_dense_hessians_have():
    """With residuals: the methods differ, and the gap says so."""
    rng = np.random.default_rng(0)
    model = build_net("mse")
    arrays = rng.standard_normal((8, 5)), rng.standard_normal((8, 2))
    arrays = tuple(a.astype("float32") for a in arrays)
    hessians = find_hessians(model, arrays)
    data = analysis.DataLoss(model, arrays, 3)
    together = analysis.non_uniformities(model, data, method="hessian")
    assert [found.k for found in together] == [2, 3, 4]
    for found in together:
        np.testing.assert_allclose(
            found.eigenvalue, find_expected(hessians, found.k), rtol=1e-3
        )
    alone = analysis.non_uniformity(model, data, 3, method="hessian")
    assert alone == together[1]
    rough = analysis.non_uniformity(model, data)
    assert rough.gap > 0.01
    assert abs(rough.sharpness / found.sharpness - 1) == pytest.approx(rough.gap, 1e-2)


def test_without_residuals_gauss_newton_is_the_hessian():
    rng = np.random.default_rng(0)
    model = build_net("mse")
    x = rng.standard_normal((8, 5)).astype("float32")
    arrays = (x, model.predict(x, verbose=0), np.linspace(0.5, 2, 8, dtype="float32"))
    data = analysis.DataLoss(model, arrays, 5)
    for k in (2, 3, 4):
        found, exact = (
            analysis.non_uniformity(model, data, k, method=m) for m in METHODS
        )
        np.testing.assert_allclose(found.eigenvalue, exact.eigenvalue, rtol=1e-3)
        assert found.gap < 1e-4
        assert exact.gap == 0


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="a loop in all cases")
def test_examples_at_once_are_as_one_after_the_other(monkeypatch):
    """On GPUs they are vectorized."""
    rng = np.random.default_rng(0)
    model = build_net("mse")
    arrays = (rng.random((8, 5), "float32"), rng.random((8, 2), "float32"))
    expected = [analysis.non_uniformity(model, arrays, method=m) for m in METHODS]
    monkeypatch.setattr(backend, "map_each", backend.map_at_once)
    found = [analysis.non_uniformity(model, arrays, method=m) for m in METHODS]
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_allclose(other.value, one.value, rtol=1e-4)


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "sum"])
def test_cross_entropy_of_a_linear_model(reduction):
    """S_i = diag(p) - pp', and the same whichever reduction the loss has."""
    rng = np.random.default_rng(0)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, reduction=reduction
    )
    model = build_linear(3, 4, loss)
    arrays = (rng.standard_normal((9, 4)).astype("float32"), rng.integers(0, 3, 9))
    hessians = find_hessians(model, arrays)
    data = analysis.DataLoss(model, arrays, 4)
    for k in (2, 3):
        found = analysis.non_uniformity(model, data, k)
        np.testing.assert_allclose(
            found.eigenvalue, find_expected(hessians, k), rtol=1e-3
        )


def test_weighted_means_weigh_examples():
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.1, 2, 9).astype("float32")
    loss = keras.losses.MeanSquaredError(reduction="mean_with_sample_weight")
    model = build_linear(1, 4, loss)
    x = rng.standard_normal((9, 4)).astype("float32")
    arrays = (x, np.zeros((9, 1), "float32"), weights)
    scaled = weights * 9 / weights.sum()
    hessians = 2 * np.einsum("n,ni,nj->nij", scaled, x, x).astype("float64")
    for method in METHODS:
        found = analysis.non_uniformity(model, arrays, 2, method=method, batch_size=4)
        np.testing.assert_allclose(
            found.eigenvalue, find_expected(hessians, 2), rtol=1e-3
        )


def test_a_negative_difference_is_no_number():
    """H_i = 0 and -A: mean H_i^3 - H^3 = -3/8 A^3."""
    matrix = rotate([*np.linspace(1, 2, 6)])
    model, data = build_quadratic(np.stack([0 * matrix, -matrix]))
    found = analysis.non_uniformity(model, data, 3, method="hessian")
    assert np.isnan(found.value)
    assert "no positive eigenvalue" in found.reason
    np.testing.assert_allclose(found.eigenvalue, -3 / 8, rtol=1e-3)


def test_examples_that_depend_on_each_other_are_refused():
    class BatchMode(layers.BatchNormalization):
        def call(self, x, training=None):
            return super().call(x, training=True)

    inputs = keras.Input((5,))
    x = BatchMode()(layers.Dense(4, activation="tanh")(inputs))
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile(loss="mse")
    rng = np.random.default_rng(0)
    arrays = (rng.random((8, 5), "float32"), rng.random((8, 1), "float32"))
    for method in METHODS:
        with pytest.raises(ValueError, match="others of its batch, as by BatchNorm"):
            analysis.non_uniformity(model, arrays, method=method)
    # While the Hessian of batches is one.
    assert analysis.top_eigenvalues(model, arrays, 1).converged


def test_bad_input_is_said_in_one_line():
    model = build_linear(1, 3, "mse")
    arrays = np.ones((2, 3), "float32"), np.ones((2, 1), "float32")
    for arguments, options, message in (
        ((5,), {}, "k must be 2, 3 or 4. Received: 5"),
        ((2,), {"method": "hesian"}, "Received: 'hesian'; did you mean hessian?"),
        ((2,), {"max_products": 0}, "max_products must be an integer >= 1"),
    ):
        with pytest.raises(ValueError, match=message):
            analysis.non_uniformity(model, arrays, *arguments, **options)
    inputs = keras.Input((3,))
    several = keras.Model(inputs, [layers.Dense(1)(inputs), layers.Dense(1)(inputs)])
    several.compile(loss=["mse", "mse"])
    arrays = (arrays[0], [arrays[1], arrays[1]])
    with pytest.raises(ValueError, match="a model of one output"):
        analysis.non_uniformity(several, arrays)
    assert analysis.non_uniformity(several, arrays, method="hessian").value >= 0
