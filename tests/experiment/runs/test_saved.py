"""A finished run in one's own code."""

import doctest
import os
import random
import re
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import run as command
import samkeras
from samkeras.backend import backend
from samkeras.errors import InputError
from samkeras.experiment.options.targets import ROOT
from samkeras.experiment.runs.saved import load_run
from samkeras.experiment.studies import grid
from samkeras.experiment.tracking.journal import Journal
from samkeras.experiment.tracking.record import MemoryTracker

pytestmark = pytest.mark.one_backend

EXAMPLE = ROOT / "examples" / "two_moons"
OPTIONS = ["--sam", "--method", "fsam", "--pruner", "snip", "--sparsity", "0.5"]
OPTIONS += ["--label_noise", "0.2", "--spread", "0.3", "--momentum", "0.9"]
OPTIONS += ["--width_mult", "0.25", "--epochs", "3", "--learning_rate", "2"]


def write_journal(record, status: str = "FINISHED", **params: str) -> None:
    """The journal that a run's record in memory would have on disk."""
    head = {"name": record.name, "tags": {**record.tags, "target": ""}, "time": 1_000}
    head |= {"store": "memory:", "experiment": "moons/two_moons", "parent": None}
    records = [
        {"params": record.params | params},
        {"metrics": record.metrics, "step": 0, "time": 1_000},
        {"tags": record.tags},  # the last of a name counts
        {"status": status, "time": 3_500},
    ]
    for path in record.folder.glob("journal_*"):
        path.unlink()
    Journal.create(record.folder, head, records)


def train(places: Path, *options: str):
    """The record of a run of a workload outside of the project."""
    shutil.copytree(EXAMPLE, places / "moons")
    records = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "MLflowTracker", lambda *_: MemoryTracker(records))
        line = [str(places / "moons" / "two_moons.py"), *options, "--verbose", "0"]
        assert command.main([*line, "--run_dir", str(places / "runs")]) == 0
    (record,) = records
    write_journal(record)
    return record


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """One that is pruned, on noisy labels, by a method that has a state."""
    return train(tmp_path_factory.mktemp("places"), *OPTIONS)


@pytest.fixture
def copy(trained, tmp_path):
    """The record of a copy of the run, to be changed."""
    folder = tmp_path / "runs" / trained.folder.name
    shutil.copytree(trained.folder, folder)
    changed = MemoryTracker().start(trained.name, dict(trained.tags), None, folder)
    changed.params, changed.metrics = trained.params, trained.metrics
    return changed


@pytest.mark.each_backend
def test_a_saved_run_gives_the_numbers_that_it_recorded(trained, monkeypatch):
    """To the bit, by its best and its last weights, masks and noise included; the
    user's process stays as it is."""
    keras.config.set_dtype_policy("mixed_bfloat16")
    before = random.getstate()
    monkeypatch.chdir(trained.folder.parent)
    run = samkeras.load_run(trained.folder.name)  # a relative path
    numbers = run.numbers
    for which, kind in (("best", "best"), ("last", "final")):
        model, number = run.model(which), f"{kind}_val_accuracy"
        batches = run.data.validation.batches(run.config.batch_size)
        got = model.evaluate(batches, verbose=0, return_dict=True)
        assert got["accuracy"] == numbers[number] == trained.metrics[number]
        assert model.masks.num_pruned == numbers["num_params"] - numbers["num_nonzero"]
    assert got["loss"] == numbers["val_loss"]
    assert numbers["best_val_accuracy"] != numbers["final_val_accuracy"]
    assert int(model.optimizer.iterations) > 0
    noise = np.load(trained.folder / "label_noise.npz")
    labels = run.data.train.y[tuple(noise["indices"].T)]
    np.testing.assert_array_equal(labels, noise["noisy"])
    assert run.config.spread == 0.3
    assert numbers["seconds"] == trained.metrics["seconds"]
    assert run.params["keras_backend"] == keras.backend.backend()
    assert keras.config.dtype_policy().name == "mixed_bfloat16"
    assert random.getstate() == before


