"""The workloads of Foret et al. (2021): their models, their recipe, and whole runs."""

import keras
import numpy as np
import pytest

import run as command
from samkeras.data import images
from samkeras.data.splits import Splits
from samkeras.data.tfds_sets import describe_tfds
from samkeras.errors import InputError
from samkeras.experiment.options.parsing import parse_command
from samkeras.experiment.options.targets import find_target
from samkeras.experiment.runs.build import _build_optimizer, measure_size
from samkeras.experiment.runs.data import describe_data
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.schedule import build_schedule, rate_at
from tests.helpers import parse_runs, request_stop

WORKLOADS = ("cifar_wrn", "cifar_resnet32", "cifar_shake_shake", "cifar_pyramidnet")


def parse_one(workload: str, *options: str):
    (config,) = parse_runs(workload, list(options))
    return config


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("workload", "options", "count"),
    [
        ("cifar_wrn", [], 36_479_194),
        ("cifar_wrn", ["--depth", "40", "--shortcut", "zero_pad"], 55_583_194),
        ("cifar_wrn", ["--width_mult", "0.4", "--depth", "16"], 2_748_890),
        ("cifar_resnet32", ["--dataset", "cifar100"], 470_004),
        ("cifar_shake_shake", [], 26_192_922),
        ("cifar_pyramidnet", ["--dataset", "cifar100"], 26_288_692),
        (
            "cifar_pyramidnet",
            ["--bottleneck", "false", "--widening", "84", "--shake_drop"],
            3_904_446,
        ),
        ("imagenet_resnet", ["--depth", "101"], 44_549_160),
    ],
)
def test_workloads_have_the_published_models(workload, options, count):
    config = parse_one(workload, *options)
    assert measure_size(Run(config), describe_data(config).info).num_params == count


@pytest.mark.one_backend
@pytest.mark.parametrize("workload", WORKLOADS)
def test_workloads_take_sets_of_all_kinds(workload):
    """Grey images, as small as they are, and SVHN with its extra digits."""
    for dataset, shape, num_train in (
        ("fashion_mnist", (28, 28, 1), 60_000),
        ("svhn_cropped+extra", (32, 32, 3), 604_388),
    ):
        config = parse_one(workload, "--dataset", dataset, "--width_mult", "0.1")
        info = describe_data(config).info
        assert (info.input_shape, info.num_train) == (shape, num_train)
        assert measure_size(Run(config), info).num_params > 1000


