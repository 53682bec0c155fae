"""Hessians that are known: their products, eigenvalues, traces and densities."""

import os

import keras
import numpy as np
import pytest
from keras import layers, ops

import samkeras
from samkeras import analysis
from samkeras.analysis.lanczos import find_largest
from samkeras.backend import backend
from samkeras.masks import set_masks
from tests.analysis.making import (
    build_linear,
    build_quadratic,
    find_dense,
    rotate,
)
from tests.helpers import (
    build_classifier,
    compile_classifier,
    flat,
    perceptron_gradients,
    random_examples,
    weights_float64,
)

INDEFINITE = [4.0, 3.0, 2.0, *np.linspace(-1, 1, 26), -9.0]


def test_a_product_is_the_mean_hessians_in_batches_of_any_size():
    matrices = np.stack([rotate(INDEFINITE, seed) for seed in range(7)])
    model, data = build_quadratic(matrices)
    vector = np.random.default_rng(3).standard_normal(30)
    for batch_size in (3, 7, 100):  # 3: a smaller last one
        product = analysis.DataLoss(model, data, batch_size).product(vector)
        np.testing.assert_allclose(product, matrices.mean(0) @ vector, rtol=1e-4)


def test_the_largest_eigenvalues_are_so_algebraically():
    """A power iteration would find -9, whose absolute value is the largest."""
    model, data = build_quadratic(rotate(INDEFINITE)[None])
    top = analysis.top_eigenvalues(model, data, 3)
    np.testing.assert_allclose(top.values, [4, 3, 2], rtol=1e-5)
    bottom = analysis.bottom_eigenvalues(model, data, 1)
    np.testing.assert_allclose(bottom.values, [-9], rtol=1e-5)
    for found in (top, bottom):
        assert found.converged
        assert np.all(found.residuals <= 1e-3 * np.abs(found.values))
        assert found.asymmetry < 1e-5
        assert (found.num_examples, found.num_weights) == (1, 30)
        assert found.dtype == "float32"
    vectors = top.vectors
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(3), atol=1e-5)
    products = np.stack([rotate(INDEFINITE) @ vector for vector in vectors])
    np.testing.assert_allclose(products, top.values[:, None] * vectors, atol=1e-2)


@pytest.mark.parametrize("copies", [2, 3])
def test_repeated_eigenvalues_count_as_often_as_they_are_there(copies):
    """One start of Lanczos has one vector of each eigenspace. None is counted twice:
    without reorthogonalization the largest one would be."""
    values = [5.0] * copies + [4.0, 3.0] + [*np.linspace(0, 1, 395)]
    model, data = build_quadratic(rotate(values)[None])
    top = analysis.top_eigenvalues(model, data, copies + 2)
    np.testing.assert_allclose(top.values, values[: copies + 2], rtol=1e-4)
    assert top.converged
    assert top.products < 100


def test_what_has_not_converged_is_said():
    model, data = build_quadratic(rotate([*np.linspace(-1, 1, 50)])[None])
    top = analysis.top_eigenvalues(model, data, 2, max_products=5)
    assert not top.converged
    assert top.products == 5
    errors = np.abs(top.values - 1)  # the largest is within its residual
    assert errors.min() <= top.residuals.max()
    assert not analysis.top_eigenvalues(model, data, 5, max_products=3).converged


@pytest.mark.one_backend
def test_lanczos_finds_what_scipy_finds():
    from scipy.sparse.linalg import eigsh

    rng = np.random.default_rng(0)
    matrix = rng.standard_normal((200, 200))
    matrix = (matrix + matrix.T) / 2
    found = find_largest(
        lambda v: matrix @ v, lambda: rng.standard_normal(200), 200, 6, 1e-8, 200
    )
    expected = eigsh(matrix, 6, which="LA", v0=np.ones(200))[0][::-1]
    np.testing.assert_allclose(found.values, expected, rtol=1e-10)
    assert found.converged


