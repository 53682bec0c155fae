"""JAX and TensorFlow measure alike, each by derivatives of its own."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.analysis.making import NETWORKS
from tests.analysis.measured import measure


@pytest.fixture(scope="module")
def on_tensorflow(tmp_path_factory) -> dict[str, np.ndarray]:
    """What measured.py saves there."""
    if keras.backend.backend() != "jax":
        pytest.skip("the tests on JAX compare the backends")
    if find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed")
    path = tmp_path_factory.mktemp("measured") / "numbers.npz"
    run = subprocess.run(
        [sys.executable, "-m", "tests.analysis.measured", path],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return dict(np.load(path))


@pytest.mark.parametrize("name", NETWORKS)
def test_backends_agree(name, on_tensorflow):
    """Of convolutions, BatchNorm, max pooling, embeddings, LSTM, attention, and layer
    and group normalization, whose variances TensorFlow differentiates once alone."""
    for key, value in measure(name).items():
        other = on_tensorflow[f"{name}/{key}"]
        error = np.linalg.norm(value - other) / np.linalg.norm(other)
        assert error < 1e-4, key
