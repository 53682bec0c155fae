"""Half precision, and loss scaling that SAM must see through."""

import contextlib
import math
import re

import keras
import numpy as np
import pytest
from keras.optimizers import LossScaleOptimizer

import samkeras
from samkeras.backend import backend
from tests.helpers import (
    build_classifier,
    compile_classifier,
    is_precise,
    random_examples,
    relative_error,
    train,
)


def test_mixed_bfloat16_trains_as_float32_does():
    """Variables stay float32; the weights come close to those of float32."""
    weights = []
    for policy in ("float32", "mixed_bfloat16"):
        keras.config.set_dtype_policy(policy)
        keras.utils.set_random_seed(3)
        model = compile_classifier(build_classifier(), method=samkeras.SAM(0.5))
        start = model.get_weights()
        history = train(model, *random_examples())
        assert np.isfinite(history["loss"][0])
        assert {v.dtype for v in model.trainable_variables} == {"float32"}
        weights.append(model.get_weights())
    moved = relative_error(start, weights[0])
    # bfloat16 keeps 8 bits: errors of a few percent of the way that training went.
    assert relative_error(weights[1], weights[0]) < 0.1 * moved


def test_full_precision_ends_where_it_began():
    """Also where what is within it fails, or another one is in it."""
    assert not is_precise()
    with contextlib.suppress(KeyError), backend.full_precision():
        with backend.full_precision():
            assert is_precise()
        assert is_precise()
        raise KeyError
    assert not is_precise()


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="reads JAX's programs")
def test_every_product_of_a_step_is_of_full_precision():
    """Those of both passes and of derivatives; outside it they are the device's."""
    import jax

    model = compile_classifier(build_classifier(), method=samkeras.SAM(0.5))
    x, y = random_examples(16)
    model.build_for((x, y))
    parts = (model.trainable_variables, model.non_trainable_variables)
    parts += (model.optimizer.variables, model.metrics_variables)
    state = tuple(backend.values_of(variables) for variables in parts)

    def find_products() -> list[str]:
        program = str(jax.make_jaxpr(model.train_step)(state, (x, y)))
        return re.findall(r"dot_general\[.*?precision=(\w+|\(.*?\))", program, re.S)

    with backend.full_precision():
        found = find_products()
    assert len(found) > 6
    assert {"HIGHEST" in each for each in found} == {True}
    assert not [each for each in find_products() if "HIGHEST" in each]


def test_a_step_of_float64_has_its_digits():
    """Those of NumPy, also where keras on JAX computes means as float32."""
    x, w = np.array([[1 / 3, 0.1], [0.7, 2.0]]), np.array([3.0, 1.0])
    rho, rate, zeros = 0.5, 0.1, np.zeros((2, 1))
    with backend.double_precision():
        keras.config.set_floatx("float64")
        try:
            inputs = keras.Input((2,), dtype="float64")
            layer = keras.layers.Dense(1, use_bias=False, dtype="float64")
            model = samkeras.SAMModel(inputs, layer(inputs))
            layer.kernel.assign(w[:, None])
            model.compile(samkeras.SGD(rate), "mse", method=samkeras.SAM(rho))
            losses = [model.train_on_batch(x, zeros)[0] for _ in range(3)]
            found = np.asarray(layer.kernel)[:, 0]
        finally:
            keras.config.set_floatx("float32")
    expected = []
    for _ in range(3):
        expected.append(np.mean((x @ w) ** 2))
        gradient = x.T @ (x @ w)
        point = w + rho * gradient / (np.linalg.norm(gradient) + 1e-12)
        w = w - rate * x.T @ (x @ point)
    np.testing.assert_allclose(losses, expected, rtol=1e-14)
    np.testing.assert_allclose(found, w, rtol=1e-14)


def test_l2_is_not_divided_by_the_loss_scale():
    """Without a gradient, w <- w - lr l2 w, although the optimizer divides by 2^15."""
    keras.config.set_dtype_policy("mixed_float16")
    model = build_classifier()
    compile_classifier(
        model,
        optimizer=samkeras.SGD(0.5),
        method=samkeras.SAM(0.5),
        l2=0.25,
    )
    assert isinstance(model.optimizer, LossScaleOptimizer)
    expected = [w * (1 - 0.5 * 0.25) for w in model.get_weights()]
    x, y = random_examples(16)
    model.train_on_batch(x, y, sample_weight=np.zeros(16))
    assert relative_error(model.get_weights(), expected) < 1e-7  # float32


