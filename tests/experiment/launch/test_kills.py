"""Runs and grids that are killed by SIGKILL and SIGTERM, each in its own process."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from mlflow.tracking import MlflowClient

from samkeras.experiment.options.targets import ROOT
from tests.helpers import users_environment

pytestmark = pytest.mark.faults

# run.py, which at a run's end also keeps its last weights.
PROGRAM = """
import sys, numpy as np, run
from samkeras.experiment.runs.member import Member
finish = Member.finish
def keep_weights(self, model, validation):
    np.savez(self._logger.folder / "final.npz", *model.get_weights())
    finish(self, model, validation)
Member.finish = keep_weights
sys.exit(run.main(sys.argv[1:]))
"""
EPOCHS = 24
ONE_RUN = ["workloads/mnist_mlp", "--dataset", "mnist_5k", "--sam", "--verbose", "2"]
ONE_RUN += ["--train_examples", "1000", "--epochs", str(EPOCHS)]
GRID = ["workloads/synthetic_mlp", "--width_mult", "0.1,0.2", "--sam", "true,false"]
GRID += ["--seed", "0,1,2", "--train_examples", "2000", "--epochs", "8"]
DEADLINE_SEC = 300


def start(
    folder: Path, options: list[str], program: tuple[str, ...] = ("-c", PROGRAM)
) -> subprocess.Popen:
    """Starts a command as a user would: with a cache of compiled programs of its own,
    none of the tests'; in a process group of its own, which is a terminal's."""
    places = ["--tracking_uri", f"sqlite:///{folder}/mlflow.db"]
    places += ["--run_dir", str(folder / "runs")]
    return subprocess.Popen(
        [sys.executable, *program, *options, *places],
        cwd=ROOT,
        env={
            **users_environment(),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "KERAS_BACKEND": keras.backend.backend(),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
    )


def finish(process: subprocess.Popen) -> str:
    out, _ = process.communicate(timeout=DEADLINE_SEC)
    assert process.returncode == 0, out
    return out


def wait_for(condition, process: subprocess.Popen) -> None:
    """Waits until a condition holds, or the process has ended."""
    give_up_at = time.monotonic() + DEADLINE_SEC
    while not condition() and process.poll() is None:
        assert time.monotonic() < give_up_at
        time.sleep(0.01)


def final_weights(folder: Path) -> list[np.ndarray]:
    (path,) = folder.glob("runs/*/final.npz")
    with np.load(path) as file:
        return list(file.values())


def recorded_runs(folder: Path) -> list:
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    ids = [e.experiment_id for e in client.search_experiments()]
    runs = client.search_runs(ids, max_results=1000)
    return [run for run in runs if "grid" not in run.data.tags]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    folder.mkdir(exist_ok=True)
    finish(start(folder, ONE_RUN))
    return folder


def assert_as_undisturbed(folder: Path, undisturbed: Path) -> None:
    """The same weights to the bit, and whole curves without a step twice."""
    for a, b in zip(final_weights(folder), final_weights(undisturbed), strict=True):
        np.testing.assert_array_equal(a, b)
    (run,), (expected,) = recorded_runs(folder), recorded_runs(undisturbed)
    assert run.info.status == "FINISHED"
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    other = MlflowClient(f"sqlite:///{undisturbed}/mlflow.db")
    for name in ("loss", "val_accuracy", "grad_norm", "learning_rate"):
        curve = client.get_metric_history(run.info.run_id, name)
        points = sorted((point.step, point.value) for point in curve)
        whole = other.get_metric_history(expected.info.run_id, name)
        assert [step for step, _ in points] == list(range(EPOCHS))
        assert points == sorted((point.step, point.value) for point in whole)
    for name in ("best_val_accuracy", "final_val_accuracy", "best_epoch"):
        assert run.data.metrics[name] == expected.data.metrics[name]


def kill_soon(folder: Path, options: list[str], seconds: float) -> None:
    """Starts a command, and kills it some time after it has written a checkpoint."""
    process = start(folder, options)
    known = set(folder.glob("runs/*/checkpoint_*"))
    wait_for(lambda: set(folder.glob("runs/*/checkpoint_*")) - known, process)
    time.sleep(seconds)
    process.kill()
    process.communicate()


def test_twenty_kills_change_nothing(tmp_path, undisturbed):
    """SIGKILL at random moments, some of them while a checkpoint is being written."""
    moments = random.Random(0)
    for _ in range(20):
        kill_soon(tmp_path, ONE_RUN, moments.uniform(0, 0.2))
    finish(start(tmp_path, ONE_RUN))
    assert_as_undisturbed(tmp_path, undisturbed)


def weights_by_run(folder: Path) -> dict[str, np.ndarray]:
    found = {}
    for path in folder.glob("runs/*/final.npz"):
        with np.load(path) as file:
            arrays = [np.ravel(array) for array in file.values()]
        found[path.parent.name] = np.concatenate(arrays)
    return found


@pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="models train together on JAX"
)
def test_ten_kills_of_a_group_change_nothing(tmp_path):
    """Its runs, here of a grid over two numbers of a method, go back to what all of
    them have, and go on together."""
    options = [*ONE_RUN, "--method", "asam", "--rho", "0.1,0.5", "--eta", "0.01,0.3"]
    options += ["--replicas", "4"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    for folder in (undisturbed, killed):
        folder.mkdir()
    finish(start(undisturbed, options))
    moments = random.Random(1)
    for _ in range(10):
        kill_soon(killed, options, moments.uniform(0, 0.3))
    finish(start(killed, options))
    found, expected = weights_by_run(killed), weights_by_run(undisturbed)
    assert found.keys() == expected.keys()
    assert len(found) == 4
    for name, weights in expected.items():
        np.testing.assert_array_equal(found[name], weights)
    runs, others = recorded_runs(killed), recorded_runs(undisturbed)
    assert [run.info.status for run in runs] == ["FINISHED"] * 4
    client = MlflowClient(f"sqlite:///{killed}/mlflow.db")
    for run in runs:
        curve = client.get_metric_history(run.info.run_id, "loss")
        assert sorted(point.step for point in curve) == list(range(EPOCHS))
    bests = [
        sorted(r.data.metrics["best_val_accuracy"] for r in both)
        for both in (runs, others)
    ]
    assert bests[0] == bests[1]


def test_a_preempted_run_saves_and_says_so(tmp_path, undisturbed):
    """SIGTERM ends it with 130 within seconds, marked as killed; the same command
    ends as if nothing had happened."""
    process = start(tmp_path, ONE_RUN)
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoint_*")), process)
    process.send_signal(signal.SIGTERM)
    asked_at = time.monotonic()
    out, _ = process.communicate(timeout=DEADLINE_SEC)
    assert process.returncode == 130, out
    assert time.monotonic() - asked_at < 30
    assert "the same command goes on" in out
    (run,) = recorded_runs(tmp_path)
    assert run.info.status == "KILLED"
    finish(start(tmp_path, ONE_RUN))
    assert_as_undisturbed(tmp_path, undisturbed)


@pytest.mark.parametrize("pause", [0.1, 0.5])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_again_and_again_is_told_in_a_line(tmp_path, workers, pause):
    """Whatever it falls into: training, saving, the end of a process."""
    options = [*GRID, "--epochs_mult", "100", "--workers", workers]
    process = start(tmp_path, options, ("run.py",))
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoint_*")), process)
    for _ in range(5):
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
        time.sleep(pause)
    out, _ = process.communicate(timeout=DEADLINE_SEC)
    # A shell's exit code is 130 for both.
    assert process.returncode in (130, -signal.SIGINT)
    assert "Traceback" not in out
    assert out.count("run.py: interrupted") == 1


def rows(out: str) -> list[list[str]]:
    """The cells of the results' rows and of the means', without the times."""
    found = re.findall(r"^ *(.+?) +[\d.]+ s$", out, re.MULTILINE)
    return [re.split(r"  +", row) for row in found]


def test_a_grid_that_is_killed_ends_as_an_undisturbed_one(tmp_path):
    """Twelve runs, killed twice: each finished once, and the same table."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir()
    parts.mkdir()
    expected = rows(finish(start(whole, GRID)))
    for count in (3, 8):
        process = start(parts, GRID)

        def finished(count=count):
            return len(list(parts.glob("runs/*/final.npz"))) >= count

        wait_for(finished, process)
        process.kill()
        process.communicate()
    before = {run.info.run_id: run.info.end_time for run in recorded_runs(parts)}
    done = {
        run.info.run_id for run in recorded_runs(parts) if run.info.status == "FINISHED"
    }
    assert len(expected) == 12 + 4  # at two widths, without SAM and with it
    assert rows(finish(start(parts, GRID))) == expected
    runs = recorded_runs(parts)
    assert len(runs) == 12
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.info.run_id in done:
            assert run.info.end_time == before[run.info.run_id]


