"""The whole gradient of what SAM minimizes, its second-order term included."""

import keras
import numpy as np
import pytest

import samkeras
from samkeras.scope import is_ascent
from tests.helpers import build_classifier, flat, perceptron, random_examples, train

RHO, STEP = 0.3, 1e-5


def lift(weights: list, batch: tuple, only: str, scope: str) -> float:
    """The loss at w + epsilon, by hand."""
    gradient = perceptron(weights, *batch)[1]
    if only == "bias":
        gradient = [g * (g.ndim == 1) for g in gradient]
    lengths = [np.linalg.norm(g) for g in gradient]
    if scope == "global":
        lengths = [np.linalg.norm(lengths)] * len(gradient)
    epsilon = [RHO * g / length for g, length in zip(gradient, lengths, strict=True)]
    return perceptron([w + e for w, e in zip(weights, epsilon, strict=True)], *batch)[0]


def differences(weights: list, *args) -> np.ndarray:
    """The gradient of `lift` by central differences."""
    found = []
    for weight in weights:
        for place in np.ndindex(weight.shape):
            value, ends = weight[place], []
            for sign in (1, -1):
                weight[place] = value + sign * STEP
                ends.append(lift(weights, *args))
            weight[place] = value
            found.append((ends[0] - ends[1]) / (2 * STEP))
    return np.array(found)


def descent(method) -> tuple[np.ndarray, list, tuple]:
    """What a step of rate 1 takes off the weights, these and the batch."""
    keras.utils.set_random_seed(0)
    batch = random_examples(16)
    model = build_classifier()
    before = [np.array(w, "float64") for w in model.get_weights()]
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(1.0), loss, method=method)
    train(model, *batch)
    return flat(before) - flat(model.get_weights()), before, batch


@pytest.mark.parametrize(
    ("only", "scope"), [("all", "global"), ("all", "layer"), ("bias", "global")]
)
def test_it_is_the_gradient_of_the_loss_at_the_perturbed_weights(only, scope):
    """To 1e-4 of central differences in float64, of all weights where some alone are
    perturbed, too; SAM's is further off."""
    options = {"only": only, "scope": scope}
    found, weights, batch = descent(samkeras.SecondOrderSAM(RHO, **options))
    first_order, _, _ = descent(samkeras.SAM(RHO, **options))
    expected = differences(weights, batch, only, scope)

    def error(gradient: np.ndarray) -> float:
        return np.linalg.norm(gradient - expected) / np.linalg.norm(expected)

    assert error(found) < 1e-4
    assert error(first_order) > 1e-3


@pytest.mark.parametrize(
    ("method", "passes"),
    [
        (samkeras.SecondOrderSAM(RHO), [True, False, True]),  # the product comes last
        (samkeras.SAM(RHO, steps=3), [True, True, True, False]),
        (samkeras.SAM(RHO, steps=2, only="kernel"), [True, True, False]),
    ],
)
def test_layers_know_which_passes_find_the_perturbation(method, passes):
    """Those of all steps of ascent: layers that shake give another gradient there, of
    which the second-order product is, too."""
    found = []

    class Probe(keras.layers.Layer):
        def call(self, x):
            found.append(is_ascent())
            return x

    inputs = keras.Input((3,))
    model = samkeras.SAMModel(inputs, keras.layers.Dense(2)(Probe()(inputs)))
    model.compile("sgd", "mse", method=method, run_eagerly=True)
    model.build_for((np.ones((4, 3), "float32"), np.ones((4, 2), "float32")))
    found.clear()
    model.train_on_batch(np.ones((4, 3)), np.ones((4, 2)))
    assert found == passes