def test_epsilon_is_made_from_unscaled_gradients():
    """UnnormalizedSAM, whose epsilon grows with the gradient, ignores the loss scale.

    float32 weights and powers of two make scaling exact; two steps are fused.
    """
    runs = []
    for scaled in (True, False):
        keras.utils.set_random_seed(3)
        optimizer = samkeras.SGD(0.2, momentum=0.9)
        if scaled:
            optimizer = LossScaleOptimizer(optimizer, initial_scale=2.0**10)
        model = compile_classifier(
            build_classifier(),
            optimizer=optimizer,
            method=samkeras.UnnormalizedSAM(0.5),
            l2=0.1,
            steps_per_execution=2,
        )
        history = train(model, *random_examples(80))
        runs.append((model.get_weights(), history))
    (weights, history), (expected, expected_history) = runs
    assert relative_error(weights, expected) < 1e-6  # another program
    for name, values in expected_history.items():
        assert history[name] == pytest.approx(values, rel=1e-5)


def test_scale_factor_of_the_optimizer_itself_is_undone():
    """Keras optimizers' own loss_scale_factor changes nothing either."""
    weights = []
    for factor in (None, 2.0**10):
        keras.utils.set_random_seed(3)
        model = compile_classifier(
            build_classifier(),
            optimizer=samkeras.SGD(0.2, loss_scale_factor=factor),
            method=samkeras.UnnormalizedSAM(0.5),
            l2=0.1,
            run_eagerly=True,
        )
        train(model, *random_examples(32))
        weights.append(model.get_weights())
    assert relative_error(*weights) < 1e-6  # float32


class OneWeight(keras.layers.Layer):
    """Its output is 2 sqrt(w) for any input; the gradient, 1 / sqrt(w), has no bound.

    x: float32[batch, 1] -> float32[batch, 1].
    """

    def build(self, input_shape):
        self.weight = self.add_weight(shape=(), initializer="ones")

    def call(self, x):
        return 2 * keras.ops.sqrt(self.weight) + 0 * x


@pytest.mark.parametrize(
    "build_method",
    [
        lambda: samkeras.SAM(1.0),
        lambda: samkeras.SAM(1.0, p=math.inf),
        lambda: samkeras.UnnormalizedSAM(1.0),
    ],
    ids=["p_2", "p_inf", "unnormalized"],
)
def test_step_whose_first_pass_overflows_is_skipped_whole(build_method):
    """Weights, momentum and step stay, and the scale halves, although with p = inf the
    second pass, at w + rho, is finite."""
    inputs = keras.Input((1,))
    layer = OneWeight()
    model = samkeras.SAMModel(inputs, layer(inputs))
    largest = 2.0**126  # so that 1 / sqrt(w) = 1e5 times the scale is infinite
    model.compile(
        optimizer=LossScaleOptimizer(
            samkeras.SGD(0.125, momentum=0.5), initial_scale=largest
        ),
        loss=lambda y, y_pred: keras.ops.mean(y_pred, axis=-1),
        method=build_method(),
        l2=0.1,
        run_eagerly=True,
    )
    x = np.zeros((2, 1), "float32")
    optimizer = model.optimizer.inner_optimizer

    def read_state():
        values = layer.weight, optimizer.momentums[0], optimizer.iterations
        return [float(keras.ops.convert_to_numpy(v.value)) for v in values]

    model.train_on_batch(x, x)
    # A step from w = 1, e = 1: v = 1 / sqrt(2) + l2.
    velocity = 0.5**0.5 + 0.1
    assert read_state() == pytest.approx([1 - 0.125 * velocity, velocity, 1], rel=1e-6)
    assert float(model.optimizer.dynamic_scale) == largest

    layer.weight.assign(1e-10)
    before = read_state()
    logs = model.train_on_batch(x, x, return_dict=True)
    assert read_state() == before
    assert float(model.optimizer.dynamic_scale) == largest / 2
    # The logged mean, of no step at all, is not that of an infinite gradient.
    assert logs["grad_norm"] == 0
