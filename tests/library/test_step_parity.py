"""Steps of SAM against those that tests/references writes by hand, weight for weight.

All is in float64, so that no ReLU is open in one and closed in the other. Of how far
training moves the weights both differ by 1e-15 on JAX, and by up to 1e-6 where keras
takes constants through float32: positions, 1 / 255, on TensorFlow momenta and rates.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras.src.backend.common import dtypes

import samkeras
from samkeras.losses import PresentBinaryCrossentropy, TokenCrossentropy
from samkeras.models.gcn import build_gcn
from samkeras.models.lstm import build_lstm
from samkeras.models.mlp import build_mlp
from samkeras.models.pyramidnet import build_pyramidnet
from samkeras.models.resnet import build_resnet18
from samkeras.models.tagger import build_tagger
from samkeras.models.wide_resnet import build_wide_resnet
from tests.helpers import relative_error, weights_by_path
from tests.trajectory import CLASSES, FEATURES, WORDS, classified, molecules, tagged

jax = pytest.importorskip("jax", reason="the references are written in it")
from tests.references import (  # noqa: E402
    bilstm,
    gcn,
    mlp,
    pyramidnet,
    resnet18,
    tagger,
    wide_resnet,
)
from tests.references.step import SGD, AdamW, build_step  # noqa: E402

RHO, NUM_STEPS, TOLERANCE = 0.05, 5, 1e-5
MOMENTUM_SGD = SGD(learning_rate=0.1, momentum=0.9, l2=5e-4)


class Case(NamedTuple):
    """A model, what it trains on, and the same by hand."""

    build: Callable[[], keras.Model]
    draw: Callable[[np.random.Generator], tuple]  # a batch
    loss: Callable[[], keras.losses.Loss]
    loss_by_hand: Callable
    optimizer: SGD | AdamW


def pixels(rng: np.random.Generator) -> tuple:
    """uint8 images and int labels."""
    return rng.integers(0, 256, (8, 16, 16, 3), "uint8"), rng.integers(0, CLASSES, 8)


def sentences(rng: np.random.Generator) -> tuple:
    x, y, sample_weight = classified(rng)
    return x, y[:, 0], sample_weight


def mlp_loss(weights: dict, images: Any, labels: Any) -> tuple:
    layers = ("hidden_1", "hidden_2", "outputs")
    ordered = [weights[f"{layer}/{w}"] for layer in layers for w in ("kernel", "bias")]
    return mlp.loss(ordered, images.reshape(len(images), -1) / 255, labels)


def softmax_loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


CASES = {
    "mlp": Case(
        lambda: build_mlp((16, 16, 3), CLASSES, [300, 100], 0.03, input_scale=1 / 255),
        pixels,
        softmax_loss,
        mlp_loss,
        MOMENTUM_SGD,
    ),
    "tagger": Case(
        lambda: build_tagger(WORDS, CLASSES, 0.03, depth=1, dropout=0.0),
        tagged,
        TokenCrossentropy,
        tagger.loss,
        AdamW(0.01, weight_decay=0.1, beta_1=0.9, beta_2=0.98, epsilon=1e-9),
    ),
    "lstm": Case(
        lambda: build_lstm(WORDS, 1, 0.03),
        sentences,
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
        bilstm.loss,
        MOMENTUM_SGD,
    ),
    "gcn": Case(
        lambda: build_gcn(FEATURES, CLASSES, 0.05, depth=1),
        molecules,
        PresentBinaryCrossentropy,
        gcn.loss,
        AdamW(0.01, weight_decay=0.0, beta_1=0.9, beta_2=0.999, epsilon=1e-7),
    ),
}


@pytest.fixture(autouse=True)
def float64(monkeypatch) -> Iterator[None]:
    # On JAX keras' layers narrow it to float32.
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    floatx = keras.config.floatx()
    with jax.enable_x64(True):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield
    keras.config.set_floatx(floatx)  # the policy is reset after every test


def compile_sam(
    model: keras.Model, loss: keras.losses.Loss, optimizer: SGD | AdamW
) -> None:
    """Compiles for SAM around keras' counterpart of an optimizer by hand."""
    rate, *options = optimizer
    if isinstance(optimizer, SGD):
        momentum, l2 = options
        base = samkeras.SGD(rate, momentum=momentum)
    else:
        base, l2 = keras.optimizers.AdamW(rate, *options), 0.0
    model.compile(base, loss, method=samkeras.SAM(RHO), l2=l2)