@pytest.mark.one_backend
def test_training_is_theirs():
    """195 steps an epoch, a cosine to 0 step by step, Nesterov's momentum, the decay in
    the loss and groups of 32."""
    config = parse_one("cifar_wrn", "--sam")
    splits = describe_data(config)
    task = config.target.load().task
    assert task.steps_per_epoch(config, splits) == 195
    held = parse_one("cifar_wrn", "--holdout", "0.1", "--holdout_last")
    assert describe_data(held).info.num_train == 45_000
    assert task.steps_per_epoch(held, describe_data(held)) == 175
    rate, total = build_schedule(config, 195), 200 * 195
    for step in (0, 1, 1000, total // 2, total - 1, total):
        expected = 0.1 * (1 + np.cos(np.pi * step / total)) / 2
        assert rate_at(rate, step) == pytest.approx(expected, abs=1e-6)
    optimizer = _build_optimizer(config, rate)
    assert (optimizer.nesterov, optimizer.momentum) == (True, 0.9)
    assert optimizer.global_clipnorm == 5.0
    assert (config.decay_in_loss, config.m_sharpness) == (True, 32)


@pytest.mark.one_backend
def test_an_epoch_of_imagenet_is_theirs():
    """floor(1,281,167 / 4,096) steps: the last 3,215 examples fill no batch."""
    config = parse_one("imagenet_resnet")
    info = describe_tfds("imagenet2012", None)
    splits = Splits(info, lambda: ([], []))
    task = config.target.load().task
    assert task.steps_per_epoch(config, splits) == 312
    whole = parse_one("imagenet_resnet", "--drop_remainder", "false")
    assert task.steps_per_epoch(whole, splits) == 313


@pytest.mark.one_backend
def test_a_tenth_to_validate_on_is_one_of_the_set_itself():
    """Theirs is the last tenth of SVHN's own 73,257 digits, not of the extra ones
    too; all of these stay."""
    options = ["--dataset", "svhn_cropped+extra", "--holdout", "0.1", "--holdout_last"]
    info = describe_data(parse_one("cifar_wrn", *options)).info
    assert (info.num_validation, info.num_train) == (7_326, 604_388 - 7_326)
    info = describe_data(parse_one("cifar_wrn", *options[:-1])).info
    assert info.num_validation == 60_439
    info = describe_data(parse_one("cifar_wrn", "--holdout", "0.1")).info
    assert info.num_validation == 5_000


@pytest.mark.one_backend
@pytest.mark.parametrize("side", [4, 5])
def test_images_that_cannot_be_reflected_are_refused(side, tmp_path):
    """By TensorFlow in the middle of a graph; NumPy reflects them again and again."""
    path, y = tmp_path / "tiny.npz", np.arange(8) % 2
    x = np.full((8, side, 9, 3), 200, "uint8")
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    config = parse_one("cifar_wrn", "--dataset", str(path), "--augment", "basic")
    if side == 5:
        describe_data(config)
        return
    with pytest.raises(InputError, match=r"reflects 4 pixels .* Received: 4 x 9$"):
        describe_data(config)


@pytest.mark.one_backend
def test_extra_digits_come_before_those_to_train_on(monkeypatch):
    """So that the last ones, which are held out, are of the set itself."""
    sizes = {"train": 4, "extra": 3, "test": 2}

    class Builder:
        name = "svhn_cropped"
        info = type("Info", (), {"splits": sizes})

    def read(builder, split, dataset, size):
        shape = (sizes[split], 32, 32, 3)
        value = len(split)
        return np.full(shape, value, "uint8"), np.full(sizes[split], value)

    def prepare(name, data_dir):
        assert name == "svhn_cropped"
        return Builder()

    monkeypatch.setattr(images, "prepared_builder", prepare)
    monkeypatch.setattr(images, "_read_split", read)
    splits = images.load_images("svhn_cropped+extra", None)
    assert splits.train.y.tolist() == [5] * 7
    assert len(splits.validation) == 2
    monkeypatch.setitem(sizes, "extra", 0)
    assert len(images.load_images("svhn_cropped+extra", None).train) == 4


@pytest.fixture
def small(tmp_path) -> str:
    """An .npz of images of 6 x 6 pixels."""
    rng = np.random.default_rng(0)
    arrays = {
        f"{name}_{part}": value
        for part, count in (("train", 22), ("test", 8))
        for name, value in (
            ("x", rng.integers(0, 256, (count, 6, 6, 3)).astype("uint8")),
            ("y", rng.permutation(np.arange(count) % 3)),
        )
    }
    path = tmp_path / "small.npz"
    np.savez(path, **arrays)
    return str(path)


SMALL = ["--batch_size", "4"]
TINY = ["--depth", "8", "--width_mult", "0.1", "--epochs", "2", "--batch_size", "4"]


def test_a_run_with_all_of_it_goes_on_where_it_was(
    small, records, tmp_path, monkeypatch
):
    """Augmented, cut out, mixed and smoothed, with 2 of 22 examples left out: to the
    bit that of a run without a stop."""
    options = ["--dataset", small, *TINY]
    options += ["--augment", "autoaugment", "--cutout_size", "2", "--mixup", "0.5"]
    options += ["--label_smoothing", "0.1", "--label_noise", "0.2"]
    options += ["--steps_per_execution", "1"]  # a stop is looked at after each
    found = []
    for name, stops in (("whole", [None]), ("parts", [("train", 1, 1), None])):
        for stop in stops:
            request_stop(monkeypatch, stop)
            places = ["--run_dir", str(tmp_path / name), "--experiment", name]
            code = command.main(["cifar_resnet32", *options, *places])
            assert code == (130 if stop else 0)
        (record,) = records[name]
        found.append([record.curves[k] for k in ("loss", "val_loss", "accuracy")])
    assert found[0] == found[1]
    assert len(found[0][0]) == 2


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [*SMALL, "--depth", "33"],
            "--depth must be 6 n + 2 in this workload, such as 20, 32",
        ),
        (["--depth", "401"], "--depth must be an integer >= 1 and <= 400"),
        (
            ["--augment", "cutuot"],
            "one of none, basic, cutout, autoaugment. Received: cutuot; did",
        ),
        (["--augment", "cutout"], "--cutout_size must be at most the images' 6 x 6"),
        (["--cutout_size", "4"], "--augment cutout or autoaugment"),
        (["--augment", "autoaugment"], "--cutout_size must be at most the images'"),
        (["--holdout_last"], "--holdout X"),
        (["--momentum", "0", "--nesterov"], "--momentum X"),
        (["--optimizer", "adamw", "--decay_in_loss"], "--optimizer sgd or adam"),
        (["--batch_size", "32"], "--batch_size must be at most the 22 examples"),
        (["--mixup", "-1"], "--mixup must be a number >= 0"),
        (["--label_smoothing", "1"], "--label_smoothing must be a number >= 0 and < 1"),
    ],
)
def test_bad_options_are_refused_in_one_line(
    options, message, small, records, tmp_path, capsys
):
    code = command.main(
        ["cifar_resnet32", "--dataset", small, *options, "--run_dir", str(tmp_path)]
    )
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    assert message in error
    assert not any(records.values())


