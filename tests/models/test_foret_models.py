"""The networks of Foret et al. (2021): their sizes, and the layers that shake."""

import math
from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops

import samkeras
from samkeras.backend.insides import shapes_alone
from samkeras.data.statistics import find_statistics
from samkeras.errors import InputError
from samkeras.models.cifar_resnet import build_cifar_resnet
from samkeras.models.pyramidnet import build_pyramidnet
from samkeras.models.resnet import build_imagenet_resnet
from samkeras.models.shake import ShakeDrop, ShakeShake
from samkeras.models.shake_shake import build_shake_shake
from samkeras.models.wide_resnet import build_wide_resnet

CIFAR = (32, 32, 3)
padded = partial(build_wide_resnet, shortcut="zero_pad")
projected = partial(build_cifar_resnet, shortcut="projection")
basic = partial(build_pyramidnet, bottleneck=False)


def count(weights: list) -> int:
    return sum(math.prod(weight.shape) for weight in weights)


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("build", "depth", "width", "classes", "trainable", "state"),
    [
        (build_wide_resnet, 28, 1, 10, 36_479_194, 17_952),
        (build_wide_resnet, 28, 1, 100, 36_536_884, 17_952),
        (padded, 28, 1, 10, 36_220_634, 17_952),
        (padded, 28, 1, 100, 36_278_324, 17_952),
        (build_wide_resnet, 40, 1, 10, 55_841_754, 26_912),
        (padded, 40, 1, 10, 55_583_194, 26_912),
        (build_wide_resnet, 16, 0.8, 10, 10_961_370, 7_200),
        (padded, 16, 0.8, 100, 10_841_652, 7_200),
        (build_wide_resnet, 16, 0.4, 10, 2_748_890, None),
        (build_wide_resnet, 28, 0.2, 10, 1_467_610, None),
        (build_wide_resnet, 40, 0.2, 10, 2_243_546, None),
        (build_shake_shake, 26, 1, 10, 26_192_922, 22_880),
        (build_shake_shake, None, 1, 100, 26_227_572, 22_880),
        (build_pyramidnet, 272, 1, 10, 26_210_842, 210_864),
        (
            partial(build_pyramidnet, shake_drop=True),
            None,
            1,
            100,
            26_288_692,
            210_864,
        ),
        (partial(basic, widening=270), 110, 1, 10, 28_485_477, 49_798),
        (partial(basic, widening=270), None, 1, 100, 28_511_307, 49_798),
        (partial(basic, widening=84), 110, 1, 10, 3_904_446, None),
        (build_cifar_resnet, None, 1, 10, 464_154, None),
        (build_cifar_resnet, 32, 1, 100, 470_004, None),
        (projected, 32, 1, 10, 466_906, None),
        (projected, 32, 1, 100, 472_756, None),
        (build_cifar_resnet, 20, 1, 10, 269_722, None),
        (build_cifar_resnet, 56, 1, 10, 853_018, None),
        (build_imagenet_resnet, None, 1, 1000, 25_557_032, 53_120),
        (build_imagenet_resnet, 101, 1, 1000, 44_549_160, 105_344),
        (build_imagenet_resnet, 152, 1, 1000, 60_192_808, 151_424),
    ],
)
def test_networks_have_their_published_sizes(
    build, depth, width, classes, trainable, state
):
    """Exactly: numbers of trainable parameters, and of BatchNorm's moving statistics,
    by the shapes of the published layers. The deepest is built without Python's
    recursion coming to its end."""
    with shapes_alone():
        model = build(CIFAR, classes, width, depth=depth)
        assert count(model.trainable_variables) == trainable
        moving = [v for v in model.non_trainable_variables if "moving" in v.name]
        assert state in (None, count(moving))


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("build", "depth", "rule"),
    [
        (build_wide_resnet, 30, "6 n + 4 in this workload, such as 16, 28 or 40"),
        (build_wide_resnet, 4, "6 n [+] 4"),
        (build_shake_shake, 28, "6 n [+] 2"),
        (build_pyramidnet, 109, "9 n [+] 2"),
        (basic, 272 + 3, "6 n [+] 2"),
        (build_cifar_resnet, 33, "6 n [+] 2"),
        (build_imagenet_resnet, 18, "50, 101, 152"),
    ],
)
def test_a_depth_that_there_is_not_is_refused(build, depth, rule):
    with pytest.raises(
        InputError,
        match=rf"{rule}.*Received: {depth}$".replace("n + 4 in", "n [+] 4 in"),
    ):
        build(CIFAR, 10, depth=depth)


TINY = {
    "wide_resnet": partial(build_wide_resnet, depth=10),
    "zero_pad": partial(padded, depth=10),
    "shake_shake": partial(build_shake_shake, depth=8),
    "pyramidnet": partial(build_pyramidnet, depth=11, shake_drop=True),
    "basic pyramidnet": partial(basic, depth=8),
    "cifar_resnet": partial(build_cifar_resnet, depth=8),
}


@pytest.mark.one_backend
@pytest.mark.parametrize("name", TINY)
def test_networks_are_as_narrow_and_images_as_odd_as_one_likes(name):
    """Grey images, of sides that two does not divide; one filter a layer; and nothing
    of BatchNorm, where that is asked."""
    with shapes_alone():
        narrow = TINY[name]((7, 5, 1), 3, 1e-3)
        assert all(math.prod(w.shape) for w in narrow.weights)
        plain = TINY[name]((7, 5, 1), 3, 0.05, batch_norm=False)
    kind = layers.BatchNormalization
    assert any(isinstance(layer, kind) for layer in narrow.layers)
    assert not any(isinstance(layer, kind) for layer in plain.layers)