def assert_same_step(
    model: keras.Model, batch: tuple, loss: Any, start: dict, expected: dict
) -> None:
    """Takes a step and compares the logged loss, and how far the weights have moved
    since the start."""
    model.reset_metrics()
    logs = model.train_on_batch(*batch, return_dict=True)
    assert logs["loss"] == pytest.approx(float(loss), rel=TOLERANCE)
    got = weights_by_path([v for v in model.weights if v.path in start])
    moves = (
        [weights[path] - start[path] for path in start] for weights in (got, expected)
    )
    assert relative_error(*moves) < TOLERANCE


@pytest.mark.parametrize("name", CASES)
def test_steps_are_those_by_hand(name):
    """Padded words and nodes, missing labels and weights of 0 among the batches."""
    build, draw, loss, loss_by_hand, optimizer = CASES[name]
    model = build()
    for layer in model.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    compile_sam(model, loss(), optimizer)
    step = jax.jit(build_step(loss_by_hand, optimizer, RHO))
    start = weights = weights_by_path(model.trainable_variables)
    slots, rng = optimizer.start(weights), np.random.default_rng(0)
    for _ in range(NUM_STEPS):
        batch = draw(rng)
        weights, slots, value, _ = step(weights, slots, *batch)
        assert_same_step(model, batch, value, start, weights)


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resnet18_takes_the_authors_steps(depth):
    """Moving statistics too, and at the end inference. The half as deep network has
    all kinds of blocks and compiles in half the time."""
    model = build_resnet18((16, 16, 3), CLASSES, 1 / 16, depth=depth)
    check_steps(model, resnet18, pixels, NUM_STEPS)


@pytest.mark.parametrize(
    ("build", "reference"),
    [
        (lambda *data: build_wide_resnet(*data, 1 / 40, depth=10), wide_resnet),
        pytest.param(
            lambda *data: build_wide_resnet(
                *data, 1 / 40, depth=10, shortcut="zero_pad"
            ),
            wide_resnet,
            marks=pytest.mark.slow,
        ),
        pytest.param(
            lambda *data: build_pyramidnet(*data, 1 / 8, depth=11, widening=24),
            pyramidnet,
            marks=pytest.mark.slow,  # its forward pass is in test_references.py
        ),
    ],
    ids=["wide_resnet", "zero_pad", "pyramidnet"],
)
def test_the_networks_of_foret_et_al_take_their_steps(build, reference):
    def draw(rng):
        return rng.integers(0, 256, (4, 8, 8, 3), "uint8"), rng.integers(0, CLASSES, 4)

    check_steps(build((8, 8, 3), CLASSES), reference, draw, num_steps=1)


def check_steps(
    model: keras.Model, reference: Any, draw: Callable, num_steps: int
) -> None:
    """Compares steps on images, by `reference.loss`, and then inference."""
    compile_sam(model, softmax_loss(), MOMENTUM_SGD)
    step = jax.jit(build_step(reference.loss, MOMENTUM_SGD, RHO))
    start = weights_by_path(model.weights)
    weights = weights_by_path(model.trainable_variables)
    averages = resnet18.initial_averages(weights)
    slots, rng = MOMENTUM_SGD.start(weights), np.random.default_rng(0)
    for _ in range(num_steps):
        batch = draw(rng)
        weights, slots, value, (averages, _) = step(weights, slots, averages, *batch)
        assert_same_step(model, batch, value, start, {**weights, **averages})
    images, _ = batch
    expected, _ = jax.jit(reference.logits)(weights, averages, images)
    assert relative_error([model.predict_on_batch(images)], [expected]) < TOLERANCE
