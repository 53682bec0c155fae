"""What a command refuses, and what it needs not."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import run as command
from samkeras.experiment.options.targets import ROOT

pytestmark = pytest.mark.one_backend


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--run_dir", "/proc/x"], "--run_dir /proc/x cannot be written"),
        (["--tracking_uri", "http://"], "cannot use the MLflow store http://"),
        (["--tracking_uri", "foo://x"], "cannot use the MLflow store foo://x"),
        (["--train_examples", "null"], "--train_examples of workloads/synthetic_mlp"),
        (["--train_examples", "30", "--sam", "maybe"], "--sam must be true or false"),
    ],
)
def test_bad_input_exits_with_2_and_one_line(tmp_path, capsys, options, words):
    """What can be known before training is said in one line, and nothing is written."""
    places = {"--run_dir": tmp_path / "r", "--tracking_uri": f"sqlite:///{tmp_path}/d"}
    places.update(dict([options[:2]]))
    pairs = [str(word) for pair in places.items() for word in pair]
    assert command.main(["workloads/synthetic_mlp", *pairs, *options[2:]]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("is_dry", [True, False])
@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--only normalization", "no such trainable weights; it has bias, kernel"),
        (
            "--sam_every 65 --train_examples 1024 --batch_size 64 --epochs 4",
            "--sam_every must be at most the 64 steps of the training. Received: 65",
        ),
    ],
)
def test_perturbing_nothing_is_refused_at_once(
    tmp_path, capsys, options, words, is_dry
):
    """By --dry_run as by the run, which would end as if SAM had been off."""
    places = ["--run_dir", str(tmp_path / "runs"), "--experiment", "refused"]
    places += ["--tracking_uri", f"sqlite:///{tmp_path}/d"]
    line = ["workloads/synthetic_mlp", "--sam", *options.split(), *places]
    assert command.main([*line, *(["--dry_run"] if is_dry else [])]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1
    assert not list(tmp_path.glob("runs/*"))


def test_too_many_examples_are_refused(capsys):
    """Asking for more examples than there are is no silent "all of them"."""
    arguments = ["workloads/mnist_mlp", "--dataset", "mnist_5k"]
    assert command.main([*arguments, "--train_examples", "5000"]) == 2
    assert "at most 4000" in capsys.readouterr().err


def test_unknown_backend_is_refused(monkeypatch, capsys):
    """KERAS_BACKEND=foo is answered by the backends there are."""
    monkeypatch.setenv("KERAS_BACKEND", "foo")
    assert command.main(["workloads/synthetic_mlp"]) == 2
    assert "jax, tensorflow. Received: foo" in capsys.readouterr().err


BLOCKED = {"jax": "tensorflow", "tensorflow": "jax"}
WITHOUT = """
import importlib.abc, sys

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {other!r}:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)

sys.meta_path.insert(0, Block())

import run

for dataset in {datasets!r}:
    code = run.main(["workloads/mnist_mlp", "--dataset", dataset, *sys.argv[1:]])
    if code != 0:
        sys.exit(code)
"""


@pytest.mark.each_backend
def test_a_backend_needs_not_the_other(tmp_path, store):
    """The sample and an .npz train on JAX without TensorFlow, and the other way."""
    path = str(tmp_path / "data.npz")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (64, 8, 8), np.uint8), rng.integers(0, 3, 64)
    np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
    script = WITHOUT.format(
        other=BLOCKED[keras.backend.backend()], datasets=["mnist_5k", path]
    )
    options = ["--epochs", "1", "--sam", "--run_dir", str(tmp_path / "runs")]
    options += ["--train_examples", "64", "--validation_examples", "64"]
    options += ["--tracking_uri", store, "--experiment", "blocked"]
    done = subprocess.run(
        [sys.executable, "-c", script, *options],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("width_mult  parameters") == 2


def test_project_folder_does_not_hide_mlflow():
    """The folder mlflow/ of the project never becomes the package mlflow."""
    assert not (ROOT / "mlflow" / "__init__.py").exists()
    import mlflow

    assert Path(mlflow.__file__).parent != ROOT / "mlflow"
