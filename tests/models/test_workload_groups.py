"""Every workload's model trains in groups of m examples."""

import keras
import numpy as np
import pytest

import samkeras
from samkeras.experiment.runs.build import _choose_jit_compile
from samkeras.losses import (
    PresentBinaryCrossentropy,
    SmoothedCrossentropy,
    TokenCrossentropy,
)
from samkeras.models.actor_critic import build_actor_critic
from samkeras.models.cifar_resnet import build_cifar_resnet
from samkeras.models.gcn import build_gcn
from samkeras.models.lstm import build_lstm
from samkeras.models.mlp import build_mlp
from samkeras.models.resnet import build_resnet18, build_resnet50
from samkeras.models.tagger import build_tagger
from samkeras.models.vgg import build_vgg11
from samkeras.models.vit import build_vit
from samkeras.models.wide_resnet import build_wide_resnet
from samkeras.ppo import PPOLoss
from tests import helpers, trajectory

RHO, RATE = 0.3, 0.2


def images(size: int):
    """A function that makes examples of RGB images with one of three labels each."""

    def make(rng: np.random.Generator) -> tuple:
        x = rng.integers(0, 256, (8, size, size, 3)).astype("uint8")
        return x, rng.integers(0, 3, 8), np.ones(8, "float32")

    return make


def vectors(rng: np.random.Generator) -> tuple:
    x = rng.standard_normal((8, 5)).astype("float32")
    return x, rng.standard_normal((8, 3)).astype("float32"), np.ones(8, "float32")


def labels_loss() -> keras.losses.Loss:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


WORDS, CLASSES = trajectory.WORDS, trajectory.CLASSES
# Each workload's model, narrow and without dropout, its examples and its loss.
WORKLOADS = {
    "synthetic_mlp": (
        lambda: build_mlp((5,), 3, [100], 0.05),
        vectors,
        keras.losses.MeanSquaredError,
    ),
    "mnist_mlp": (
        lambda: build_mlp((4, 4, 3), 3, [300, 100], 0.02, input_scale=1 / 255),
        images(4),
        labels_loss,
    ),
    "cifar10_resnet18": (
        lambda: build_resnet18((16, 16, 3), 3, 0.03, depth=1),
        images(16),
        labels_loss,
    ),
    "cifar_wrn": (
        lambda: build_wide_resnet((8, 8, 3), 3, 0.03, depth=10),
        images(8),
        lambda: SmoothedCrossentropy(0.1),
    ),
    "cifar_resnet32": (
        lambda: build_cifar_resnet((8, 8, 3), 3, 0.2, depth=8),
        images(8),
        lambda: SmoothedCrossentropy(0.1),
    ),
    "cifar10_vgg11": (
        lambda: build_vgg11((32, 32, 3), 3, 0.03),
        images(32),
        labels_loss,
    ),
    "cifar10_vit": (
        lambda: build_vit((8, 8, 3), 3, 0.03, depth=1),
        images(8),
        labels_loss,
    ),
    "imagenet_resnet50": (
        lambda: build_resnet50((64, 64, 3), 3, 0.03, depth=1),
        images(64),
        labels_loss,
    ),
    "ud_pos_transformer": (
        lambda: build_tagger(WORDS, CLASSES, 0.03, depth=1, dropout=0.0),
        trajectory.tagged,
        TokenCrossentropy,
    ),
    "sst2_lstm": (
        lambda: build_lstm(WORDS, 1, 0.03),
        trajectory.classified,
        lambda: keras.losses.BinaryCrossentropy(from_logits=True),
    ),
    "ogbg_gcn": (
        lambda: build_gcn(trajectory.FEATURES, CLASSES, 0.05, depth=1),
        lambda rng: trajectory.molecules(rng, 8),
        PresentBinaryCrossentropy,
    ),
    "atari_ppo": (
        lambda: build_actor_critic(trajectory.FRAMES, CLASSES, 0.1),
        trajectory.played,
        PPOLoss,
    ),
}


def as_float64(tensors: list) -> list[np.ndarray]:
    return [keras.ops.convert_to_numpy(t).astype("float64") for t in tensors]


def assign(variables: list, values: list) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def step_in_a_loop(model: keras.Model, gradients_of, examples, size: int) -> list:
    """The trainable weights after a step of SGD, by a plain loop over the groups."""
    weights = as_float64(model.trainable_variables)
    total = helpers.scale(weights, 0.0)
    count = len(keras.tree.flatten(examples)[0])
    for start in range(0, count, size):
        group = take(examples, start, start + size)
        gradients = as_float64(gradients_of(group))
        epsilon = helpers.scale(gradients, RHO / helpers.norm(gradients))
        assign(model.trainable_variables, helpers.add(weights, epsilon))
        share = len(keras.tree.flatten(group)[0]) / count
        part = helpers.scale(as_float64(gradients_of(group)), share)
        total = helpers.add(total, part)
        assign(model.trainable_variables, weights)
    return helpers.add(weights, helpers.scale(total, -RATE))


def take(examples, start: int, end: int):
    return keras.tree.map_structure(lambda a: a[start:end], examples)


# What takes longest to compile and has nothing that others have not.
SLOW = {"synthetic_mlp", "cifar10_vit", "imagenet_resnet50", "sst2_lstm"}
SLOW |= {"cifar_wrn", "cifar_resnet32"}
if keras.backend.backend() == "jax":
    SLOW |= {"cifar10_resnet18", "cifar10_vgg11", "ud_pos_transformer", "atari_ppo"}


@pytest.mark.parametrize(
    "workload",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in WORKLOADS
    ],
)
def test_every_workload_trains_in_groups(workload):
    """Steps of batches of 4 and 3, in groups of 2, are those of a plain loop over the
    groups: with outputs and inputs of every kind, compiled by XLA or not."""
    build, make_examples, build_loss = WORKLOADS[workload]
    model = build()
    for layer in model.layers:
        if hasattr(layer, "rate"):
            layer.rate = 0.0
    model.compile(
        samkeras.SGD(RATE),
        build_loss(),
        method=samkeras.SAM(RHO),
        m_sharpness=2,
        jit_compile=_choose_jit_compile(model),
    )
    examples = take(make_examples(np.random.default_rng(1)), 0, 7)
    gradients_of = model.make_gradient_function()
    before = as_float64(model.trainable_variables)
    for batch in (take(examples, 0, 4), take(examples, 4, 7)):
        expected = step_in_a_loop(model, gradients_of, batch, 2)
        assign(model.trainable_variables, expected)
    assign(model.trainable_variables, before)
    x, y, weights = examples
    helpers.train(model, x, y, sample_weight=weights, batch_size=4)
    moved, by_hand = (
        helpers.add(end, helpers.scale(before, -1.0))
        for end in (as_float64(model.trainable_variables), expected)
    )
    assert helpers.relative_error(moved, by_hand) < 1e-4  # float32, two steps
