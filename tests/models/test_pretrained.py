"""Networks that are fine-tuned, with weights that the tests make and save."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops

import run as command
import samkeras
from samkeras.backend.insides import shapes_alone
from samkeras.errors import InputError
from samkeras.experiment.options.targets import find_target
from samkeras.experiment.runs.data import describe_data
from samkeras.models.pretrained import FrozenBatchNorm, build_pretrained
from tests.helpers import parse_runs, weights_by_path

SHAPE = (8, 8, 3)
SEED = 3


def make_backbone(sides=(None, None)) -> keras.Model:
    """A convolution with BatchNorm and dropout, of pixels from 0 to 255, all of whose
    weights and statistics are random, with a part that is a model itself."""
    inputs = keras.Input((*sides, 3))
    normalize = layers.Normalization(name="centre")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(4, 3, strides=2, name="conv")(normalize(x))
    x = layers.BatchNormalization(name="norm")(x)
    inner = keras.Input(x.shape[1:])
    part = layers.BatchNormalization(name="inner_norm")(layers.Conv2D(5, 1)(inner))
    x = keras.Model(inner, part, name="part")(layers.LeakyReLU()(x))
    model = keras.Model(inputs, layers.Dropout(0.5, seed=1)(x))
    rng = np.random.default_rng(SEED)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in model.get_weights()])
    normalize.finalize_state()
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[str, keras.Model]:
    """The path of a backbone's file, and the backbone."""
    path = tmp_path_factory.mktemp("backbones") / "own.keras"
    model = make_backbone()
    model.save(path)
    return str(path), model


@pytest.fixture
def images() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (4, *SHAPE)).astype("uint8")


def test_features_are_those_of_the_file(saved, images):
    """Means over pixels, before a last layer of its own; and what is known of its size
    without its weights is right."""
    path, backbone = saved
    model = build_pretrained(SHAPE, 5, path)
    features = keras.Model(model.input, model.layers[-2].output)
    expected = ops.mean(backbone(images, training=False), axis=(1, 2))
    np.testing.assert_allclose(features(images), expected, rtol=1e-6)
    assert model.output_shape == (None, 5)
    with shapes_alone():
        assert build_pretrained(SHAPE, 5, path).count_params() == model.count_params()


@pytest.mark.parametrize("rho", [None, 0.1])
def test_statistics_stay_and_all_else_is_trained(saved, images, rho):
    """A step moves every other weight, scales and offsets too; in training BatchNorm
    is what it is in evaluation, and dropout is on."""
    path, _ = saved
    model = build_pretrained(SHAPE, 5, path)
    before = weights_by_path(model.variables)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, method=rho and samkeras.SAM(rho))
    model.train_on_batch(images, np.arange(4))
    moved = {
        name: not np.array_equal(value, before[name])
        for name, value in weights_by_path(model.variables).items()
        if name in before
    }
    statistics = {name for name in moved if "moving" in name or "centre" in name}
    assert len(statistics) == 4 + 3  # of a Normalization, its count too
    trained = {v.path for v in model.trainable_variables}
    assert {name for name in moved if moved[name]} >= trained
    assert not any(moved[name] for name in statistics)
    (norm,) = (x for x in model.layers if x.name == "norm")
    assert isinstance(norm, FrozenBatchNorm)
    x = np.random.default_rng(1).normal(size=(2, 3, 3, 4)).astype("float32")
    np.testing.assert_array_equal(norm(x, training=True), norm(x, training=False))
    drawn = [np.asarray(model(images, training=True)) for _ in range(2)]
    assert not np.array_equal(*drawn)


def test_a_backbone_that_was_frozen_is_trained(saved, images, tmp_path):
    """As one that was not: many are saved so, and the head alone would be trained."""
    path, whole = saved
    frozen = make_backbone()
    frozen.trainable = False
    frozen.save(tmp_path / "frozen.keras")
    first, second = (
        build_pretrained(SHAPE, 5, str(each))
        for each in (path, tmp_path / "frozen.keras")
    )
    shapes = [[tuple(v.shape) for v in m.trainable_variables] for m in (first, second)]
    assert shapes[0] == shapes[1]
    assert len(shapes[1]) == 2 * 4 + 2
    features = keras.Model(second.input, second.get_layer("pool").output)
    expected = np.mean(whole(images.astype("float32")), axis=(1, 2))
    np.testing.assert_allclose(features(images), expected, rtol=1e-4)


def test_a_layer_that_was_frozen_within_another_is_trained(tmp_path):
    inputs = keras.Input(SHAPE)
    wrapped = keras.layers.TimeDistributed(keras.layers.Dense(4))
    frozen = keras.Model(inputs, wrapped(inputs))
    frozen.trainable = False
    frozen.save(tmp_path / "frozen.keras")
    model = build_pretrained(SHAPE, 5, str(tmp_path / "frozen.keras"))
    assert len(model.trainable_variables) == 2 + 2


def test_a_network_starts_anew_where_that_is_asked(saved, images):
    """With BatchNorm that learns its statistics."""
    path, backbone = saved
    model = build_pretrained(SHAPE, 5, path, pretrained=False)
    assert not any(isinstance(x, FrozenBatchNorm) for x in model._flatten_layers())
    given = dict(
        zip(("kernel", "bias"), backbone.get_layer("conv").get_weights(), strict=True)
    )
    assert not np.array_equal(model.get_layer("conv").get_weights()[0], given["kernel"])


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("backbone", "trainable"),
    [("efficientnet_b0", 4_013_953), ("resnet50", 23_544_837)],
)
def test_networks_of_keras_have_a_new_last_layer(backbone, trainable):
    """Of 5 classes: keras' counts without its own last layer, and five outputs."""
    with shapes_alone():
        model = build_pretrained((32, 32, 3), 5, backbone)
        found = sum(np.prod(v.shape) for v in model.trainable_variables)
    assert found == trainable


