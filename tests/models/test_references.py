"""Each model against its source, as tests/references renders it, with its weights.

Sentences and graphs are padded to one size for the model and without padding there.
"""

import functools
from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import ops

from samkeras.backend import backend
from samkeras.data.atari import FRAMES
from samkeras.data.graphs import Graph, GraphCollate, as_array
from samkeras.models.actor_critic import build_actor_critic
from samkeras.models.gcn import build_gcn
from samkeras.models.lstm import build_lstm
from samkeras.models.mlp import build_mlp
from samkeras.models.pyramidnet import build_pyramidnet
from samkeras.models.resnet import build_resnet18, build_resnet50
from samkeras.models.shake_shake import build_shake_shake
from samkeras.models.tagger import build_tagger
from samkeras.models.wide_resnet import build_wide_resnet
from tests.helpers import weights_by_path, weights_float64

jax = pytest.importorskip("jax", reason="the references are written in it")
from tests.references import (  # noqa: E402
    actor_critic,
    bilstm,
    gcn,
    mlp,
    pyramidnet,
    resnet18,
    resnet50,
    shake_shake,
    tagger,
    wide_resnet,
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


def in_float64(rendering: Callable) -> Callable:
    """A rendering in JAX, compiled and computed in float64."""

    def compute(*args, **options):
        with jax.enable_x64(True):
            outputs = jax.jit(functools.partial(rendering, **options))(*args)
            return jax.tree.map(np.asarray, outputs)

    return compute


def assert_close(outputs, expected: np.ndarray, tolerance: float = 1e-5) -> None:
    """To a part of the largest number."""
    scale = np.abs(expected).max()
    assert scale > 0.1
    outputs = ops.convert_to_numpy(outputs)
    np.testing.assert_allclose(outputs, expected, rtol=0, atol=tolerance * scale)


def test_mlp():
    x = random_pixels(4, 6, 6, 1)
    model = build_mlp(x.shape[1:], CLASSES, [300, 100], 0.03, input_scale=1 / 255)
    weights = weights_float64(randomize(model))
    expected = in_float64(mlp.logits)(weights, x.reshape(len(x), -1) / 255)
    assert_close(model.predict_on_batch(x), expected)


@pytest.mark.parametrize(
    ("build", "logits", "depth", "size"),
    [
        (build_resnet18, in_float64(resnet18.logits), 2, 16),
        (build_resnet50, resnet50.logits, 1, 64),
        (build_wide_resnet, in_float64(wide_resnet.logits), 10, 8),
        (
            functools.partial(build_wide_resnet, shortcut="zero_pad"),
            in_float64(wide_resnet.logits),
            10,
            8,
        ),
        (
            functools.partial(build_pyramidnet, widening=48),
            in_float64(pyramidnet.logits),
            11,
            8,
        ),
    ],
    ids=["resnet18", "resnet50", "wide_resnet", "zero_pad", "pyramidnet"],
)
def test_residual_networks(build, logits, depth, size):
    """By moving statistics and by the batch's own, and where these move."""
    x = random_pixels(4, size, size, 3)
    model = randomize(build(x.shape[1:], CLASSES, 1 / 16, depth=depth))
    weights = weights_by_path(model.trainable_variables)
    averages = weights_by_path(model.non_trainable_variables)
    expected, _ = logits(weights, averages, x)
    assert_close(model.predict_on_batch(x), expected)
    expected, averages = logits(weights, averages, x, is_training=True)
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
    assert set(paths) == set(averages)
    for path, value in zip(paths, state, strict=True):
        assert_close(value, averages[path])


def test_shake_shake():
    """Outside training: what is mixed in it is drawn anew."""
    x = random_pixels(4, 8, 8, 3)
    model = randomize(build_shake_shake(x.shape[1:], CLASSES, 1 / 24, depth=8))
    weights = weights_by_path(model.trainable_variables)
    averages = weights_by_path(
        [v for v in model.non_trainable_variables if "moving" in v.name]
    )
    expected = in_float64(shake_shake.logits)(weights, averages, x)
    assert_close(model.predict_on_batch(x), expected)


def random_words(vocabulary_size: int) -> np.ndarray:
    """int32[sentence, word], 0 where padded."""
    words = np.random.default_rng(0).integers(1, vocabulary_size, (len(SIZES), 9))
    return np.where(np.arange(9) < np.array(SIZES)[:, np.newaxis], words, 0)


def test_tagger():
    """Two heads."""
    words = random_words(20)
    model = randomize(build_tagger(20, CLASSES, 0.25, depth=2))
    weights, outputs = weights_by_path(model.weights), model.predict_on_batch(words)
    for row, size, got in zip(words, SIZES, outputs, strict=True):
        (expected,) = in_float64(tagger.logits)(weights, row[np.newaxis, :size])
        assert_close(got[:size], expected)


def test_bilstm():
    words = random_words(30)
    model = randomize(build_lstm(30, width_mult=1 / 32))
    weights = weights_by_path(model.weights)
    expected = [
        in_float64(bilstm.logits)(weights, row[np.newaxis, :size])
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
    weights = weights_by_path(model.weights)
    expected = [
        in_float64(gcn.logits)(weights, gcn.as_batch(graph.nodes, graph.edges))
        for graph in graphs
    ]
    assert_close(model.predict_on_batch(inputs), np.concatenate(expected))


def test_actor_critic():
    frames = random_pixels(2, *FRAMES)
    model = randomize(build_actor_critic(FRAMES, 4, 1 / 8))
    expected = actor_critic.outputs(weights_float64(model), frames)
    assert_close(model.predict_on_batch(frames), expected)