def test_linear_regression():
    """H = 2 X'WX / n of a squared error; of fewer examples than weights."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((5, 9)), rng.standard_normal((5, 1))
    weights = rng.uniform(0.5, 2, 5)
    model = build_linear(1, 9, "mse")
    data = (x.astype("float32"), y.astype("float32"), weights.astype("float32"))
    expected = np.linalg.eigvalsh(2 * (x.T * weights) @ x / 5)[::-1]
    top = analysis.top_eigenvalues(model, data, 7, batch_size=2)
    np.testing.assert_allclose(top.values, expected[:7], atol=1e-4)
    assert top.converged


@pytest.mark.parametrize(
    ("reduction", "divisor"), [("sum", 5), ("mean_with_sample_weight", 6.5)]
)
def test_other_reductions_are_means_over_the_examples_too(reduction, divisor):
    x = np.eye(5, dtype="float32")
    weights = np.array([0.5, 1, 1, 2, 2], "float32")
    model = build_linear(1, 5, keras.losses.MeanSquaredError(reduction=reduction))
    data = analysis.DataLoss(model, (x, np.zeros((5, 1), "float32"), weights), 2)
    np.testing.assert_allclose(
        find_dense(data), np.diag(2 * weights / divisor), atol=1e-6
    )


def test_softmax_regression():
    """H = mean of xx' times diag(p) - pp'."""
    x, labels = random_examples(20)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = build_linear(3, 5, loss)
    logits = x.astype("float64") @ weights_float64(model)[0]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_logits = np.einsum("nc,cd->ncd", p, np.eye(3)) - np.einsum("nc,nd->ncd", p, p)
    expected = np.einsum("ni,nj,ncd->icjd", x, x, by_logits).reshape(15, 15) / 20
    found = find_dense(analysis.DataLoss(model, (x, labels), 8))
    np.testing.assert_allclose(found, expected, atol=1e-6)


def find_perceptrons_hessian(model, x, labels) -> np.ndarray:
    """By central differences of gradients by hand, in float64."""
    weights = weights_float64(model)
    ends = np.cumsum([w.size for w in weights])[:-1]
    start, step = flat(weights), 1e-5

    def differentiate(vector):
        parts = np.split(vector, ends)
        shaped = [p.reshape(w.shape) for p, w in zip(parts, weights, strict=True)]
        return flat(perceptron_gradients(shaped, x, labels))

    rows = np.eye(len(start)) * step
    found = [differentiate(start + r) - differentiate(start - r) for r in rows]
    return np.stack(found) / (2 * step)


def test_a_network_of_tanh_and_what_its_training_adds():
    """Dropout, l2 and regularizers are none of the Hessian's; nothing changes."""
    x, labels = random_examples(20)
    model = compile_classifier(
        build_classifier(dropout=0.5), l2=0.1, method=samkeras.SAM(0.1)
    )
    model.get_layer("hidden").kernel.regularizer = keras.regularizers.L2(10.0)
    expected = find_perceptrons_hessian(model, x, labels)
    before = [np.array(v) for v in model.variables]
    data = analysis.DataLoss(model, (x, labels), 8)
    np.testing.assert_allclose(find_dense(data), expected, atol=2e-6)
    values = np.linalg.eigvalsh(expected)
    top = analysis.top_eigenvalues(model, data, 4)
    np.testing.assert_allclose(top.values, values[::-1][:4], rtol=1e-4)
    found = analysis.trace(model, data, draws=50)
    assert abs(found.value - np.trace(expected)) < 4 * found.standard_error
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    assert model.get_layer("hidden").kernel.regularizer is not None


def test_pruned_and_frozen_weights_are_none():
    matrix = rotate(INDEFINITE)
    model, arrays = build_quadratic(matrix[None])
    kept = np.random.default_rng(0).random(30) < 0.6
    parts = model.get_layer("quadratic").parts
    set_masks(parts, [(parts[0], kept[:10]), (parts[1], kept[10:])])
    expected = np.linalg.eigvalsh(matrix[np.ix_(kept, kept)])[::-1]
    data = analysis.DataLoss(model, arrays)
    top = analysis.top_eigenvalues(model, data, 3)
    np.testing.assert_allclose(top.values, expected[:3], rtol=1e-4)
    assert top.num_weights == kept.sum()
    assert not top.vectors[:, ~kept].any()
    found = analysis.trace(model, data, draws=200)
    assert abs(found.value - expected.sum()) < 4 * found.standard_error
    parts[0].trainable = False
    expected = np.linalg.eigvalsh(matrix[10:, 10:][np.ix_(kept[10:], kept[10:])])
    top = analysis.top_eigenvalues(model, analysis.DataLoss(model, arrays), 1)
    np.testing.assert_allclose(top.values, expected[-1:], rtol=1e-4)
    assert top.vectors.shape == (1, 20)


