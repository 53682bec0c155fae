"""JAX and TensorFlow train alike, and each repeats itself."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import numpy as np
import pytest

from tests.trajectory import NUM_STEPS, train_norm_model

BACKENDS = ("jax", "tensorflow")
CASES = ("tokens_sam", "tokens_plain", "norm")


@pytest.fixture(scope="module")
def numbers(tmp_path_factory) -> dict[str, dict[str, np.ndarray]]:
    """What tests/trajectory.py saves on each backend."""
    if keras.backend.backend() != "jax":
        pytest.skip("the tests on JAX compare the backends")
    for backend in BACKENDS:
        if find_spec(backend) is None:
            pytest.skip(f"{backend} is not installed")
    folder = tmp_path_factory.mktemp("trajectory")
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.trajectory", folder / f"{backend}.npz"],
            env={**os.environ, "KERAS_BACKEND": backend},
            cwd=Path(__file__).parents[2],
            stderr=subprocess.PIPE,
            text=True,
        )
        for backend in BACKENDS
    ]
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    return {backend: dict(np.load(folder / f"{backend}.npz")) for backend in BACKENDS}


@pytest.mark.parametrize("case", CASES)
def test_backends_take_the_same_steps(case, numbers):
    """20 steps from the same weights on the same batches lead to the same places.

    1e-5: float32 sums in another order, grown by momentum over 20 steps.
    """
    on_jax, on_tensorflow = (numbers[b][f"{case}/weights"] for b in BACKENDS)
    assert len(on_jax) == NUM_STEPS
    errors = np.linalg.norm(on_jax - on_tensorflow, axis=1)
    assert np.all(errors < 1e-5 * np.linalg.norm(on_jax, axis=1))
    assert np.linalg.norm(on_jax[-1] - on_jax[0]) > 0.1 * np.linalg.norm(on_jax[0])


@pytest.mark.parametrize("case", ["tagger", "lstm", "gcn", "actor_critic"])
def test_backends_train_the_tasks_models_alike(case, numbers):
    """10 SAM steps of words, sentences and graphs, padded, some labels missing, and of
    frames of games."""
    on_jax, on_tensorflow = (numbers[b][f"{case}/weights"] for b in BACKENDS)
    errors = np.linalg.norm(on_jax - on_tensorflow, axis=1)
    assert np.all(errors < 1e-5 * np.linalg.norm(on_jax, axis=1))
    moved = np.linalg.norm(on_jax[-1] - on_jax[0])
    assert moved > 1e-3 * np.linalg.norm(on_jax[0])
    losses = [numbers[b][f"{case}/loss"] for b in BACKENDS]
    np.testing.assert_allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_backends_log_the_same_numbers(case, numbers):
    """Losses and gradient statistics agree: SAM logs four, plain training the loss."""
    names = {name for name in numbers["jax"] if name.startswith(f"{case}/")}
    assert len(names) == (2 if case == "tokens_plain" else 5)
    for name in names - {f"{case}/weights"}:
        # 1e-4: a norm of small gradients is less exact than the weights' sum of them.
        np.testing.assert_allclose(*(numbers[b][name] for b in BACKENDS), rtol=1e-4)


def test_a_backend_repeats_itself_to_the_bit():
    """The same seed gives the same weights and logs again, with dropout on."""
    runs = []
    for _ in range(2):
        keras.utils.set_random_seed(7)
        runs.append(train_norm_model(dropout=0.3))
    for name, values in runs[0].items():
        np.testing.assert_array_equal(runs[1][name], values, err_msg=name)
    without_dropout = train_norm_model(dropout=0.0)["weights"]
    assert not np.allclose(runs[0]["weights"], without_dropout)