def worker_ids(process: subprocess.Popen) -> list[int]:
    """The worker processes of a grid."""
    found = subprocess.run(
        ["pgrep", "-P", str(process.pid), "-f", "spawn_main"],
        capture_output=True,
        text=True,
    )
    return [int(line) for line in found.stdout.split()]


def is_alive(process_id: int) -> bool:
    try:
        return "zombie" not in Path(f"/proc/{process_id}/status").read_text()
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def whole_grid(tmp_path_factory) -> list[list[str]]:
    """The table of an undisturbed grid in one process."""
    folder = tmp_path_factory.mktemp("whole")
    return rows(finish(start(folder, GRID)))


@pytest.mark.parametrize("victim", ["worker", "grid", "grid, softly"])
def test_a_grid_in_workers_survives_kills(tmp_path, whole_grid, victim):
    """A worker that is killed is replaced, and a grid that is killed or stopped takes
    its workers with it; the same command ends with the undisturbed table."""
    options = [*GRID, "--workers", "2"]
    process = start(tmp_path, options)
    wait_for(lambda: list(tmp_path.glob("runs/*/checkpoint_*")), process)
    workers = worker_ids(process)
    assert len(workers) == 2
    if victim == "worker":
        os.kill(workers[0], signal.SIGKILL)
        out = finish(process)
        assert "a worker process died (SIGKILL); its run goes on" in out
    else:
        softly = victim == "grid, softly"
        process.send_signal(signal.SIGTERM if softly else signal.SIGKILL)
        process.communicate(timeout=DEADLINE_SEC)
        give_up_at = time.monotonic() + DEADLINE_SEC
        while any(map(is_alive, workers)):
            assert time.monotonic() < give_up_at
            time.sleep(0.1)
        if softly:
            assert process.returncode == 130
            status = {run.info.status for run in recorded_runs(tmp_path)}
            assert "KILLED" in status
            assert "RUNNING" not in status
        out = finish(start(tmp_path, options))
    assert rows(out) == whole_grid
    runs = recorded_runs(tmp_path)
    assert len(runs) == 12
    assert {run.info.status for run in runs} == {"FINISHED"}