@pytest.mark.one_backend
def test_resnets_take_pixels_as_their_weights_do(monkeypatch):
    """Blue, green and red without their means, as keras.applications prepares them."""
    taken = []

    def build(include_top, weights, input_tensor):
        taken.append(weights)
        inputs = keras.utils.get_source_inputs(input_tensor)[0]
        return keras.Model(inputs, layers.Identity()(input_tensor))

    monkeypatch.setattr(keras.applications.resnet, "ResNet50", build)
    model = build_pretrained(SHAPE, 5, "resnet50")
    x = np.random.default_rng(0).integers(0, 256, (2, *SHAPE)).astype("float32")
    features = keras.Model(model.input, model.layers[-2].output)(x)
    expected = keras.applications.resnet.preprocess_input(x.copy()).mean((1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-3)
    assert taken == ["imagenet"]


@pytest.mark.one_backend
def test_weights_that_cannot_be_had_are_said_in_a_line(monkeypatch):
    def build(**_):
        raise OSError("no\nnetwork")

    monkeypatch.setattr(keras.applications.efficientnet, "EfficientNetB0", build)
    with pytest.raises(InputError, match=r"give a FILE.keras \(no network\)$"):
        build_pretrained(SHAPE, 5, "efficientnet_b0")


@pytest.mark.one_backend
def test_what_keras_refuses_is_said_in_its_words(monkeypatch):
    """Not that weights are missing, which nobody asked for."""

    def build(**_):
        raise ValueError("Input size must be\nat least 32x32")

    monkeypatch.setattr(keras.applications.resnet, "ResNet50", build)
    with pytest.raises(InputError, match=r"^--backbone resnet50: Input size must"):
        build_pretrained(SHAPE, 5, "resnet50", pretrained=False)


TINY = ["--dataset", "mnist_5k", "--image_size", "8", "--train_examples", "32"]
TINY += ["--validation_examples", "16", "--batch_size", "16", "--steps", "2"]
TINY += ["--eval_every", "2"]


def test_a_run_fine_tunes_a_file(saved, records, tmp_path):
    """SAM and SGD from the same start, recorded with what the file holds; the same
    command again trains nothing."""
    options = [*TINY, "--backbone", saved[0], "--sam", "true,false", "--rho", "0.1"]
    places = ["--run_dir", str(tmp_path), "--experiment", "finetune", "--verbose", "0"]
    for _ in range(2):
        assert command.main(["finetune", *options, *places]) == 0
        runs = [r for r in records["finetune"] if "num_params" in r.params]
        assert {run.params["sam"] for run in runs} == {"true", "false"}
        assert len(runs) == 2
    digests = {run.params["data_digest"] for run in runs}
    assert len(digests) == 1


@pytest.mark.one_backend
def test_another_file_is_another_run(tmp_path):
    """Of the same name."""
    path, contents = tmp_path / "own.keras", []
    for units in (1, 2):
        inputs = keras.Input((2, 2, 3))
        keras.Model(inputs, layers.Dense(units)(inputs)).save(path)
        (config,) = parse_runs("finetune", [*TINY, "--backbone", str(path)])
        contents.append(describe_data(config).content)
    assert contents[0] != contents[1]
    (config,) = parse_runs("finetune", [*TINY, "--backbone", "resnet50"])
    assert describe_data(config).content is None


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backbone", "efficientnet_b9"], "efficientnet_b9; did you mean eff"),
        (["--backbone", "{}/ow.keras"], "is no such file; did you mean own.k"),
        (["--backbone", "{}/text.keras"], "text.keras is no model that keras"),
        (["--width_mult", "2"], "--width_mult must be 1 in this workload"),
    ],
)
def test_bad_backbones_are_refused_in_one_line(
    options, message, records, tmp_path, capsys
):
    (tmp_path / "text.keras").write_text("no zip")
    (tmp_path / "own.keras").write_text("")
    options = [each.format(tmp_path) for each in options]
    code = command.main(["finetune", *TINY, *options, "--run_dir", str(tmp_path)])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    assert message in error


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: make_backbone((6, 6)), "takes images of shape (6, 6, 3), see "),
        (
            lambda: keras.Sequential([keras.Input(SHAPE), layers.Reshape((64, 3))]),
            "must give features, [batch, feature]. Received: outputs of shape",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, build, message):
    path = tmp_path / "own.keras"
    build().save(path)
    with pytest.raises(InputError, match=re.escape(message)):
        build_pretrained(SHAPE, 5, str(path))


@pytest.mark.one_backend
def test_fine_tuning_is_theirs():
    (config,) = parse_runs("finetune", ["--sam"])
    assert (config.steps, config.batch_size) == (5000, 1024)
    assert config.learning_rate == 0.016
    assert (config.weight_decay, config.decay_in_loss) == (1e-5, True)
    assert (config.lr_schedule, config.momentum, config.backbone) == (
        "cosine",
        0.9,
        "efficientnet_b7",
    )
    assert find_target("finetune").load().monitor == "val_accuracy"
