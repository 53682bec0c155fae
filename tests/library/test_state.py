"""What a step assigns is what keras.Model would have assigned."""

import functools

import keras
import numpy as np
import pytest
from keras import layers, ops

import samkeras
from tests.helpers import norm

IS_TENSORFLOW = keras.backend.backend() == "tensorflow"
BATCH, LENGTH, FEATURES = 8, 3, 4
# Every one takes the path of our own step and leaves the gradient as it is.
MODES = {
    "sam": {"method": samkeras.SAM(0.0)},
    "l2": {"l2": 1e-30},
    "masks": {},
}


class Counting(layers.Layer):
    """Assigns an integer and an average, which enter the output."""

    def build(self, input_shape):
        self.count = self.add_weight((), "zeros", "int32", trainable=False)
        self.mean = self.add_weight((), "ones", trainable=False)

    def call(self, x):
        self.count.assign_add(1)
        self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(x))
        return x * self.mean + ops.cast(self.count, x.dtype)


class Noise(layers.Layer):
    """Noise of keras' own generator, which has no place in a model, and a metric."""

    def __init__(self):
        super().__init__()
        self.metric = keras.metrics.Mean(name="input")

    def call(self, x):
        self.metric.update_state(x)
        return x + 0.1 * keras.random.normal(ops.shape(x))


class SquaredLoss:
    """A model's own loss with a metric of its own."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.worst = keras.metrics.Sum(name="worst")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        errors = ops.square(y - y_pred)
        self.worst.update_state(ops.max(errors))
        return ops.mean(errors)


def random_sequences() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3 * BATCH, LENGTH, FEATURES)).astype("float32")
    return x, rng.standard_normal((3 * BATCH, 2)).astype("float32")


def build_heads(model_class, *middle):
    """Two outputs after some layers."""
    inputs = keras.Input((LENGTH, FEATURES), batch_size=BATCH)
    x = inputs
    for layer in middle:
        x = layer(x)
    if len(x.shape) == 3:
        x = layers.Flatten()(x)
    return model_class(inputs, {n: layers.Dense(2, name=n)(x) for n in "ab"})


def build_own_loss(model_class):
    inputs = keras.Input((LENGTH, FEATURES), batch_size=BATCH)
    outputs = layers.Dense(2)(layers.Flatten()(inputs))
    return type("OwnLoss", (SquaredLoss, model_class), {})(inputs, outputs)


def spectral():
    return layers.SpectralNormalization(layers.Dense(FEATURES))


CASES = {
    "outputs": build_heads,
    "counters": lambda c: build_heads(c, Counting()),
    "spectral": lambda c: build_heads(c, spectral()),
    "rnn": lambda c: build_heads(c, layers.SimpleRNN(2, stateful=True)),
    "loss": build_own_loss,
}
if IS_TENSORFLOW:  # keras refuses both on JAX
    CASES["noise"] = lambda c: build_heads(c, Noise())


def train(build, model_class, run_eagerly=True, mode=None, **kwargs):
    """Logs, variables and the next random number after some steps."""
    keras.utils.set_random_seed(3)
    model = build(model_class)
    if mode == "masks":
        weight = model.trainable_variables[0]
        model.set_masks([(weight, np.ones(weight.shape, bool))])
    x, y = random_sequences()
    if isinstance(model.output, dict):
        y = {"a": y, "b": -y}
        kwargs["loss"] = {"a": "mse", "b": "mse"}
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    model.compile(optimizer=optimizer, run_eagerly=run_eagerly, **kwargs)
    history = model.fit(x, y, batch_size=BATCH, shuffle=False, verbose=0).history
    history = {k: v for k, v in history.items() if "grad" not in k}
    return history, model.variables, keras.random.uniform(())


def assert_same(actual, expected):
    (logs, variables, number), (plain_logs, plain_variables, plain_number) = (
        actual,
        expected,
    )
    assert logs.keys() == plain_logs.keys()
    for name, values in plain_logs.items():
        np.testing.assert_allclose(logs[name], values, rtol=1e-5, err_msg=name)
    for variable, plain in zip(variables, plain_variables, strict=True):
        np.testing.assert_allclose(
            variable, plain, rtol=1e-5, atol=1e-6, err_msg=plain.path
        )
    np.testing.assert_array_equal(number, plain_number)


@pytest.mark.parametrize("case", CASES)
def test_a_step_assigns_what_plain_keras_does(case):
    """Metrics, counters, states of layers, the draws of random numbers, and weights
    that a layer assigns itself: with SAM, l2 or masks, at a rho of zero."""
    expected = train(CASES[case], keras.Model)
    for mode, kwargs in MODES.items():
        assert_same(
            train(CASES[case], samkeras.SAMModel, mode=mode, **kwargs), expected
        )


def test_a_compiled_step_assigns_what_plain_keras_does():
    def build(model_class):
        return build_heads(model_class, spectral(), Counting())

    expected = train(build, keras.Model, run_eagerly=False)
    for mode, kwargs in MODES.items():
        actual = train(build, samkeras.SAMModel, run_eagerly=False, mode=mode, **kwargs)
        assert_same(actual, expected)


class Unused(layers.Layer):
    """Has a weight on which nothing depends."""

    def build(self, input_shape):
        self.spare = self.add_weight((2,), "ones")

    def call(self, x):
        return x


def train_unused(model_class, optimizer, **kwargs) -> list[np.ndarray]:
    keras.utils.set_random_seed(3)
    inputs = keras.Input((FEATURES,))
    model = model_class(inputs, layers.Dense(2)(Unused()(inputs)))
    model.compile(optimizer, "mse", run_eagerly=True, **kwargs)
    x, y = random_sequences()
    model.train_on_batch(x[:, 0], y)
    return model.get_weights()


def test_a_weight_that_the_loss_does_not_reach_is_left_as_plain_keras_leaves_it():
    """On TensorFlow no decay of the optimizer's own either; l2 is of every weight."""

    def build_optimizer():
        return keras.optimizers.AdamW(0.1, weight_decay=0.5)

    expected = train_unused(keras.Model, build_optimizer())
    sam = samkeras.SAM(0.0)
    actual = train_unused(samkeras.SAMModel, build_optimizer(), method=sam)
    for weight, plain in zip(actual, expected, strict=True):
        np.testing.assert_allclose(weight, plain, rtol=1e-5)
    spare, *_ = train_unused(samkeras.SAMModel, keras.optimizers.SGD(0.5), l2=0.2)
    np.testing.assert_allclose(spare, [0.9, 0.9], rtol=1e-6)


