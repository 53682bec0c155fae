"""Runs that fail: what is told, what is kept, and who goes on."""

import dataclasses
import pickle
import re
from unittest.mock import Mock, patch

import keras
import pytest

import samkeras
from samkeras.experiment.launch import workers
from samkeras.experiment.launch.workers import Job
from samkeras.experiment.options.session import Session
from samkeras.experiment.runs import data
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.run import Run
from samkeras.experiment.tracking.record import MemoryTracker
from tests.dying import die_with_a_run
from tests.experiment.runs.making import MNIST, SMALL
from tests.helpers import parse_runs
from workloads import synthetic_mlp

pytestmark = pytest.mark.one_backend


def test_a_failed_run_stops_no_other(train, recorded):
    """A diverging run is marked FAILED with its reason, the others finish, exit 1."""
    code, out, _ = train(
        *SMALL, "--width_mult", "0.1", "--learning_rate", "1e30,0.01", "--verbose", "1"
    )
    assert code == 1
    *children, parent = recorded()
    by_status = {child.status: child for child in children}
    assert set(by_status) == {"FINISHED", "FAILED"}
    assert parent.status == "FAILED"
    reason = by_status["FAILED"].tags["failure"]
    assert "NotFiniteError" in reason
    assert "lower learning_rate" in reason
    assert "FAILED" in out


def test_every_number_of_an_epoch_must_be_finite(train, recorded):
    """An only step of a huge rate: the loss before it and the accuracy after it are
    finite, the loss after it is not."""
    options = ["--dataset", "mnist_5k", "--train_examples", "32", "--epochs", "1"]
    options += ["--validation_examples", "64", "--width_mult", "0.05"]
    code, _, _ = train(*options, "--learning_rate", "1e30", target=MNIST)
    assert code == 1
    (failed,) = recorded()
    assert failed.status == "FAILED"
    assert re.search("val_loss is (nan|inf) after epoch 1", failed.tags["failure"])


def test_a_model_that_cannot_fit_is_not_built(train, recorded):
    """Nor when the next run is: a system may promise the memory and kill the process
    later."""
    code, out, _ = train(*SMALL, "--width_mult", "1e9,0.1", "--verbose", "1")
    assert code == 1
    assert "out of memory: lower --batch_size" in out
    assert "GiB" in out
    assert "traceback" not in out
    statuses = {run.params["width_mult"]: run.status for run in recorded()[:-1]}
    assert statuses == {"1000000000.0": "FAILED", "0.1": "FINISHED"}


class BuggyLoss(keras.losses.MeanSquaredError):
    def call(self, y_true, y_pred):
        raise NameError("name 'smoothing' is not defined")


def build_buggy_layer(config, info):
    class Buggy(keras.layers.Layer):
        def call(self, x):
            return x + len(config.momentum)

    inputs = keras.Input(info.input_shape)
    return samkeras.SAMModel(inputs, keras.layers.Dense(1)(Buggy()(inputs)))


@pytest.fixture
def change(monkeypatch):
    """A function: changes of the workload synthetic_mlp."""

    def change(**changes):
        workload = dataclasses.replace(synthetic_mlp.workload, **changes)
        monkeypatch.setattr(synthetic_mlp, "workload", workload)

    return change


def test_a_comparison_all_of_whose_runs_fail_ends_with_why(train, recorded, change):
    """There is nothing to compare."""
    change(build=build_buggy_layer)
    code, out, err = train(*SMALL, "--sam", "true,false")
    assert code == 1
    assert out.count("FAILED TypeError") == 2
    assert "IndexError" not in out + err
    assert [run.status for run in recorded()] == ["FAILED"] * 3


@pytest.mark.each_backend
def test_a_bug_is_told_with_its_line(train, recorded, change, monkeypatch):
    """In the loss of one run and in a layer of another: the terminal has the line and
    with --verbose 2 the whole traceback, the run's folder and its record have it too;
    the others train. When the bug is mended the traceback is said to be an old one."""
    right, grid = synthetic_mlp.workload, [*SMALL, "--width_mult", "0.1,0.2"]
    grid += ["--seed", "0,1", "--verbose", "2"]
    with monkeypatch.context() as context:

        def build(config, info):
            is_buggy = config.width_mult == 0.2
            return (build_buggy_layer if is_buggy else right.build)(config, info)

        def choose_loss(config):
            return BuggyLoss() if config.seed == 1 else keras.losses.MeanSquaredError()

        buggy = dataclasses.replace(right, build=build, loss=choose_loss)
        context.setattr(synthetic_mlp, "workload", buggy)
        code, out, err = train(*grid)
    assert code == 1
    *children, parent = recorded()
    assert parent.status == "FAILED"
    of_run = {(c.params["width_mult"], c.params["seed"]): c for c in children}
    assert of_run["0.1", "0"].status == "FINISHED"
    in_loss = of_run["0.1", "1"].tags["failure"]
    assert re.fullmatch(
        r"NameError: name 'smoothing' is not defined \(test_\w+\.py:\d+, in call\)",
        in_loss,
    )
    for seed in "01":
        in_layer = of_run["0.2", seed].tags["failure"]
        assert re.fullmatch(
            r"TypeError: object of type 'float' has no len\(\) "
            r"\(test_\w+\.py:\d+, in call\)",
            in_layer,
        )
    failed = [run for run in children if run.status == "FAILED"]
    assert len(failed) == out.count("Traceback (most recent call last)") == 3
    assert not err
    for run in failed:
        text = (run.folder / "traceback.txt").read_text()
        assert text in out
        assert "\x1b" not in text
        assert "traceback.txt" in run.files
        shown = f"FAILED {run.tags['failure']}; traceback: {run.folder}/traceback.txt"
        assert shown in out
    assert train(*grid)[0] == 0
    assert {run.status for run in recorded()} == {"FINISHED"}
    for run in failed:
        new = (run.folder / "traceback.txt").read_text()
        assert new.startswith("An earlier attempt at this run failed")
        assert "Traceback (most recent call last)" in new