def test_the_trace_of_a_diagonal_matrix_is_exact():
    values = np.linspace(-1, 4, 12, dtype="float32")
    model, data = build_quadratic(np.diag(values)[None])
    found = analysis.trace(model, data, draws=3)
    np.testing.assert_allclose(found.value, values.sum(), rtol=1e-5)
    assert found.standard_error < 1e-5


def test_the_density_has_the_spectrums_moments():
    """A start of +-1 sees each eigenvalue of a diagonal matrix alike, so that the means
    of its powers up to 2 steps - 1 are those of the eigenvalues."""
    values = np.linspace(-1, 1, 40, dtype="float32")
    model, data = build_quadratic(np.diag(values)[None])
    found = analysis.spectral_density(model, data, draws=2, steps=6)
    for power in range(12):
        moment = found.weights @ found.values**power
        np.testing.assert_allclose(moment, np.mean(values**power), atol=1e-5)
    assert found.cumulative(np.array([-2.0]))[0] == 0
    np.testing.assert_allclose(found.cumulative(np.array([2.0])), 1, rtol=1e-6)
    np.testing.assert_allclose(found.cumulative(np.array([0.0])), 0.5, atol=0.1)
    at = np.linspace(-2, 2, 4001)
    area = np.sum(found.density(at, 0.05)) * (at[1] - at[0])
    np.testing.assert_allclose(area, 1, rtol=1e-6)


def test_the_density_of_few_different_eigenvalues_is_exact():
    """Lanczos ends where nothing is left to find."""
    values = np.repeat(np.array([0.0, 2.0], "float32"), [9, 3])
    model, data = build_quadratic(np.diag(values)[None])
    found = analysis.spectral_density(model, data, draws=1)
    np.testing.assert_allclose(found.values, [0, 2], atol=1e-5)
    np.testing.assert_allclose(found.weights, [0.75, 0.25], rtol=1e-4)
    assert found.density(np.array([2.0]))[0] > found.density(np.array([1.0]))[0]


def test_all_is_compiled_once_and_follows_the_weights():
    calls = []

    class Counting(layers.Layer):
        def call(self, x):
            calls.append(x)
            return x**3

    inputs = keras.Input((3,))
    x = Counting()(layers.Dense(1, use_bias=False)(inputs))
    model = keras.Model(inputs, x)
    model.compile(loss="mse")
    rng = np.random.default_rng(0)
    arrays = rng.random((8, 3), "float32"), np.zeros((8, 1), "float32")
    data = analysis.DataLoss(model, arrays, 4)
    first = analysis.top_eigenvalues(model, data, 1)
    count = len(calls)
    kernel = model.trainable_variables[0]
    kernel.assign(2 * kernel)
    second = analysis.top_eigenvalues(model, data, 1)
    analysis.trace(model, data)
    analysis.spectral_density(model, data, draws=2, steps=2)
    assert len(calls) == count
    # w'x to the sixth power.
    np.testing.assert_allclose(second.values, 16 * first.values, rtol=1e-3)


def test_training_goes_on_between_measurements():
    """With a method's state, BatchNorm, and memory that steps reuse."""
    x, labels = random_examples(32)
    model = compile_classifier(build_classifier(norm=True), method=samkeras.FSAM(0.1))
    data, found = analysis.DataLoss(model, (x, labels)), []
    for _ in range(3):
        model.train_on_batches([(x, labels)] * 3)
        found.append(analysis.top_eigenvalues(model, data, 1).values[0])
        fresh = analysis.top_eigenvalues(model, (x, labels), 1).values[0]
        np.testing.assert_allclose(found[-1], fresh, rtol=1e-5)
        model.reset_metrics()
        expected = model.evaluate(x, labels, verbose=0)
        np.testing.assert_allclose(data.loss(), expected, rtol=1e-5)
    assert len(set(found)) == 3


def test_a_model_of_mixed_precision_is_measured_in_that_of_its_weights():
    x, labels = random_examples(20)
    models = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        models.append(compile_classifier(build_classifier()))
        models[-1].set_weights(models[0].get_weights())
    plain, mixed = (find_dense(analysis.DataLoss(m, (x, labels))) for m in models)
    np.testing.assert_allclose(mixed, plain, atol=1e-6)
    assert models[1].get_layer("hidden").compute_dtype == "bfloat16"