@pytest.mark.skipif(not IS_TENSORFLOW, reason="SavedModels are TensorFlow's")
def test_weights_of_a_saved_model_train(tmp_path):
    """TensorFlow reads them past keras: they take the steps of a model's own layers,
    BatchNorm's statistics included, or m_sharpness and a first pass at w + epsilon,
    where they would stay at w, refuse them."""
    shapes = [keras.Input((FEATURES,)), layers.Dense(3, "tanh")]
    inner = keras.Sequential([*shapes, layers.BatchNormalization()])
    archive = keras.export.ExportArchive()
    archive.track(inner)
    for name, training in (("serve", False), ("train", True)):
        call = functools.partial(inner, training=training)
        spec = keras.InputSpec("float32", [None, FEATURES])
        archive.add_endpoint(name, call, [spec])
    archive.write_out(str(tmp_path), verbose=False)

    def train_with(layer, **kwargs) -> np.ndarray:
        inputs = keras.Input((FEATURES,))
        outputs = layers.Dense(2, kernel_initializer="ones")(layer(inputs))
        model = samkeras.SAMModel(inputs, outputs)
        kwargs.setdefault("method", samkeras.SAM(0.5))
        model.compile("sgd", "mse", l2=0.1, **kwargs)
        x, y = random_sequences()
        model.fit(x[:, 0], y, batch_size=BATCH, shuffle=False, verbose=0)
        # The layer's weights come in the order in which its functions have them.
        weights = map(np.ravel, model.get_weights())
        return np.sort(np.concatenate([*weights]))

    def load():
        return layers.TFSMLayer(str(tmp_path), "serve", "train")

    before = inner.get_weights()
    actual, expected = train_with(load()), train_with(inner)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)
    assert norm([inner.get_weights()[0] - before[0]]) > 1e-3
    with pytest.raises(ValueError, match="m_sharpness, several devices, losses of"):
        train_with(load(), m_sharpness=2)

    class Elsewhere(samkeras.Method):
        def gradients(self, context):
            return context.gradients_at([ops.ones_like(w) for w in context.weights])

    with pytest.raises(ValueError, match=r"first pass at w \+ epsilon"):
        train_with(load(), method=Elsewhere())


@pytest.mark.skipif(not IS_TENSORFLOW, reason="SavedModels are TensorFlow's")
def test_an_interrupted_second_pass_leaves_the_weights():
    """Those that are read past keras hold w + epsilon only while it runs."""
    from samkeras.backend.tensorflow import _held

    weight = keras.Variable([1.0, 2.0])

    def interrupted_pass():
        with _held([(weight, [5.0, 5.0])]):
            np.testing.assert_array_equal(weight, [5.0, 5.0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_pass()
    np.testing.assert_array_equal(weight, [1.0, 2.0])
