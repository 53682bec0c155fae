"""The examples run as they are, and what they print means what they say."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import samkeras
from samkeras.experiment.launch import groups

FOLDER = Path(__file__).parents[1] / "examples"
EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py"))


pytestmark = pytest.mark.slow_on_tensorflow


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """A function: an example and options -> the names that it leaves, and what it
    prints, as a program in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(name: str, *options: str) -> tuple[dict, str]:
        path = str(FOLDER / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [path, *options])
        names = {}
        try:
            names = runpy.run_path(path, run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
        return names, capsys.readouterr().out

    return call


@pytest.mark.one_backend
def test_each_example_has_a_test_and_says_how_to_run_it():
    tests = re.findall(r"run\(\s*\"(\w+)\"|\"(\w+)\.py\"", Path(__file__).read_text())
    assert {a or b for a, b in tests} == set(EXAMPLES)
    for name in EXAMPLES:
        text = (FOLDER / f"{name}.py").read_text()
        docstring = text.split('"""')[1]
        assert f"python examples/{name}.py" in docstring
        assert "rints" in docstring


def test_sam_fits_noisy_labels_less(run):
    names, printed = run("fit_with_sam")
    assert names["accuracies"]["SAM"] > names["accuracies"]["SGD"] + 0.01
    assert printed.count("of the test digits right") == 2


def test_fine_tuning_moves_the_head_and_not_what_is_frozen(run):
    names, _ = run("fine_tune_with_asam")
    first, *_ = names["trunk"].get_weights()
    np.testing.assert_array_equal(first, names["learnt"][0])
    assert not np.array_equal(names["trunk"].get_weights()[2], names["learnt"][2])
    assert names["accuracies"]["with ASAM"] > names["accuracies"]["from scratch"]


def test_a_method_of_ones_own_keeps_the_last_gradient(run):
    names, printed = run("own_method")
    assert min(names["accuracies"].values()) > 0.85
    assert printed.splitlines()[-1].endswith("passes of a step: 1")
    # Two steps by hand. The first has no gradient to go along.
    x = np.diag([1, 2, 3]).astype("float32")
    y = np.ones((3, 1), "float32")
    inputs = keras.Input((3,))
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")
    model = samkeras.SAMModel(inputs, dense(inputs))
    model.compile(keras.optimizers.SGD(0.1), "mse", method=names["StaleSAM"](rho=0.5))
    w, g = np.ones((3, 1)), np.zeros((3, 1))
    for _ in range(2):
        model.train_on_batch(x, y)
        at = w + 0.5 * g / (np.linalg.norm(g) + 1e-12)
        g = 2 / 3 * x.T @ (x @ at - y)
        w = w - 0.1 * g
        (last,) = model.method.state
        np.testing.assert_allclose(last, g, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(model.get_weights()[0], w, rtol=1e-5, atol=1e-6)


def test_a_workload_outside_the_project(run, records, tmp_path):
    _, printed = run("own_workload", "--epochs", "2", "--run_dir", str(tmp_path / "r"))
    assert "SAM's gain in best val_accuracy" in printed
    assert [*records] == ["examples/own_workload"]
    _, printed = run("own_workload", "--sam", "true", "--dry_run")
    assert "sam: true" in printed


def test_sam_ends_where_curvature_is_less(run):
    names, _ = run("measure_sharpness")
    assert names["eigenvalues"]["SAM"] < names["eigenvalues"]["SGD"]
    assert names["top"].converged


def test_a_landscape_is_a_picture(run, tmp_path):
    names, _ = run("draw_landscape")
    assert names["rises"]["SAM"] < names["rises"]["SGD"]
    assert (tmp_path / "landscape.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_several_devices_train_the_same_weights():
    """In a process of its own, which sees several, and takes its time to import all;
    test_devices.py has the same of more models. A GPU that JAX is told to use, and has
    not here, is left alone."""
    ended = subprocess.run(
        [sys.executable, FOLDER / "several_devices.py"],
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent), "JAX_PLATFORMS": "cuda"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    devices, difference = ended.stdout.splitlines()
    assert devices == "devices: cpu:0 cpu:1 cpu:2 cpu:3"
    assert float(difference.split()[-1]) < 1e-5


@pytest.mark.one_backend
def test_replicas_are_runs_of_their_own(run, records, tmp_path, monkeypatch):
    sizes, train_together = [], groups.train_together

    def note(trainings):
        sizes.append(len(trainings))
        return train_together(trainings)

    monkeypatch.setattr(groups, "train_together", note)
    options = ["--sam", "--epochs", "1", f"--run_dir={tmp_path / 'runs'}"]
    _, printed = run("replicas", *options)
    assert sizes == [3]
    assert len(records["mnist_mlp"]) == 4  # the grid's own is the last
    assert len([*(tmp_path / "runs").glob("mnist_mlp*")]) == 3
    assert re.search(r"0\.05 +3 ", printed)  # rho and its seeds


def test_sam_by_hand_gives_the_models_weights():
    """Plain JAX of sixty lines and SAMModel, from the same weights and batches."""
    names = runpy.run_path(str(FOLDER / "sam_by_hand.py"))
    x, y = names["read"]()
    inputs = keras.Input((64,))
    hidden = keras.layers.Dense(32, activation="tanh")(inputs)
    model = samkeras.SAMModel(inputs, keras.layers.Dense(10)(hidden))
    model.set_weights([np.asarray(w) for w in names["init"](np.random.default_rng(0))])
    model.compile(
        optimizer=keras.optimizers.SGD(names["RATE"]),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        method=samkeras.SAM(rho=names["RHO"]),
        steps_per_execution=16,
    )
    model.fit(x, y, batch_size=64, epochs=names["EPOCHS"], shuffle=False, verbose=0)
    by_hand = names["train"](names["RHO"])
    for ours, theirs in zip(model.get_weights(), by_hand, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