def test_every_weight_has_a_gradient_without_batch_norm():
    model = build_wide_resnet((4, 4, 1), 3, 0.02, depth=10, batch_norm=False)
    model.compile(samkeras.SGD(0.01), "sparse_categorical_crossentropy")
    x = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 1)).astype("uint8")
    gradients = model.make_gradient_function()((x, np.arange(4) % 3))
    assert all(np.isfinite(g).all() and np.any(g) for g in map(np.asarray, gradients))


@pytest.mark.one_backend
def test_shake_drop_keeps_less_from_block_to_block():
    """In a line, to a half in the last one: 1 - place / (2 blocks)."""
    with shapes_alone():
        model = build_pyramidnet((8, 8, 3), 10, 0.05, depth=20, shake_drop=True)
    keeps = [layer.keep for layer in model.layers if isinstance(layer, ShakeDrop)]
    assert keeps == pytest.approx([11 / 12, 10 / 12, 9 / 12, 8 / 12, 7 / 12, 6 / 12])


@pytest.mark.one_backend
def test_sets_are_standardized_by_their_own_statistics():
    assert find_statistics("cifar100", 3) == find_statistics("keras:cifar100", 3)
    means = {find_statistics(n, 3)[0] for n in ("cifar10", "cifar100", "svhn_cropped")}
    assert len(means) == 3
    assert find_statistics("svhn_cropped+extra", 3)[0][0] == 0.43090966
    assert find_statistics("own.npz", 3) == find_statistics("cifar10", 3)
    assert find_statistics("fashion_mnist", 1) == ((0.1307,), (0.3081,))


def draws_of(layer: layers.Layer, count: int, images: int = 4) -> list[np.ndarray]:
    """The numbers from 0 to 1 that a layer draws first, each float[image, 1]."""
    generator = keras.random.SeedGenerator(layer.seed)
    draws = keras.random.uniform((images, count), seed=generator)
    return [ops.convert_to_numpy(draws)[:, i : i + 1] for i in range(count)]


def shaken(kind: str, model_of=samkeras.SAMModel) -> tuple:
    """A model whose output is linear in its weights, with its layer that shakes; and,
    as functions of draws, what each image is multiplied by forward and backward."""
    inputs = keras.Input((3,))
    a = layers.Dense(1, use_bias=False, name="a")(inputs)
    if kind == "shake_shake":
        b = layers.Dense(1, use_bias=False, name="b")(inputs)
        layer = ShakeShake(seed=3)
        outputs = layer([a, b])
        one, other = draws_of(layer, 2)
        forward, backward = ([s, 1 - s] for s in (one, other))
    else:
        layer = ShakeDrop(0.6, seed=3)
        outputs = layer(a)
        kept, alpha, beta = draws_of(layer, 3)
        assert {*(kept < 0.6).ravel()} == {True, False}
        forward, backward = (
            [np.where(kept < 0.6, 1, s)] for s in (2 * alpha - 1, beta)
        )
    return model_of(inputs, outputs), forward, backward


@pytest.mark.parametrize("kind", ["shake_shake", "shake_drop"])
@pytest.mark.parametrize("has_method", [True, False])
def test_shares_differ_backward_but_in_the_pass_that_finds_epsilon(kind, has_method):
    """By hand, of a loss that is linear in the weights: SAM's perturbation is along the
    true gradient, by the forward shares; the step is by the backward ones, of the same
    draws, with a method and without. A second step draws others."""
    model, forward, backward = shaken(kind)
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    weights = [np.asarray(w) for w in model.trainable_variables]

    def loss(y_true, y_pred):
        return y_pred[:, 0]

    model.compile(
        samkeras.SGD(0.5), loss, method=samkeras.SAM(0.1) if has_method else None
    )
    logs = model.train_on_batch(x, np.zeros(4), return_dict=True)
    outputs = sum(f * (x @ w) for f, w in zip(forward, weights, strict=True))
    assert logs["loss"] == pytest.approx(outputs.mean(), rel=1e-4)
    slopes = [
        np.concatenate([(s * x).mean(0) for s in shares])
        for shares in (forward, backward)
    ]
    assert np.linalg.norm(slopes[0] - slopes[1]) > 0.1
    if has_method:
        assert logs["grad_norm"] == pytest.approx(np.linalg.norm(slopes[0]), rel=1e-4)
    moved = np.concatenate(
        [w - np.asarray(v) for w, v in zip(weights, model.weights, strict=False)]
    )
    np.testing.assert_allclose(moved[:, 0], 0.5 * slopes[1], rtol=1e-4, atol=1e-6)
    after = model.train_on_batch(x, np.zeros(4), return_dict=True)
    weights = [
        w - 0.5 * s[:, None]
        for w, s in zip(weights, np.split(slopes[1], len(weights)), strict=True)
    ]
    same = sum(f * (x @ w) for f, w in zip(forward, weights, strict=True))
    assert abs(after["loss"] - same.mean()) > 1e-3


@pytest.mark.parametrize("kind", ["shake_shake", "shake_drop"])
def test_nothing_is_drawn_outside_training(kind):
    """The mean of what training gives."""
    model, *_ = shaken(kind, keras.Model)
    x = np.ones((4, 3), "float32")
    a, *b = (np.asarray(w).sum() for w in model.trainable_variables)
    expected = (a + b[0]) / 2 if b else 0.6 * a
    np.testing.assert_allclose(model(x), np.full((4, 1), expected), rtol=1e-5)


@pytest.mark.parametrize("layer", [ShakeShake(seed=2), ShakeDrop(0.7, seed=2)])
def test_layers_that_shake_are_saved(layer):
    copy = type(layer).from_config(layer.get_config())
    assert copy.get_config() == layer.get_config()