@pytest.mark.one_backend
def test_grey_images_have_no_policy():
    config = parse_one("cifar_wrn", "--dataset=mnist", "--augment=autoaugment")
    with pytest.raises(InputError, match=r"images of 3 channels, and mnist has 1$"):
        describe_data(config)


@pytest.mark.one_backend
def test_vectors_are_not_augmented(tmp_path):
    path = tmp_path / "vectors.npz"
    x = np.zeros((8, 5), "float32")
    y = np.arange(8) % 2
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    options = ["--dataset", str(path), "--augment", "basic"]
    (config,) = parse_command(find_target("cifar_wrn"), options).configs
    with pytest.raises(InputError, match=r"--augment needs images, and vectors.npz"):
        describe_data(config)


def test_soft_labels_are_scored_by_their_largest_share():
    """In training on mixed examples, as classes are in the validation."""
    from samkeras.losses import SmoothedCrossentropy
    from samkeras.scores import class_accuracy, top_5_accuracy

    logits = np.array([[2.0, 0, -1], [0, 1, 3]], "float32")
    soft = np.array([[0.6, 0.4, 0], [0, 0.7, 0.3]], "float32")
    accuracy = np.asarray(class_accuracy(soft, logits))
    np.testing.assert_array_equal(accuracy, [1, 0])
    np.testing.assert_array_equal(
        np.asarray(class_accuracy(np.array([1, 2]), logits)), [0, 1]
    )
    loss = SmoothedCrossentropy(0.3)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -((0.7 * soft + 0.1) * log_p).sum(-1).mean()
    assert float(loss(soft, logits)) == pytest.approx(expected, rel=1e-5)
    keras_own = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=0.3
    )
    one_hot = np.eye(3, dtype="float32")[[1, 2]]
    assert float(loss(np.array([1, 2]), logits)) == pytest.approx(
        float(keras_own(one_hot, logits)), rel=1e-5
    )
    assert SmoothedCrossentropy.from_config(loss.get_config()).label_smoothing == 0.3
    many = np.arange(7.0, dtype="float32")[None]
    hits = [float(top_5_accuracy(np.array([c]), many)[0]) for c in range(7)]
    assert hits == [0, 0, 1, 1, 1, 1, 1]