@pytest.mark.each_backend
def test_a_run_of_float64_wants_a_backend_that_has_it(tmp_path):
    """JAX makes its numbers float32 unless it is told not to."""
    record = train(tmp_path, "--precision", "float64", "--epochs", "1")
    keras.config.set_floatx("float32")
    run = samkeras.load_run(record.folder)
    if keras.backend.backend() == "jax":
        with pytest.raises(InputError, match="jax_enable_x64"):
            run.model()
    with backend.double_precision():
        assert {v.dtype for v in run.model().trainable_variables} == {"float64"}
    assert keras.config.floatx() == "float32"


def test_paths_of_data_are_meant_from_where_the_run_was_started(
    records, tmp_path, monkeypatch
):
    """Unless there is nothing any more: then from where one is."""
    examples = np.random.default_rng(0).integers(0, 256, (32, 4, 4)).astype("uint8")
    labels = np.arange(32) % 2
    parts = {"x_train": examples, "y_train": labels}
    parts |= {"x_test": examples, "y_test": labels}
    for name in ("began", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "began")
    np.savez("own.npz", **parts)
    line = ["mnist_mlp", "--dataset", "own.npz", "--width_mult", "0.02", "--epochs=1"]
    line += ["--data_dir", ".", "--run_dir", str(tmp_path / "runs"), "--verbose=0"]
    assert command.main(line) == 0
    ((record,),) = records.values()
    write_journal(record)
    monkeypatch.chdir(tmp_path / "elsewhere")
    np.testing.assert_array_equal(load_run(record.folder).data.train.y, labels)
    assert load_run(record.folder).config.dataset == "own.npz"
    shutil.move(tmp_path / "began" / "own.npz", tmp_path / "elsewhere")
    np.testing.assert_array_equal(load_run(record.folder).data.train.y, labels)


def test_a_networks_file_is_meant_from_where_the_run_was_started(
    records, tmp_path, monkeypatch
):
    """For its data and its model; a folder that is called as its data set is none of
    them. Of another file than the run's it says that it is the network's."""
    for name in ("began", "elsewhere"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "began")
    inputs = keras.Input((None, None, 3))
    keras.Model(inputs, keras.layers.Dense(2)(inputs)).save("own.keras")
    line = [
        "finetune",
        "--backbone",
        "own.keras",
        "--dataset",
        "mnist_5k",
        "--image_size=4",
    ]
    line += ["--train_examples=8", "--validation_examples=8", "--batch_size=8"]
    line += ["--steps=1", "--eval_every=1", "--sam=false"]
    line += ["--run_dir", str(tmp_path / "runs"), "--verbose=0"]
    assert command.main(line) == 0
    ((record,),) = records.values()
    write_journal(record)
    Path("mnist_5k").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = load_run(record.folder)
    batches = run.data.validation.batches(run.config.batch_size)
    got = run.model("last").evaluate(batches, verbose=0, return_dict=True)
    assert got["loss"] == pytest.approx(run.numbers["val_loss"])
    (tmp_path / "began" / "mnist_5k").rmdir()
    keras.Model(inputs, keras.layers.Dense(3)(inputs)).save("../began/own.keras")
    with pytest.raises(InputError, match=r"^--backbone own\.keras is not the file"):
        _ = load_run(record.folder).data


def test_its_example_runs(trained):
    """That of the docstring, of which test_docstrings.py runs all others."""
    names = {"samkeras": samkeras, "folder": trained.folder}
    parse = doctest.DocTestParser().get_doctest
    test = parse(load_run.__doc__, names, "load_run", None, None)
    said = []
    doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert test.examples
    assert not said, "".join(said)


@pytest.mark.parametrize("kind", [str, Path, lambda path: f"{path}/"])
def test_a_folder_is_a_path_or_text(trained, kind):
    assert load_run(kind(trained.folder)).config.rho == 0.05


def test_a_folder_that_is_no_run_is_refused(trained, tmp_path):
    folder = trained.folder
    with pytest.raises(InputError, match=f"no folder .*; did you mean {folder.name}"):
        load_run(str(folder)[:-1])
    with pytest.raises(InputError, match="holds no run: a run's folder has a journal"):
        load_run(folder.parent)
    Journal.create(tmp_path, {"tags": {"grid": "seed 0,1"}, "time": 0}, [])
    with pytest.raises(InputError, match="records of a grid; load one of its runs"):
        load_run(tmp_path)


