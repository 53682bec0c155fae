"""m-sharpness: an epsilon of each group of m examples (Foret et al. 2021, 4.1)."""

import keras
import numpy as np
import pytest

import samkeras
from samkeras.experiment.run import _choose_jit_compile
from samkeras.losses import PresentBinaryCrossentropy, TokenCrossentropy
from samkeras.models.actor_critic import build_actor_critic
from samkeras.models.gcn import build_gcn
from samkeras.models.lstm import build_lstm
from samkeras.models.mlp import build_mlp
from samkeras.models.resnet import build_resnet18, build_resnet50
from samkeras.models.tagger import build_tagger
from samkeras.models.vgg import build_vgg11
from samkeras.models.vit import build_vit
from samkeras.ppo import PPOLoss
from tests import helpers, trajectory
from tests.helpers import build_classifier, compile_classifier, perceptron_gradients

RHO, RATE = 0.3, 0.2


def step_by_hand(weights: list, x: np.ndarray, y: np.ndarray, m: int) -> list:
    """The weights after a step of SGD with the groups' SAM gradients averaged."""
    total = helpers.scale(weights, 0.0)
    for group_x, group_y in helpers.batches_of(x, y, m):
        gradients = perceptron_gradients(weights, group_x, group_y)
        epsilon = helpers.scale(gradients, RHO / helpers.norm(gradients))
        perturbed = helpers.add(weights, epsilon)
        part = perceptron_gradients(perturbed, group_x, group_y)
        total = helpers.add(total, helpers.scale(part, len(group_x) / len(x)))
    return helpers.add(weights, helpers.scale(total, -RATE))


@pytest.mark.parametrize("m", [1, 4, 5, 16, 100])
def test_a_step_equals_the_groups_by_hand(m):
    """Equal groups, a smaller last one (16 = 5 + 5 + 5 + 1) and one of the whole."""
    x, y = helpers.random_examples(16)
    model = compile_classifier(
        build_classifier(),
        optimizer=samkeras.SGD(RATE),
        perturbation=samkeras.SAM(RHO),
        m_sharpness=m,
    )
    before = helpers.weights_float64(model)
    helpers.train(model, x, y)
    step, expected = (
        helpers.add(after, helpers.scale(before, -1.0))
        for after in (
            helpers.weights_float64(model),
            step_by_hand(before, x, y, m),
        )
    )
    assert helpers.relative_error(step, expected) < 1e-5  # float32


def test_groups_normalize_by_themselves():
    """With BatchNorm each group has its own statistics, and the moving ones take the
    mean over the groups, as the authors' devices do."""
    x, y = helpers.random_examples(16)
    model = compile_classifier(
        build_classifier(norm=True), perturbation=samkeras.SAM(RHO), m_sharpness=4
    )
    kernel, bias = (np.asarray(w) for w in model.get_layer("hidden").weights)
    hidden = (x @ kernel + bias).reshape(4, 4, -1)
    helpers.train(model, x, y)
    norm = model.get_layer("norm")
    mean, variance = hidden.mean((0, 1)), hidden.var(1).mean(0)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(norm.moving_variance, 0.9 + 0.1 * variance, rtol=1e-4)


def test_groups_of_the_whole_batch_change_nothing():
    """m = batch size is plain SAM; logs, predictions and dropout included."""
    x, y = helpers.random_examples(32)
    results = []
    for m in (None, 16):
        keras.utils.set_random_seed(0)
        model = compile_classifier(
            build_classifier(dropout=0.5),
            perturbation=samkeras.SAM(RHO),
            m_sharpness=m,
            metrics=["accuracy"],
        )
        history = helpers.train(model, x, y, epochs=2)
        results.append((helpers.flat(model.weights), history))
    (whole, logs), (grouped, grouped_logs) = results
    np.testing.assert_allclose(grouped, whole, rtol=1e-5, atol=1e-6)
    for name, values in logs.items():
        np.testing.assert_allclose(grouped_logs[name], values, rtol=1e-4)


def test_each_group_draws_its_own_dropout():
    """Two groups of the same examples differ by their draws alone: their mean is not
    the step of one group."""
    x, y = helpers.random_examples(8)
    ends = []
    for copies in (1, 2):
        keras.utils.set_random_seed(0)
        model = compile_classifier(
            build_classifier(dropout=0.5), perturbation=samkeras.SAM(RHO), m_sharpness=8
        )
        helpers.train(model, np.tile(x, (copies, 1)), np.tile(y, copies))
        ends.append(helpers.flat(model.trainable_variables))
    assert np.abs(ends[0] - ends[1]).max() > 1e-3


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
        lambda: build_mlp((4, 4, 3), 3, [300, 100], 0.02),
        images(4),
        labels_loss,
    ),
    "cifar10_resnet18": (
        lambda: build_resnet18((16, 16, 3), 3, 0.03, depth=1),
        images(16),
        labels_loss,
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


@pytest.mark.parametrize("workload", WORKLOADS)
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
        perturbation=samkeras.SAM(RHO),
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


@pytest.mark.parametrize(
    "arguments", [{"m_sharpness": 0}, {"m_sharpness": 2.0}, {"m_sharpness": True}]
)
def test_groups_need_a_number_of_examples(arguments):
    with pytest.raises(ValueError, match="m_sharpness must be None, or an integer"):
        compile_classifier(
            build_classifier(), perturbation=samkeras.SAM(RHO), **arguments
        )
    with pytest.raises(ValueError, match="with a perturbation"):
        compile_classifier(build_classifier(), m_sharpness=4)
