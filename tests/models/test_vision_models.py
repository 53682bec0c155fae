"""The vision models: their sizes, how they start, and centred ones."""

import math
import re

import keras
import numpy as np
import pytest

import samkeras
from samkeras.linearized import ScaledSquaredError, centre
from samkeras.models.normalization import BatchNorm
from samkeras.models.resnet import build_resnet18, build_resnet50
from samkeras.models.vgg import build_vgg11
from samkeras.models.vit import build_vit
from tests.helpers import relative_error

CIFAR, IMAGENET = ((32, 32, 3), 10), ((224, 224, 3), 1000)


@pytest.mark.parametrize(
    ("build", "data", "counts"),
    [
        (
            build_resnet18,
            CIFAR,
            {
                1 / 16: 44_622,
                1 / 8: 176_402,
                1 / 4: 701_466,
                1 / 2: 2_797_610,
                1: 11_173_962,
                2: 44_662_922,
                4: 178_585_866,
            },
        ),
        (
            build_resnet50,
            IMAGENET,
            {0.25: 1_993_976, 0.5: 6_917_640, 0.75: 14_771_992, 1: 25_557_032},
        ),
    ],
)
def test_residual_networks_have_the_paper_s_sizes(build, data, counts):
    """Figure 1's numbers of trainable parameters, exactly, built on shapes alone."""
    with keras.StatelessScope(initialize_variables=False):
        got = {width: count(build(*data, width)) for width in counts}
    assert got == counts


@pytest.mark.parametrize("width", [0.125, 0.5, 1])
def test_the_transformer_s_size(width):
    """Six blocks of 12 d^2 + 13 d, patches, positions, the last norm and outputs."""
    with keras.StatelessScope(initialize_variables=False):
        got = count(build_vit(*CIFAR, width))
    d = round(512 * width)
    assert got == 6 * (12 * d**2 + 13 * d) + (48 * d + d) + 64 * d + 2 * d + 10 * d + 10


@pytest.mark.parametrize("depth", [None, 3])
def test_depth_is_blocks_or_convolutions_of_a_stage(depth):
    kinds = {
        build_resnet18: ("^add", {None: 8, 3: 12}),
        build_resnet50: ("^add", {None: 16, 3: 12}),
        build_vit: ("attention", {None: 6, 3: 3}),
        build_vgg11: ("conv", {None: 8, 3: 15}),
    }
    with keras.StatelessScope(initialize_variables=False):
        for build, (part, counts) in kinds.items():
            layers = build(*CIFAR, 1 / 16, depth=depth).layers
            names = [layer.name for layer in layers]
            got = sum(re.search(part, name) is not None for name in names)
            assert got == counts[depth], build


def test_the_last_scale_of_a_bottleneck_starts_at_zero():
    """Each block of ResNet-50 starts as its shortcut; ResNet-18's starts whole."""
    model = build_resnet50((32, 32, 3), 10, 1 / 32, depth=1)
    scales = {v.path: np.asarray(v) for v in model.weights if v.name == "gamma"}
    zeros = {path for path, scale in scales.items() if not scale.any()}
    assert zeros == {f"stage{stage}_block1_norm3/gamma" for stage in range(1, 5)}


def test_vgg_starts_as_xavier_normal():
    """Each layer by its own numbers of inputs and outputs, nothing cut off: PyTorch's
    xavier_normal_ of gain 1, where He's would double the variance."""
    for layer in build_vgg11((32, 32, 3), 10, 1 / 4).layers:
        if not hasattr(layer, "kernel"):
            continue
        kernel = np.asarray(layer.kernel)
        places = math.prod(kernel.shape[:-2])
        expected = math.sqrt(2 / (places * sum(kernel.shape[-2:])))
        sizes = kernel / expected
        assert np.std(sizes) == pytest.approx(1, abs=4 / math.sqrt(2 * kernel.size))
        assert not np.any(np.asarray(layer.bias))
        assert kernel.size < 5_000 or np.abs(sizes).max() > 3


@pytest.mark.parametrize("build", [build_resnet18, build_vit, build_vgg11])
def test_models_start_with_outputs_of_their_scale(build):
    """Logits of order one, for initializers that fit: neither dead nor exploding."""
    x = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3)).astype("uint8")
    model = build(*CIFAR, 0.125)
    logits = np.asarray(model(x, training=build is build_resnet18))
    assert 0.1 < np.std(logits) < 10


def count(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_variables)


def test_batch_norm_is_saved_for_either_backend(tmp_path):
    """A model saved on one backend must load on the other."""
    inputs = keras.Input((4, 4, 2))
    model = keras.Model(inputs, BatchNorm(name="norm")(inputs))
    assert "synchronized" not in model.get_layer("norm").get_config()
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("norm").epsilon == 1e-5


def build_small_vgg() -> samkeras.SAMModel:
    return build_vgg11((32, 32, 3), 10, 1 / 16)


def test_centred_models_start_at_zero_and_train_one_network():
    """0 at the start, and later alpha times how far the one network has changed."""
    x = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("uint8")
    model = centre(build_small_vgg, alpha=50.0)
    assert count(model) == count(build_small_vgg())
    np.testing.assert_array_equal(model(x), np.zeros((4, 10)))
    network, initial = (model.get_layer(n) for n in ("network", "initial_network"))
    before = np.asarray(initial(x))
    model.compile(samkeras.SGD(0.01), ScaledSquaredError(50.0))
    model.fit(x, np.arange(4), verbose=0)
    np.testing.assert_array_equal(initial(x), before)
    change = np.asarray(network(x)) - before
    assert np.abs(change).max() > 0
    np.testing.assert_allclose(model(x), 50 * change, rtol=1e-5, atol=1e-5)


def test_a_large_alpha_makes_training_linear():
    """After the same steps the outputs of alpha = 100 are those of 10, and the weights
    move a tenth as far: near w0 the model is linear."""
    x = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype("uint8")
    outputs, distances = [], []
    for alpha in (10.0, 100.0):
        keras.utils.set_random_seed(0)
        model = centre(build_small_vgg, alpha)
        start = [np.asarray(w) for w in model.trainable_variables]
        model.compile(samkeras.SGD(1e-2), ScaledSquaredError(alpha))
        model.fit(x, np.arange(8), epochs=5, verbose=0)
        outputs.append(np.asarray(model(x)))
        moved = [
            np.sum((np.asarray(w) - s) ** 2)
            for w, s in zip(model.trainable_variables, start, strict=True)
        ]
        distances.append(np.sqrt(sum(moved)))
    assert np.abs(outputs[0]).max() > 0.01
    # 3 %: what is not linear at 10, and 100 times float32's error in the outputs.
    assert relative_error([outputs[1]], [outputs[0]]) < 0.03
    assert distances[0] / distances[1] == pytest.approx(10, rel=0.03)


def test_the_scaled_squared_error_by_hand():
    """Mean over classes of squared differences to the one-hot label, over alpha^2."""
    outputs = np.array([[1.0, 0.0, 3.0]], "float32")
    loss = ScaledSquaredError(2.0)(np.array([2]), outputs)
    assert float(loss) == pytest.approx((1 + 0 + 4) / 3 / 4)


def test_networks_with_batch_norm_cannot_be_centred():
    with pytest.raises(ValueError, match="alpha needs a network without state"):
        centre(lambda: build_resnet18(*CIFAR, 1 / 16), 10.0)