@pytest.mark.parametrize(
    ("changes", "options", "words"),
    [
        (
            {"load": lambda config: {}["pixels"]},
            [],
            r"cannot load its data: KeyError: 'pixels' \(test_\w+\.py:\d+\); --verb",
        ),
        (
            {"build": build_buggy_layer},
            ["--dry_run"],
            r"cannot build its model: TypeError: .* \(test_\w+\.py:\d+, in call\)",
        ),
        (
            {"monitor": "val_lss"},
            [],
            "monitor of workloads/synthetic_mlp must be one of val_loss. "
            "Received: val_lss; did you mean val_loss?",
        ),
        (
            {"monitor": "accuracy", "metrics": ["accuracy"]},
            [],
            r"val_accuracy, val_loss. Received: accuracy; did you mean val_accuracy\?",
        ),
        (
            {"metrics": ["acuracy"]},
            [],
            r"metrics of workloads/synthetic_mlp must be of keras\.metrics\. "
            r"Received: acuracy; did you mean accuracy\?",
        ),
        (
            {"loss": "mean_squred_error", "score": lambda *_: {}},
            [],
            r"loss of .* keras\.losses\. .*; did you mean mean_squared_error\?",
        ),
    ],
)
def test_a_bug_before_training_is_one_line(
    train, recorded, change, changes, options, words
):
    """With --verbose 2 the traceback stands before it."""
    change(**changes)
    code, _, err = train(*SMALL, *options)
    assert code == 2
    assert re.search(words, err)
    assert err.count("\n") == 1
    assert recorded() == []
    code, _, err = train(*SMALL, *options, "--verbose", "2")
    assert code == 2
    is_bug = changes.keys() & {"load", "build"}
    assert err.startswith("Traceback (most recent call last)" if is_bug else "run.py: ")


def test_a_monitor_that_no_score_has_is_told_after_the_first_epoch(
    train, recorded, change
):
    """When the names are known."""
    change(monitor="val_r_squard", score=lambda *_: {"r_squared": 0.5})
    code, out, _ = train(*SMALL, "--width_mult", "0.1")
    assert code == 1
    assert "val_loss, val_r_squared. Received: val_r_squard; did you mean val" in out
    (run,) = recorded()
    assert list(run.curves["val_loss"]) == [0]
    assert "traceback.txt" not in run.files


def test_a_failure_travels_from_other_processes(train, recorded, change, tmp_path):
    """With its traceback; one before the run has begun is recorded where the grid is,
    such as of data that a node has not."""
    (config,) = parse_runs("synthetic_mlp", [*SMALL, "--width_mult", "0.1"])
    session = Session(run_dir=str(tmp_path / "runs"))
    splits, tracker = data.describe_data(config), MemoryTracker()

    def train_there():
        with patch.object(workers, "MLflowTracker", lambda *_, **__: tracker):
            runs, told = {0: Run(config)}, (Recall(), Mock())
            ((_, done),) = workers.train_apart(runs, session, None, None, *told)
        job = Job(0, Run(config), session, splits, None)
        return workers.complete(job, tracker, pickle.loads(pickle.dumps(done)))

    change(loss=BuggyLoss())
    result = train_there()
    assert "name 'smoothing' is not defined (test_failures.py:" in result.failure
    assert "NameError: name 'smoothing'" in result.traceback
    change(load=lambda config: {}["pixels"])
    assert train_there().failure.startswith("KeyError: 'pixels' (test_failures.py:")
    (run,) = tracker.records
    assert run.status == "FAILED"
    assert "KeyError: 'pixels'" in (run.folder / "traceback.txt").read_text()


def test_a_run_that_kills_its_workers_fails(train, recorded, monkeypatch):
    """It gets three processes, then is marked as failed."""
    monkeypatch.setattr(workers, "_work", die_with_a_run)
    code, out, _ = train(*SMALL, "--workers", "2")
    assert code == 1
    assert out.count("a worker process died (SIGKILL); its run goes on") == 2
    (failed,) = recorded()
    assert failed.status == "FAILED"
    assert failed.tags["failure"] == "a worker process died (SIGKILL)"


def test_a_server_that_is_down_stops_no_run(call):
    """Training goes on, says where its records are, and is not repeated for them."""
    options = [*SMALL, "--width_mult", "0.1", "--tracking_uri", "http://127.0.0.1:9"]
    code, _, message = call(*options)
    assert code == 0
    assert "does not answer" in message
    assert "records are not delivered to http://127.0.0.1:9 yet" in message
    assert message.count("\n") == 2
    code, second, _ = call(*options, "--verbose", "1")
    assert code == 0
    assert "1 of 1 runs already finished" in second


def test_an_emptied_layer_fails_the_run_with_a_remedy(train, recorded):
    options = ["--dataset", "mnist_5k", "--train_examples", "128", "--epochs", "1"]
    options += ["--validation_examples", "128"]
    options += ["--pruner", "random", "--sparsity", "0.9999", "--width_mult", "0.1"]
    code, out, err = train(*options, target="workloads/mnist_mlp")
    assert code == 1
    assert "outputs/kernel; lower the sparsity, or set --allow_empty_" in out + err
    code, _, _ = train(*options, "--allow_empty_layers", target="workloads/mnist_mlp")
    assert code == 0
