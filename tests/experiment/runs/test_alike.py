"""Runs that differ in numbers alone share what is compiled, and nothing else."""

import dataclasses
import gc
import weakref
from pathlib import Path

import h5py
import numpy as np
import pytest

from samkeras.experiment.runs import alike
from samkeras.model import SAMModel
from tests.experiment.runs.making import MNIST
from tests.experiment.runs.test_resume import build_noisy_model
from workloads import mnist_mlp

pytestmark = pytest.mark.one_backend

# 3 steps, the last one of fewer examples, and so in the validation.
OPTIONS = ["--dataset", "mnist_5k", "--train_examples", "80", "--batch_size", "32"]
OPTIONS += ["--validation_examples", "40", "--epochs", "2"]
FSAM = ["--sam", "--method", "fsam", "--optimizer", "adamw", "--weight_decay", "0.01"]


@pytest.fixture
def num_shared(monkeypatch):
    """A function: () -> how often a run was given another's model."""
    runs, renew = [], alike._renew

    def note(model, new):
        runs.append(new)
        renew(model, new)

    monkeypatch.setattr(alike, "_renew", note)
    return lambda: len(runs)


def test_a_model_is_built_once_a_run(train, monkeypatch):
    """And once more of one shape, to know its size."""
    built, build = [], mnist_mlp.workload.build

    def note(*args):
        built.append(args)
        return build(*args)

    workload = dataclasses.replace(mnist_mlp.workload, build=note)
    monkeypatch.setattr(mnist_mlp, "workload", workload)
    assert train(*OPTIONS, "--seed", "0,1,2", target=MNIST)[0] == 0
    assert len(built) == 3 + 1


def read_weights(path: Path) -> dict[str, np.ndarray]:
    arrays = {}

    def read(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(read)
    return arrays


def read_runs(runs) -> dict[str, tuple]:
    """The curves of runs, but for their speed, and their best and last weights."""
    found = {}
    for run in runs:
        if "grid" not in run.tags:
            curves = {k: v for k, v in run.curves.items() if "second" not in k}
            files = sorted(run.folder.glob("*.weights.h5"))
            found[run.name] = curves, *map(read_weights, files)
    return found


@pytest.mark.parametrize(
    ("options", "num_models"),
    [
        pytest.param(
            ["--sam", "--rho", "0.05,0.2"], 1, id="rho", marks=pytest.mark.each_backend
        ),
        (["--sam", "true,false", "--seed", "0,1", "--lr_milestones", "[0.5]"], 2),
        ([*FSAM, "--precision", "mixed_float16", "--seed", "0,1"], 1),
        pytest.param(
            ["--sam", "--label_noise", "0,0.2", "--m_sharpness", "16", "--seed", "0,1"],
            1,
            marks=pytest.mark.slow,
        ),
        (["--weight_decay", "0.1,0.2"], 1),
        (["--learning_rate", "0.05,0.2", "--lr_milestones", "[]"], 1),
        (["--sam", "--method", "gsam", "--sam_alpha", "0.2,0.6"], 1),
        pytest.param(
            ["--weight_decay", "0,0.1", "--seed", "0,1"], 2, marks=pytest.mark.slow
        ),
    ],
)
def test_runs_that_share_a_model_are_as_alone(
    train, recorded, num_shared, monkeypatch, options, num_models
):
    """To the bit: weights, BatchNorm and dropout, optimizer and method start anew."""
    workload = dataclasses.replace(mnist_mlp.workload, build=build_noisy_model)
    monkeypatch.setattr(mnist_mlp, "workload", workload)
    assert train(*OPTIONS, *options, target=MNIST)[0] == 0
    together = read_runs(recorded())
    assert num_shared() == len(together) - num_models > 0
    alike.kept.clear()
    monkeypatch.setattr(alike.Alike, "keep", lambda self, model: None)
    assert train(*OPTIONS, *options, "--rerun", target=MNIST)[0] == 0
    assert num_shared() == len(together) - num_models
    alone = read_runs(recorded()[len(together) :])
    np.testing.assert_equal(together, alone)


def test_a_pruned_run_shares_no_model(train, num_shared):
    """Its masks are in the programs."""
    options = ["--pruner", "magnitude", "--sparsity", "0.5", "--seed", "0,1"]
    assert train(*OPTIONS, "--width_mult", "0.1", *options, target=MNIST)[0] == 0
    assert num_shared() == 0


def test_a_run_that_failed_leaves_no_model(train, num_shared):
    """It may be anywhere within a step."""
    options = ["--sam", "--rho", "0.05,1e30,0.1", "--width_mult", "0.1"]
    assert train(*OPTIONS, *options, target=MNIST)[0] == 1
    assert num_shared() == 1  # by the failing run, and by none after it


def test_runs_that_train_together_share_no_model(train, num_shared):
    """Each has one of its own, one of which a later run is given."""
    options = [*OPTIONS, "--sam", "--rho", "0.05,0.1", "--width_mult", "0.1"]
    assert train(*options, "--replicas", "2", target=MNIST)[0] == 0
    assert num_shared() == 0
    assert train(*options[:-3], "0.2", *options[-2:], target=MNIST)[0] == 0
    assert num_shared() == 1


def test_few_models_are_kept(train, num_shared, monkeypatch):
    """The last ones, of so many parameters in all."""
    monkeypatch.setattr(alike, "MAX_PARAMS", 60_000)
    options = ["--width_mult", "0.1,0.2", "--seed", "0,1"]
    assert train(*OPTIONS, *options, target=MNIST)[0] == 0
    assert num_shared() == 2
    assert [dict(key[-1])["width_mult"] for key in alike.kept] == ["0.2"]


def test_few_programs_are_kept(train, monkeypatch):
    """However small their models are: the others are let go of."""
    monkeypatch.setattr(alike, "MAX_MODELS", 1)
    alike.kept.clear()
    options = ["--width_mult", "0.1", "--lr_milestones", "[0.5]", "--epochs", "2"]
    gc.collect()
    before = weakref.WeakSet(each for each in gc.get_objects() if is_model(each))
    learning_rates = ",".join(str(0.01 * n) for n in (1, 2, 3))
    arguments = [*OPTIONS[:-2], *options, "--learning_rate", learning_rates]
    assert train(*arguments, target=MNIST)[0] == 0
    gc.collect()
    models = [each for each in gc.get_objects() if is_model(each)]
    assert [dict(key[-1])["learning_rate"] for key in alike.kept] == ["0.03"]
    assert len([each for each in models if each not in before]) == 1


def is_model(each) -> bool:
    return isinstance(each, SAMModel)
