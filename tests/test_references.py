"""Each model against its source, as tests/references renders it, with its weights."""

import keras
import numpy as np
import pytest
from keras import ops
from keras.src.backend.common import dtypes

import samkeras
from samkeras.backend import backend
from samkeras.data.atari import FRAMES
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.models.actor_critic import build_actor_critic
from samkeras.models.gcn import build_gcn
from samkeras.models.lstm import build_lstm
from samkeras.models.mlp import build_mlp
from samkeras.models.resnet import build_resnet18, build_resnet50
from samkeras.models.tagger import build_tagger
from tests.helpers import batches_of, relative_error
from tests.references import (
    actor_critic,
    bilstm,
    gcn,
    mlp,
    resnet18,
    resnet50,
    tagger,
    weights_of,
)

SIZES = (5, 1, 7, 3)  # of sentences and graphs, in one padded batch
CLASSES = 10


def randomize(model: keras.Model) -> keras.Model:
    """Gives a model weights of which none is what it starts with: biases, scales and
    moving statistics too."""
    rng = np.random.default_rng(1)
    for variable in model.weights:
        values = rng.normal(0, 0.5, variable.shape)
        if variable.name in ("gamma", "moving_variance"):
            values = rng.uniform(0.5, 1.5, variable.shape)
        elif variable.name == "kernel":
            values = ops.convert_to_numpy(variable) + 0.1 * values
        variable.assign(values)
    return model


def random_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def assert_close(outputs, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """To a part of the largest number."""
    scale = np.abs(expected).max()
    assert scale > 0.1
    outputs = ops.convert_to_numpy(outputs)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=tolerance * scale)


def test_mlp():
    x = random_pixels(4, 6, 6, 1)
    model = build_mlp(x.shape[1:], CLASSES, [300, 100], 0.03, input_scale=1 / 255)
    expected = mlp.logits(weights_of(randomize(model)), x)
    assert_close(model.predict_on_batch(x), expected)


def test_resnet50():
    """One block in each stage, by moving statistics and by the batch's own, and where
    these move."""
    x, num_blocks = random_pixels(4, 64, 64, 3), (1, 1, 1, 1)
    model = randomize(build_resnet50(x.shape[1:], CLASSES, 1 / 16, depth=1))
    weights = weights_of(model)
    expected, _ = resnet50.logits(weights, x, num_blocks)
    assert_close(model.predict_on_batch(x), expected)
    expected, statistics = resnet50.logits(weights, x, num_blocks, is_training=True)
    train = backend.compile_function(
        lambda x: model.stateless_call(
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            x,
            training=True,
        )
    )
    outputs, state = train(x)
    assert_close(outputs, expected)
    paths = [v.path for v in model.non_trainable_variables]
    state = dict(zip(paths, state, strict=True))
    for layer, values in statistics.items():
        for kind, value in zip(("mean", "variance"), values, strict=True):
            path = f"{layer}/moving_{kind}"
            assert_close(state.pop(path), 0.9 * weights[path] + 0.1 * value)
    assert not state


def random_words(vocabulary_size: int) -> np.ndarray:
    """int32[sentence, word], 0 where padded."""
    words = np.random.default_rng(0).integers(1, vocabulary_size, (len(SIZES), 9))
    return np.where(np.arange(9) < np.array(SIZES)[:, np.newaxis], words, 0)


def test_tagger():
    """Two heads. The source attends to padding, which we do not: each sentence is as
    the source has it alone."""
    words = random_words(20)
    model = randomize(build_tagger(20, CLASSES, 0.25, depth=2))
    weights, outputs = weights_of(model), model.predict_on_batch(words)
    for row, size, got in zip(words, SIZES, outputs, strict=True):
        assert_close(got[:size], tagger.logits(weights, row[:size], num_blocks=2))


def test_bilstm():
    words = random_words(30)
    model = randomize(build_lstm(30, width_mult=1 / 32))
    weights = weights_of(model)
    expected = [
        bilstm.logits(weights, row[:size])
        for row, size in zip(words, SIZES, strict=True)
    ]
    assert np.ptp(expected) > 0.02  # sentences differ
    assert_close(model.predict_on_batch(words), np.array(expected))


def test_gcn():
    """Graphs of one node, of chains and with edges given in both directions."""
    rng = np.random.default_rng(0)
    graphs = []
    for size in SIZES:
        chain = np.stack([np.arange(size - 1), np.arange(1, size)])
        edges = np.concatenate([chain, chain[::-1, ::2]], axis=1).astype("int32")
        graphs.append(Graph(rng.integers(0, 9, (size, 9)).astype("uint8"), edges))
    model = randomize(build_gcn(9, 3, 1 / 32))
    labels = np.zeros((len(graphs), 3), "float32")
    inputs, *_ = GraphCollate().pad(as_array(graphs), labels, max(SIZES))
    weights = weights_of(model)
    expected = [gcn.logits(weights, graph.nodes, graph.edges) for graph in graphs]
    assert_close(model.predict_on_batch(inputs), np.array(expected))


def test_actor_critic():
    frames = random_pixels(2, *FRAMES)
    model = randomize(build_actor_critic(FRAMES, 4, 1 / 8))
    weights = [weight.astype("float64") for weight in model.get_weights()]
    assert_close(model.predict_on_batch(frames), actor_critic.outputs(weights, frames))


@pytest.fixture
def float64(monkeypatch):
    """All in float64, so that no ReLU is open in one and closed in the other."""
    jax = pytest.importorskip("jax")  # for the gradients of the rendering
    # On JAX keras' layers narrow it to float32.
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    floatx = keras.config.floatx()
    with jax.enable_x64(True):
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield
    keras.config.set_floatx(floatx)  # the policy is reset after every test


@pytest.mark.parametrize("depth", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_resnet18_takes_the_authors_steps(float64, depth):
    """Six steps of SAM with momentum and weight decay at 4 filters: losses, weights and
    moving statistics, and at their end inference. Of the half as deep network, which
    compiles in half the time, too."""
    x, y = random_pixels(48, 16, 16, 3), np.arange(48) % CLASSES
    model = build_resnet18(x.shape[1:], CLASSES, 1 / 16, depth=depth)
    model.compile(
        samkeras.SGD(0.1, momentum=0.9),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        method=samkeras.SAM(0.05),
        l2=5e-4,
    )
    start = weights_of(model)
    weights, velocities = start, {}
    settings = (0.05, 0.1, 0.9, 5e-4)
    for batch in batches_of(x, y, 8):
        loss, weights, velocities = resnet18.sam_step(
            weights, velocities, *batch, *settings
        )
        model.reset_metrics()
        logged = model.train_on_batch(*batch, return_dict=True)
        assert logged["loss"] == pytest.approx(loss, rel=1e-6)
        got = weights_of(model)
        moves = (
            [new[path] - start[path] for path in weights] for new in (got, weights)
        )
        assert relative_error(*moves) < 1e-6
    assert_close(model.predict_on_batch(x), resnet18.logits(weights, x), 1e-6)