def test_a_run_that_is_not_finished_is_refused(copy):
    copy.tags["failure"] = "loss is nan by step 7"
    for status, words in (
        ("KILLED", "is not finished but KILLED; the command"),
        ("FAILED", r"is not finished but FAILED \(loss is nan by step 7\); the"),
    ):
        write_journal(copy, status)
        with pytest.raises(InputError, match=words):
            load_run(copy.folder)


def test_a_run_of_the_other_backend_is_refused(copy, monkeypatch):
    """Where keras runs on another one already; else it takes the run's."""
    write_journal(copy, keras_backend="tensorflow")
    message = "trained on tensorflow, and keras is on jax here: .*KERAS_BACKEND=tensor"
    with pytest.raises(InputError, match=message):
        load_run(copy.folder)
    monkeypatch.delitem(sys.modules, "keras")
    with pytest.raises(InputError, match=message):
        load_run(copy.folder)
    monkeypatch.setenv("KERAS_BACKEND", "")
    monkeypatch.delenv("KERAS_BACKEND")
    load_run(copy.folder)
    assert os.environ["KERAS_BACKEND"] == "tensorflow"


def test_a_workload_that_moved_is_asked_for(copy, tmp_path):
    """As is one that no run of before says the place of."""
    moved = shutil.copytree(EXAMPLE, tmp_path / "moved") / "two_moons.py"
    for target, words in (
        ("/nowhere/two_moons.py", "no longer at /nowhere/two_moons.py .*; give it: "),
        (None, "does not say where its workload two_moons is.*; give it: load_run"),
    ):
        copy.tags["target"] = target
        write_journal(copy)
        journal = next(copy.folder.glob("journal_*.jsonl"))
        if target is None:
            text = re.sub(r', "target": (null|"")', "", journal.read_text())
            journal.write_text(text)
        with pytest.raises(InputError, match=words):
            load_run(copy.folder)
        assert load_run(copy.folder, moved).config.target.path == moved
    with pytest.raises(InputError, match="mnist_mlp is not the workload two_moons"):
        load_run(copy.folder, "mnist_mlp")


def test_a_workload_that_was_edited_is_said(copy, tmp_path):
    """By a warning where the weights still fit it, else where they are asked for."""
    write_journal(copy)
    path = shutil.copytree(EXAMPLE, tmp_path / "same") / "two_moons.py"
    text = path.read_text()
    path.write_text(text + "\nMORE = 1\n")
    with pytest.warns(UserWarning, match=r"two_moons\.py has been edited since"):
        assert load_run(copy.folder, path).model().built
    path = shutil.copytree(EXAMPLE, tmp_path / "deeper") / "two_moons.py"
    path.write_text(text.replace("[32]", "[32, 32]"))
    run = load_run(copy.folder, path)
    message = "edited since .*: the run's weights have 42 parameters, and it builds a"
    with (
        pytest.warns(UserWarning, match="edited since"),
        pytest.raises(InputError, match=f"{message} model of 114"),
    ):
        run.model()
    copy.params = copy.params | {"num_params": "114"}  # as if there were as many
    write_journal(copy)
    with (
        pytest.warns(UserWarning, match="edited since"),
        pytest.raises(InputError, match=r"weights do not fit its model \("),
    ):
        load_run(copy.folder, path).model()


def test_what_is_gone_or_damaged_is_said(copy):
    write_journal(copy, data_digest="0", dataset="my.npz")
    with pytest.raises(InputError, match=r"--dataset my\.npz is not the file that"):
        _ = load_run(copy.folder).data
    write_journal(copy)
    with pytest.raises(InputError, match=r"best, last, start\. Received: first"):
        load_run(copy.folder).model("first")
    path = copy.folder / "best.weights.h5"
    path.write_bytes(path.read_bytes()[:5_000])
    with pytest.raises(InputError, match=r"best\.weights\.h5 is damaged"):
        load_run(copy.folder).model()
    path.unlink()
    with pytest.raises(InputError, match=r"best\.weights\.h5 is not there"):
        load_run(copy.folder).model()
