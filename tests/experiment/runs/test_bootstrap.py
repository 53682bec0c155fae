"""Runs that have the predictions of a first one as their labels."""

import dataclasses

import keras
import numpy as np
import pytest

import run as command
from samkeras.data.examples import ArrayExamples
from samkeras.errors import InputError
from samkeras.experiment.launch import groups
from samkeras.experiment.options.fingerprint import find_marks
from samkeras.experiment.options.groups import find_first
from samkeras.experiment.runs import train as training
from samkeras.experiment.runs.bootstrap import with_labels
from samkeras.experiment.runs.build import build_model
from samkeras.experiment.runs.data import add_noise, describe_data, read_data
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies import training as studies
from tests.helpers import parse_runs, request_stop

TINY = ["--depth", "8", "--width_mult", "0.1", "--epochs", "2", "--batch_size", "8"]
TINY += ["--image_size", "6", "--train_examples", "24", "--validation_examples", "8"]
TINY += ["--dataset", "mnist_5k", "--label_noise", "0.5", "--augment", "basic"]
TINY += ["--steps_per_execution", "1"]  # a stop is looked at after each


@pytest.fixture
def trained(records, tmp_path, monkeypatch):
    """A function: (name, stops, options) -> the records of a run with bootstrap and of
    its first one, by whether they have it, after a command for each place to stop
    at."""

    def call(name: str, *stops, options=()):
        places = ["--run_dir", str(tmp_path / name), "--experiment", name]
        arguments = ["cifar_resnet32", *TINY, "--bootstrap", "true", *options, *places]
        for stop in stops:
            request_stop(monkeypatch, stop)
            assert command.main(arguments) == (130 if stop else 0)
        return {run.params["bootstrap"]: run for run in records[name][-2:]}

    return call


@pytest.mark.slow_on_tensorflow
def test_labels_are_what_the_first_run_predicts(trained, tmp_path, monkeypatch):
    """The classes of the largest logits of its last weights, of images as they are; how
    many labels differ is recorded. With --rerun they are predicted again; the same
    command again trains neither."""
    runs = trained("two", None)
    first, second = (runs[is_second] for is_second in ("false", "true"))
    config = next(c for c in parse_runs("cifar_resnet32", TINY))
    splits = describe_data(config)
    model = build_model(Run(config), splits.info)
    model.load_weights(first.folder / "last.weights.h5")
    given, *_ = add_noise(config, splits)
    logits = np.asarray(keras.ops.convert_to_numpy(model(given.x, training=False)))
    labels = np.load(second.folder / "bootstrap_labels.npy")
    np.testing.assert_array_equal(labels, logits.argmax(-1))
    share = float(second.params["labels_changed"])
    assert share == pytest.approx((labels != given.y).mean())
    assert share > 0
    assert "labels_changed" not in first.params
    assert first.curves["loss"] != second.curves["loss"]
    np.save(second.folder / "bootstrap_labels.npy", 0 * labels)
    trained("two", None, options=["--rerun"])
    again = np.load(second.folder / "bootstrap_labels.npy")
    np.testing.assert_array_equal(again, labels)

    def train(*_):
        raise AssertionError("trained again")

    monkeypatch.setattr(groups, "train", train)
    trained("two", None)


@pytest.mark.slow_on_tensorflow
def test_a_second_run_goes_on_with_its_labels(trained, tmp_path):
    """To the bit that of one without a stop, though the first one's weights are gone
    since: each of them is stopped once."""
    whole = trained("whole", None)["true"]
    runs = trained("parts", ("end", 0), ("end", 0))
    (runs["false"].folder / "last.weights.h5").unlink()
    parts = trained("parts", None)["true"]
    for name in ("loss", "val_loss", "accuracy"):
        assert parts.curves[name] == whole.curves[name]
    assert len(parts.curves["loss"]) == 2


@pytest.mark.one_backend
def test_a_run_without_its_first_one_fails(records, tmp_path, monkeypatch, capsys):
    """It says why and what helps, and nothing is trained on other labels, also not on
    those that a run that never had a checkpoint has kept."""
    relabel = training.relabel

    def fail(*_):
        raise RuntimeError("no luck")

    def lose(run, splits, examples, run_dir, folder):
        np.save(folder / "bootstrap_labels.npy", 0 * examples.y)
        return relabel(run, splits, examples, str(tmp_path / "elsewhere"), folder)

    places = ["--run_dir", str(tmp_path / "runs")]
    arguments = ["cifar_resnet32", *TINY, "--bootstrap", "true", *places]
    with monkeypatch.context() as context:
        context.setattr(training, "describe_noise", fail)
        assert command.main(arguments) == 1
    said = capsys.readouterr()
    assert "whose predictions it needs, failed" in said.out + said.err
    monkeypatch.setattr(training, "relabel", lose)
    assert command.main(arguments) == 1
    said = capsys.readouterr()
    assert "--bootstrap needs the run without it, and" in said.out + said.err
    assert "--rerun trains both" in said.out + said.err


@pytest.mark.one_backend
def test_a_first_run_is_the_run_without_it():
    """Which comes before, once, and is the same run as if nobody asked for more."""
    (plain,) = parse_runs("cifar_resnet32", TINY)
    first, second = parse_runs("cifar_resnet32", [*TINY, "--bootstrap"])
    assert first == plain == find_first(second)
    assert find_first(plain) is None
    assert parse_runs("cifar_resnet32", [*TINY, "--bootstrap=true,false"]) == [
        first,
        second,
    ]
    marks = {find_marks(each, 1, "jax").now for each in (plain, first, second)}
    assert len(marks) == 2


@pytest.mark.one_backend
def test_images_on_disk_are_refused_before_anything_trains(
    records, tmp_path, monkeypatch, capsys
):
    def read(config, memory):
        splits = read_data(config, memory)
        return dataclasses.replace(splits, read=lambda: (object(), splits.validation))

    monkeypatch.setattr(studies, "read_data", read)
    places = ["--run_dir", str(tmp_path / "runs"), "--experiment", "disk"]
    assert command.main(["cifar_resnet32", *TINY, "--bootstrap", *places]) == 2
    error = capsys.readouterr().err
    assert "--bootstrap needs images in memory" in error
    assert error.count("\n") == 1
    assert not records["disk"]


@pytest.mark.one_backend
@pytest.mark.parametrize(
    ("content", "what"), [(None, "is not there"), (b"no array", "is damaged")]
)
def test_labels_that_are_gone_are_said(tmp_path, content, what):
    """To who loads the run, with what helps."""
    if content is not None:
        (tmp_path / "bootstrap_labels.npy").write_bytes(content)
    examples = ArrayExamples(np.zeros((2, 3)), np.arange(2))
    with pytest.raises(InputError, match=f"{what}: the run's command with --rerun"):
        with_labels(examples, tmp_path)
