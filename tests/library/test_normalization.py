"""BatchNorm does as keras' own layer does, whatever operation computes it."""

import keras
import numpy as np
import pytest
from keras import ops

import samkeras
from samkeras.models.normalization import BatchNorm
from tests.helpers import compile_classifier, relative_error, train


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return rng.normal(1.0, [1.0, 0.5, 10.0], (6, 5, 4, 3)).astype("float32")


def same_layers(dtype="float32", **kwargs) -> list[keras.layers.Layer]:
    """Keras' layer and ours, with the same random weights."""
    settings = {"momentum": 0.8, "epsilon": 1e-3, "dtype": dtype, **kwargs}
    layers = [keras.layers.BatchNormalization(**settings), BatchNorm(**settings)]
    rng = np.random.default_rng(1)
    for layer in layers:
        layer.build((None, None, None, 3))
    values = [rng.uniform(0.5, 1.5, w.shape) for w in layers[0].weights]
    for layer in layers:
        layer.set_weights(values)
    return layers


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize("kwargs", [{}, {"center": False}, {"scale": False}])
def test_outputs_and_statistics_are_those_of_keras(images, training, dtype, kwargs):
    theirs, ours = same_layers(dtype, **kwargs)
    expected = theirs(images, training=training)
    outputs = ours(images, training=training)
    assert outputs.dtype == expected.dtype
    tolerance = {"float32": 1e-5, "mixed_bfloat16": 2**-7, "mixed_float16": 2**-10}
    np.testing.assert_allclose(
        *(ops.convert_to_numpy(ops.cast(o, "float32")) for o in (outputs, expected)),
        rtol=tolerance[dtype],
        atol=tolerance[dtype],
    )
    # The statistics are float32's, and the variances biased, in every type.
    for ours_, theirs_ in zip(ours.weights, theirs.weights, strict=True):
        assert ours_.dtype == "float32"
        np.testing.assert_allclose(ours_, theirs_, rtol=1e-5)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_training_is_that_of_keras(images, jit_compile):
    """Gradients for the inputs, scales and offsets, and through both passes of SAM."""
    labels = np.arange(len(images)) % 2
    weights = []
    for layer in same_layers():
        inputs = keras.Input(images.shape[1:])
        # The rescaled layer has every input's gradient go through the normalization.
        x = keras.layers.Conv2D(3, 1, kernel_initializer="ones")(inputs)
        x = keras.layers.Flatten()(keras.layers.ReLU()(layer(x)))
        x = keras.layers.Dense(2, kernel_initializer=keras.initializers.Constant(0.1))(
            x
        )
        model = samkeras.SAMModel(inputs, x)
        rng = np.random.default_rng(2)
        model.set_weights(
            [rng.uniform(0.1, 1.0, weight.shape) for weight in model.get_weights()]
        )
        # Steps so small that they do not amplify float32's rounding a thousandfold.
        compile_classifier(
            model,
            optimizer=samkeras.SGD(0.05, momentum=0.9),
            method=samkeras.SAM(0.1),
            l2=1e-3,
            jit_compile=jit_compile,
        )
        start = [ops.convert_to_numpy(weight) for weight in model.trainable_weights]
        train(model, images, labels, batch_size=3, epochs=2)
        assert relative_error(model.trainable_weights, start) > 1e-2
        weights.append(model.get_weights())
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-6, atol=2e-6)