def test_a_model_of_float64_is_measured_in_float64():
    keras.config.set_dtype_policy("float64")
    matrix = rotate(INDEFINITE).astype("float64")
    with backend.double_precision():
        model, data = build_quadratic(matrix[None])
        top = analysis.top_eigenvalues(model, data, 2, tolerance=1e-10)
    assert top.dtype == "float64"
    expected = np.linalg.eigvalsh(matrix)[::-1]
    np.testing.assert_allclose(top.values, expected[:2], rtol=1e-12)


def test_a_neuron_of_relu_has_its_hessian():
    """Of (c relu(w x + b) - y)^2 / 2, by hand, in float64: J J' and the residual times
    what w and b have with c; nothing of an example that the neuron is off for."""
    keras.config.set_floatx("float64")  # of the loss, too
    keras.config.set_dtype_policy("float64")
    w, b, c = 0.7, 0.2, -1.3
    x, y = np.array([[0.5], [1.5], [-2.0]]), np.array([[0.3], [-1.0], [4.0]])
    with backend.double_precision():
        inputs = keras.Input((1,), dtype="float64")
        hidden = layers.Dense(1, activation="relu")(inputs)
        model = keras.Model(inputs, layers.Dense(1, use_bias=False)(hidden))
        model.set_weights([np.array([[w]]), np.array([b]), np.array([[c]])])
        model.compile(loss=lambda y, y_pred: ops.square(y_pred - y)[:, 0] / 2)
        found = find_dense(analysis.DataLoss(model, (x, y)))
    expected = np.zeros((3, 3))
    for (at,), (target,) in zip(x, y, strict=True):
        height = w * at + b
        if height > 0:
            slopes = np.array([c * at, c, height])
            mixed = np.array([[0, 0, at], [0, 0, 1], [at, 1, 0]])
            expected += np.outer(slopes, slopes) + (c * height - target) * mixed
    np.testing.assert_allclose(found, expected / len(x), rtol=1e-12, atol=1e-14)


def test_the_sharpness_of_a_product_that_is_the_map():
    """Of the sum of squares over whitened inputs, at no loss: twice the sum of both
    factors' largest singular values, squared."""
    inputs = keras.Input((4,))
    hidden = layers.Dense(3, use_bias=False)(inputs)
    model = keras.Model(inputs, layers.Dense(5, use_bias=False)(hidden))
    model.compile(loss=lambda y, y_pred: ops.sum(ops.square(y_pred - y), axis=-1))
    x = 2 * np.eye(4, dtype="float32")  # of covariance 1
    data = analysis.DataLoss(model, (x, model.predict_on_batch(x)))
    assert data.loss() < 1e-10
    first, second = (np.linalg.svd(w)[1][0] for w in model.get_weights())
    (top,) = analysis.top_eigenvalues(model, data, 1).values
    assert top == pytest.approx(2 * (first**2 + second**2), rel=1e-4)


def test_batches_may_come_one_by_one():
    x, y = random_examples(10)
    model = compile_classifier(build_classifier(keras.Model))
    whole = analysis.trace(model, (x, y), draws=2)
    batches = ((x[i : i + 4], y[i : i + 4]) for i in range(0, len(x), 4))
    parts = analysis.trace(model, batches, draws=2)
    np.testing.assert_allclose(parts.value, whole.value, rtol=1e-4)
    assert parts.num_examples == len(x)


def find_layer_without_second_derivatives() -> layers.Layer:
    if keras.backend.backend() == "jax":
        import jax

        def differentiate(x, gradient):  # elsewhere, as cuDNN does
            return (jax.pure_callback(lambda x, g: 2 * x * g, x, x, gradient),)

        @jax.custom_vjp
        def square(x):
            return x * x

        square.defvjp(lambda x: (x * x, x), differentiate)
    else:
        import tensorflow as tf

        def square(x):  # resizing's gradient has none
            x = tf.raw_ops.ResizeBicubic(images=x[:, :, None, None], size=[5, 1])
            return x[:, :, 0, 0]

    return layers.Lambda(square)


