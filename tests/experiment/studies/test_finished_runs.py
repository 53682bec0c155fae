"""Runs that are finished: looked up and shown without keras and its backend, which take
most of the time of a command that has nothing to train."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from samkeras.experiment.options.targets import list_workloads

ROOT = Path(__file__).parents[3]
SMALL = ["--train_examples", "8", "--validation_examples", "8", "--epochs", "1"]

BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("keras", "jax", "tensorflow", "mlflow"):
            raise ModuleNotFoundError(f"blocked: {name}", name=name)

sys.meta_path.insert(0, Blocker())
"""
LOOK_UP = f"""{BLOCKED}
from samkeras.experiment import command
from samkeras.experiment.studies import grid
from samkeras.experiment.tracking.record import MemoryTracker, RecordedRun

class Finished(MemoryTracker):
    def find_finished(self, fingerprints):
        metrics = {{"best_val_loss": 1.0, "final_val_loss": 1.5, "val_loss": 1.5}}
        sizes = {{"num_params": "11", "num_nonzero_params": "11"}}
        run = RecordedRun(params=sizes, metrics=metrics, status="FINISHED", started=0)
        return [run] * len(fingerprints)

grid.MLflowTracker = lambda uri, experiment: Finished()
sys.exit(command.main(sys.argv[1:]))
"""
LOAD = f"""{BLOCKED}
from samkeras.experiment.options.targets import find_target

for name in sys.argv[1:]:
    find_target(name).load()
"""


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
    )


@pytest.mark.one_backend
def test_finished_runs_are_shown_without_keras(tmp_path):
    line = ["workloads/synthetic_mlp", *SMALL, "--sam", "true,false", "--seed", "0,1"]
    done = run(LOOK_UP, *line, "--run_dir", str(tmp_path / "runs"))
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs already finished" in done.stdout
    assert "In best val_loss" in done.stdout


@pytest.mark.one_backend
def test_what_is_to_be_trained_needs_keras_and_says_so(tmp_path):
    """Where the runs are to be trained again, nothing is recorded before that."""
    line = ["workloads/synthetic_mlp", *SMALL, "--rerun", "--run_dir"]
    done = run(LOOK_UP, *line, str(tmp_path / "runs"))
    assert done.returncode == 2
    assert "keras is not installed" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.one_backend
def test_a_workload_is_described_without_keras():
    """Each of workloads/ imports it where it builds its model."""
    done = run(LOAD, *list_workloads())
    assert done.returncode == 0, done.stderr