def test_a_model_without_second_derivatives_is_refused():
    inputs = keras.Input((5,))
    x = find_layer_without_second_derivatives()(layers.Dense(5)(inputs))
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile(loss="mse")
    arrays = np.ones((4, 5), "float32"), np.ones((4, 1), "float32")
    with pytest.raises(ValueError, match=r"no second derivatives, .*use_cudnn=False"):
        analysis.top_eigenvalues(model, arrays, 1)
    start = [np.zeros(weight.shape) for weight in model.trainable_variables]
    with pytest.raises(ValueError, match=r"or none forward, .*use_cudnn=False"):
        analysis.linearity(model, arrays, start)


def test_a_loss_that_differs_from_call_to_call_is_refused():
    class Noise(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(shape=(), trainable=False)

        def call(self, x):
            return x * ops.cos(self.count)

    inputs = keras.Input((6,))
    noise = Noise()
    x = noise(layers.Dense(4, activation="tanh")(inputs))
    model = keras.Model(inputs, layers.Dense(1)(x))
    model.compile(loss="mse")
    rng = np.random.default_rng(0)
    arrays = rng.random((8, 6), "float32"), np.ones((8, 1), "float32")
    data = analysis.DataLoss(model, arrays)
    product = data.product

    def disturb(vector):
        noise.count.assign(noise.count + 1)
        return product(vector)

    data.product = disturb
    with pytest.raises(ValueError, match=r"not symmetric .*differs from call to call"):
        analysis.top_eigenvalues(model, data, 3)


def test_bad_input_is_said_in_one_line(monkeypatch):
    model, data = build_quadratic(rotate(INDEFINITE)[None])
    nothing = tuple(array[:0] for array in data)
    uneven = (data[0], np.zeros((2, 1)))
    other, _ = build_quadratic(rotate(INDEFINITE)[None])
    for arguments, message in (
        ((nothing,), "Received no examples"),
        (([],), "Received no examples"),
        ((uneven,), "same number of examples. Received: .1, 2."),
        ((data, 0), "k must be an integer >= 1. Received: 0"),
        ((data, 31), "at most the 30 weights. Received: 31"),
        ((analysis.DataLoss(other, data),), "of the model that is measured"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            analysis.top_eigenvalues(model, *arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="tolerance must be > 0"):
        analysis.top_eigenvalues(model, data, tolerance=0)
    with pytest.raises(ValueError, match="draws must be an integer >= 2"):
        analysis.trace(model, data, draws=1)
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1"):
        analysis.trace(model, data, batch_size=0)
    with pytest.raises(ValueError, match="compile the model"):
        analysis.trace(build_classifier(), data)
    monkeypatch.setattr(os, "sysconf", lambda name: 40)  # 1,600 bytes
    with pytest.raises(ValueError, match=r"30 vectors of 30 weights .* at most 6"):
        analysis.top_eigenvalues(model, data, 1)


def test_data_and_models_that_say_nothing_are_refused():
    """Zeros would be numbers of a model without a loss, and NaN those of such data."""
    x, y = random_examples(8)
    model = compile_classifier(build_classifier())
    without = build_classifier()
    without.compile("sgd")
    # Keras says it itself on one of the backends.
    with pytest.raises(ValueError, match=r"with its loss|No loss to compute"):
        analysis.top_eigenvalues(without, (x, y), 1)
    with pytest.raises(ValueError, match=r"must be arrays \(x, y\) or an iterable"):
        analysis.trace(model, x)
    with pytest.raises(ValueError, match=r"must be arrays\. Received: a list"):
        analysis.trace(model, (x.tolist(), y.tolist()))
    x[0] = np.nan
    with pytest.raises(ValueError, match="second derivatives that are not finite"):
        analysis.top_eigenvalues(model, (x, y), 1)


def test_losses_without_a_mean_and_weights_of_16_bits_are_refused():
    loss = keras.losses.MeanSquaredError(reduction=None)
    inputs = np.ones((2, 3), "float32"), np.ones((2, 1), "float32")
    with pytest.raises(ValueError, match="the loss must be a number"):
        analysis.DataLoss(build_linear(1, 3, loss), inputs)
    keras.config.set_dtype_policy("bfloat16")
    with pytest.raises(ValueError, match="give a float32 copy"):
        analysis.DataLoss(build_linear(1, 3, "mse"), inputs)
