"""Whole runs: what is trained, recorded, skipped and said."""

import dataclasses
import getpass
import hashlib
import json
import math
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock, patch

import keras
import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient

import run as command
import samkeras
from samkeras.data.batches import EpochBatches
from samkeras.data.images import load_images
from samkeras.experiment.launch import workers
from samkeras.experiment.launch.workers import Job
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.targets import ROOT
from samkeras.experiment.runs import build, data
from samkeras.experiment.runs.member import Member, Place
from samkeras.experiment.runs.recall import Recall
from samkeras.experiment.runs.run import Run
from samkeras.experiment.tasks.validation import ExampleValidation
from samkeras.experiment.tracking.record import MemoryTracker
from tests import helpers
from tests.dying import die_with_a_run
from tests.helpers import arrays_of, parse_runs
from workloads import synthetic_mlp

pytestmark = pytest.mark.one_backend

MNIST = "workloads/mnist_mlp"
WEIGHTS = {"best.weights.h5", "last.weights.h5"}
FILES = {"config.yaml", "model_summary.txt", *WEIGHTS}
# Two whole batches each: one program to train with and one to validate with.
SMALL = ["--train_examples", "256", "--validation_examples", "256", "--epochs", "2"]


@pytest.fixture
def call(tmp_path, request, capsys):
    """Runs a command line in an experiment of the test's own.

    Returns:
        A function: options -> (exit code, standard output, standard error).
    """

    def call(*options: str, target: str = "workloads/synthetic_mlp"):
        places = ["--run_dir", str(tmp_path / "runs")]
        places += ["--experiment", request.node.name]
        code = command.main([target, *places, *options])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def train(call, records):
    """`call`, recording in memory."""
    return call


@pytest.fixture
def recorded(records, request):
    """A function: () -> the runs of the test's experiment, parents last."""

    def runs():
        found = records[request.node.name]
        return sorted(found, key=lambda run: "grid" in run.tags)

    return runs


@pytest.fixture
def in_mlflow(store, request, monkeypatch):
    """`recorded` of commands that record in MLflow."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)

    def runs():
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name(request.node.name)
        found = client.search_runs([experiment.experiment_id])
        return sorted(found, key=lambda run: "grid" in run.data.tags)

    return runs


@pytest.mark.each_backend
def test_a_grid_is_recorded_in_full(call, in_mlflow, store, tmp_path):
    """Params, curves, summaries, tags and files of nested runs, as the README says."""
    code, out, _ = call(
        *SMALL, "--width_mult", "0.1,0.2", "--sam", "true,false", "--rho", "0.1"
    )
    assert code == 0
    *children, parent = in_mlflow()
    assert len(children) == 4
    assert parent.info.status == "FINISHED"
    client = MlflowClient(store)
    tags = client.get_experiment(parent.info.experiment_id).tags
    (group,) = (path.name for path in (tmp_path / "runs").glob("grid_*"))
    view = json.loads(tags[f"mlflow.sharedViewState.{group}"])
    assert view["selectedColumns"][:2] == ["params.`width_mult`", "params.`sam`"]
    assert {"params.`epochs`", "metrics.`best_val_loss`"} <= {*view["selectedColumns"]}
    place = f"http://127.0.0.1:5000/#/experiments/{parent.info.experiment_id}/runs"
    assert f"{place}?viewStateShareKey={group}&" in out
    assert f"{place}/{parent.info.run_id}?" in out
    found = client.search_runs([parent.info.experiment_id], view["searchFilter"])
    assert {run.info.run_id for run in found} == {run.info.run_id for run in children}
    check_answer(parent, out)
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert files == {"table.txt", "runs.csv", "figures"}
    for child in children:
        data = child.data
        assert child.info.status == "FINISHED"
        assert child.info.run_name.startswith("width_mult=0.")
        assert data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert data.tags["workload"] == "synthetic_mlp"
        source = (data.tags["mlflow.source.name"], data.tags["mlflow.user"])
        assert source == ("workloads/synthetic_mlp", getpass.getuser())
        width = 10 if data.params["width_mult"] == "0.1" else 20
        assert data.params["num_params"] == str(100 * width + 2 * width + 1)
        assert data.params["keras_backend"] == keras.backend.backend()
        assert data.params["device"] == "cpu"
        assert {"rho", "seed", "learning_rate", "keras_version"} <= set(data.params)
        curve = client.get_metric_history(child.info.run_id, "val_loss")
        assert [point.step for point in curve] == [0, 1]
        values = [point.value for point in curve]
        assert data.metrics["best_val_loss"] == min(values)
        assert data.metrics["best_epoch"] == np.argmin(values) + 1
        assert data.metrics["final_val_loss"] == values[-1]
        assert {"loss", "learning_rate", "examples_per_second"} <= set(data.metrics)
        gradients = {"grad_norm", "sam_grad_norm", "grad_cosine"}
        assert (gradients <= set(data.metrics)) == (data.params["sam"] == "true")
        files = {file.path for file in client.list_artifacts(child.info.run_id)}
        assert files == FILES
        # What is on disk is the same run.
        mark = data.tags["fingerprint"][:8]
        saved = samkeras.load_run(next((tmp_path / "runs").glob(f"*_{mark}")))
        assert data.metrics.items() <= saved.numbers.items()
        assert str(saved.config.sam).lower() == data.params["sam"]
        assert data.tags["target"] == "workloads/synthetic_mlp"
    assert len({child.info.run_name for child in children}) == 4
    for text in ("1,021", "2,041", "A gain > 0 is an improvement"):
        assert text in out


def check_answer(parent, out):
    """A grid's parent has the printed gains, and what was varied."""
    params, metrics = parent.data.params, parent.data.metrics
    assert (params["width_mult"], params["sam"]) == ("0.1,0.2", "true,false")
    assert (params["rho"], "workload" in params) == ("0.1", False)
    assert metrics["runs_finished"] == metrics["runs"] == 4
    assert metrics["runs_unfinished"] == 0
    for width in ("0.1", "0.2"):
        gain = metrics[f"gain_best_val_loss/width_mult_{width}"]
        rounded = {f"{gain:+.{decimals}f}" for decimals in range(3, 7)}
        (printed,) = rounded & {*out.split()}
        shown = f"| {width} | 0.1 | 1 | {printed} |"
        assert shown in parent.data.tags["mlflow.note.content"]


@pytest.mark.parametrize(
    "options",
    [
        "--method=sam,random,asam,fsam --m_sharpness=64",
        "--p=1.5,inf --ascent_steps=1,2",
    ],
)
def test_every_method_trains(train, recorded, options):
    """Each run leads elsewhere, the base optimizer's too, and is told apart by its
    options in MLflow and in the table."""
    grid = [*SMALL, "--width_mult", "0.1", "--sam", "true,false", *options.split()]
    code, out, _ = train(*grid)
    assert code == 0
    *children, _ = recorded()
    losses = {child.metrics["final_val_loss"] for child in children}
    assert len(losses) == len(children) > 3
    names = [option.partition("=")[0].removeprefix("--") for option in options.split()]
    assert names[0] in out  # the others may be the same for all
    runs = {tuple(child.params[n] for n in ("sam", *names)) for child in children}
    assert len(runs) == len(children)
    assert train(*grid)[0] == 0
    assert len(recorded()) == len(children) + 1


def test_a_recorded_config_repeats_the_run(train, recorded, tmp_path):
    """--config with the run's config.yaml gives the same curve, to the bit."""
    train(*SMALL, "--width_mult", "0.1", "--sam")
    (path,) = (tmp_path / "runs").glob("*/config.yaml")
    assert yaml.safe_load(path.read_text())["workload"] == "synthetic_mlp"
    code, _, _ = train("--config", str(path), "--rerun")
    assert code == 0
    first, second = recorded()
    assert first.metrics["final_val_loss"] == second.metrics["final_val_loss"]


@pytest.mark.each_backend
def test_training_takes_the_batches_in_their_own_order(train, monkeypatch):
    """keras does not shuffle them again: an epoch's order is (seed, epoch)'s alone."""
    taken, get = [], EpochBatches.__getitem__

    def record(self, index):
        if self._order.seed is not None:  # else it is to validate
            taken.append(index)
        return get(self, index)

    monkeypatch.setattr(EpochBatches, "__getitem__", record)
    options = ("--width_mult", "0.1", "--batch_size", "16", "--resident_data", "0")
    train(*SMALL, *options)
    # TensorFlow looks at some batches before training, to learn their shapes.
    assert taken[-32:] == 2 * list(range(16))


@pytest.mark.each_backend
def test_best_weights_give_the_best_metric(train, recorded, tmp_path):
    """best.weights.h5 holds the weights of the best epoch, not of the last."""
    options = [*SMALL, "--epochs=4", "--width_mult=0.1", "--learning_rate=0.4"]
    train(*options[:4], *options[6:])
    (config,) = parse_runs("synthetic_mlp", [*options[:4], *options[6:]])
    splits = data.describe_data(config)
    model = build.build_model(Run(config), splits.info)
    (path,) = (tmp_path / "runs").glob("*/best.weights.h5")
    model.load_weights(path)
    _, (x, y) = arrays_of(splits)
    loss = np.mean((model.predict(x, verbose=0) - y) ** 2)
    best = recorded()[0].metrics["best_val_loss"]
    # Averaged over batches during training, at once here.
    np.testing.assert_allclose(loss, best, rtol=1e-5)


def test_finished_runs_are_skipped(train, recorded):
    """The same command trains nothing again and shows the same table; a wider grid
    trains what is new, and shows what is not in its view; --rerun trains anew."""
    options = [*SMALL, "--width_mult", "0.1", "--seed"]
    _, first, _ = train(*options, "0,1")
    assert len(recorded()) == 3  # two runs and their parent
    _, second, _ = train(*options, "0,1")
    assert len(recorded()) == 3
    tables = [
        [line.split()[:-2] for line in out.splitlines() if "1,021" in line]
        for out in (first, second)
    ]
    assert tables[0] == tables[1]  # but for the time
    assert len(tables[0]) == 3  # two runs and their mean
    train(*options, "0,1,2")
    *_, parent = recorded()
    assert len(recorded()) == 5  # one run more, and a parent of all three
    group = parent.folder.name
    assert sum(group in run.tags for run in recorded()) == 3
    assert parent.metrics["runs_finished"] == 3
    train(*options, "0", "--rerun")
    assert len(recorded()) == 6


def test_a_data_file_that_changed_is_trained_anew(train, recorded, tmp_path):
    """The same path with another image in it: another run, which says what it read."""
    path, (x, y) = tmp_path / "data.npz", (np.zeros((8, 4, 4), "uint8"), np.arange(8))
    digests = []
    for value in (0, 0, 200):
        x[0] = value
        np.savez(path, x_train=x, y_train=y, x_test=x, y_test=y)
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
        code, _, _ = train("--dataset", str(path), "--epochs", "1", target=MNIST)
        assert code == 0
    runs = recorded()
    assert len(runs) == 2
    assert {run.params["data_digest"] for run in runs} == set(digests)
    sizes = {run.params["data_size"] for run in runs}
    assert sizes == {str(path.stat().st_size)}


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


def test_a_finished_run_of_numbers_that_are_not_finite_is_trained_again(
    train, recorded
):
    """Such a run was recorded as finished once."""
    train(*SMALL, "--width_mult", "0.1", "--epochs_mult", "0.5")
    (first,) = recorded()
    first.log_metrics({"val_loss": math.nan}, step=9)
    _, out, _ = train(*SMALL, "--width_mult", "0.1", "--epochs_mult", "0.5")
    assert "already finished" not in out


@pytest.mark.parametrize(("mode", "values"), [("max", [1, 3, 3]), ("min", [3, 1, 1])])
def test_of_equal_epochs_the_first_is_best(mode, values):
    """As keras' own callbacks have it, whether more or less is better."""
    (config,) = parse_runs("synthetic_mlp", [])
    workload = dataclasses.replace(config.target.load(), mode=mode)
    run = Mock(config=config, workload=workload, passes=1.0)
    made = Member(run, 0.1, Mock(), Mock(), Mock())
    model = Mock(weights=[], masks=None)
    model.get_weights.return_value = []
    model.state.return_value = {}
    batches = Mock(total=1)
    batches.capture.return_value = {}
    for epoch, value in enumerate(values):
        place = Place(epoch, 1, {"loss": 1.0}, 1.0)
        made.end_epoch(model, batches, place, {"val_loss": value})
    assert (made.best, made.best_epoch) == (values[1], 1)


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
        r"NameError: name 'smoothing' is not defined \(test_run\.py:\d+, in call\)",
        in_loss,
    )
    for seed in "01":
        in_layer = of_run["0.2", seed].tags["failure"]
        assert re.fullmatch(
            r"TypeError: object of type 'float' has no len\(\) "
            r"\(test_run\.py:\d+, in call\)",
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
            r"cannot load its data: KeyError: 'pixels' \(test_run\.py:\d+\); --verb",
        ),
        (
            {"build": build_buggy_layer},
            ["--dry_run"],
            r"cannot build its model: TypeError: .* \(test_run\.py:\d+, in call\)",
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
            run, tell = Run(config), Mock()
            done = workers.train_alone(run, session, None, None, Recall(), tell)
        job = Job(0, Run(config), session, splits, None)
        return workers.complete(job, tracker, pickle.loads(pickle.dumps(done)))

    change(loss=BuggyLoss())
    result = train_there()
    assert "name 'smoothing' is not defined (test_run.py:" in result.failure
    assert "NameError: name 'smoothing'" in result.traceback
    change(load=lambda config: {}["pixels"])
    assert train_there().failure.startswith("KeyError: 'pixels' (test_run.py:")
    (run,) = tracker.records
    assert run.status == "FAILED"
    assert "KeyError: 'pixels'" in (run.folder / "traceback.txt").read_text()


def test_an_interrupted_run_is_marked(train, recorded, monkeypatch):
    """Ctrl-C: the run is KILLED, those before it are in the table, exit 130."""
    end_epoch, calls = Member.end_epoch, []

    def interrupt(self, *arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        end_epoch(self, *arguments)

    monkeypatch.setattr(Member, "end_epoch", interrupt)
    code, out, _ = train(*SMALL, "--width_mult", "0.1", "--seed", "0,1")
    assert code == 130
    *children, parent = recorded()
    assert {child.status for child in children} == {"FINISHED", "KILLED"}
    assert parent.status == "KILLED"
    assert out.count("1,021") == 1


def test_an_interrupted_grid_goes_on(train, recorded, monkeypatch):
    """The same command again: the same runs, each epoch once, and the parent
    is ended even if one run was left."""
    options = [*SMALL, "--width_mult", "0.1", "--seed", "0,1"]
    with monkeypatch.context() as context:
        end_epoch, calls = Member.end_epoch, []

        def interrupt(self, *arguments):
            calls.append(arguments)
            end_epoch(self, *arguments)
            if len(calls) == 3:
                raise KeyboardInterrupt

        context.setattr(Member, "end_epoch", interrupt)
        assert train(*options)[0] == 130
    before = {found.id for found in recorded()}
    assert train(*options)[0] == 0
    assert {found.id for found in recorded()} == before
    assert {found.status for found in recorded()} == {"FINISHED"}
    for child in recorded()[:-1]:
        assert list(child.curves["val_loss"]) == [0, 1]


@pytest.mark.each_backend
def test_workers_train_the_same_grid(call, in_mlflow):
    """Two processes: the metrics of one process, nested in one parent, finished."""
    grid = [*SMALL, "--width_mult", "0.1", "--seed", "0,1", "--sam", "true,false"]
    code, out, _ = call(*grid, "--workers", "2", "--verbose", "2")
    assert code == 0
    assert "2 running" in out
    *children, parent = in_mlflow()
    assert len(children) == 4
    assert {run.info.status for run in in_mlflow()} == {"FINISHED"}
    parents = {child.data.tags["mlflow.parentRunId"] for child in children}
    assert parents == {parent.info.run_id}
    in_workers = best_losses(children)
    assert call(*grid, "--rerun")[0] == 0
    here = best_losses(
        child
        for child in in_mlflow()
        if child.info.run_id not in {run.info.run_id for run in children}
        and "grid" not in child.data.tags
    )
    assert len(here) == 4
    assert in_workers == pytest.approx(here, rel=1e-5)


def best_losses(runs) -> dict[str, float]:
    return {
        run.data.tags["fingerprint"]: run.data.metrics["best_val_loss"] for run in runs
    }


def test_a_run_that_kills_its_workers_fails(train, recorded, monkeypatch):
    """It gets three processes, then is marked as failed."""
    monkeypatch.setattr(workers, "_work", die_with_a_run)
    code, out, _ = train(*SMALL, "--workers", "2")
    assert code == 1
    assert out.count("a worker process died (SIGKILL); its run goes on") == 2
    (failed,) = recorded()
    assert failed.status == "FAILED"
    assert failed.tags["failure"] == "a worker process died (SIGKILL)"


def test_dry_run_counts_and_leaves_nothing(train, recorded, tmp_path):
    """Parameters at every width of the paper's Table 1, exactly; nothing is written."""
    widths = "0.25,0.5,1,4,10"
    code, out, _ = train(
        "--dry_run", "--width_mult", widths, target="workloads/mnist_mlp"
    )
    assert code == 0
    for count in ("61,035", "125,810", "266,610", "1,426,410", "5,366,010"):
        assert f"parameters: {count} trainable" in out
    assert "469 an epoch, 46,900 in all" in out
    widths = ",".join(map(str, range(1, 11)))
    _, out, _ = train("--dry_run", "--width_mult", widths)
    for width in range(1, 11):
        assert f"parameters: {10_200 * width + 1:,} trainable" in out
    assert recorded() == []
    assert not (tmp_path / "runs").exists()


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


@pytest.mark.parametrize("with_weights", [False, True])
def test_a_score_is_given_labels_weights_and_predictions(with_weights):
    """Also where batches have no weights; its numbers are plain ones, which checkpoints
    hold."""
    given = []

    def score(labels, weights, predictions):
        given[:] = labels, weights, predictions
        return {"largest": predictions.max()}  # of NumPy's float32

    x, y = helpers.random_examples(20)
    batches = [
        (*batch, np.full(len(batch[0]), 2.0)) if with_weights else batch
        for batch in helpers.batches_of(x, y, 8)
    ]
    feed = Mock(__getitem__=lambda _, i: batches[i], left=3, specs=None)
    feed.take = lambda count: ([batch] for batch in batches)
    model = helpers.compile_classifier(helpers.build_classifier())
    scores = ExampleValidation(model, feed, score).evaluate(lambda: None)
    labels, weights, predictions = given
    np.testing.assert_array_equal(labels, y)
    assert set(weights) == {2.0 if with_weights else 1.0}
    np.testing.assert_allclose(predictions, model.predict(x, verbose=0), rtol=1e-5)
    assert type(scores["val_largest"]) is float
    assert {"val_loss", "val_largest"} <= scores.keys()


@pytest.mark.each_backend
def test_label_noise_reaches_training(train, recorded):
    """With every label wrong the true ones are not learnt; noise refuses regression."""
    options = ["--dataset", "mnist_5k", "--train_examples", "512", "--epochs", "3"]
    options += ["--validation_examples", "512"]
    train(*options, "--label_noise", "0,1", target="workloads/mnist_mlp")
    *children, _ = recorded()
    best = {
        child.params["label_noise"]: child.metrics["best_val_accuracy"]
        for child in children
    }
    assert best["0.0"] > 0.3
    assert best["1.0"] < 0.1
    code, _, message = train(*SMALL, "--label_noise", "0.5")
    assert code == 2
    assert "--label_noise" in message


def test_label_noise_is_recorded(train, recorded):
    """The artifact holds each noisy label's place, true and noisy class; the realised
    rate is a parameter."""
    options = ["--dataset", "mnist_5k", "--train_examples", "90", "--epochs", "1"]
    options += ["--validation_examples", "90"]
    train(*options, "--label_noise", "0.33", target="workloads/mnist_mlp")
    (run_,) = recorded()
    assert run_.params["label_noise_realized"] == str(30 / 90)
    assert "label_noise.npz" in run_.files
    with np.load(run_.folder / "label_noise.npz") as file:
        indices, true, noisy = (file[name] for name in ("indices", "true", "noisy"))
    assert indices.shape == (30, 1)
    labels = load_images("mnist_5k", None).train.y
    np.testing.assert_array_equal(labels[indices[:, 0]], true)
    assert np.all(noisy != true)


def test_a_pruned_run_matches_the_dense_ones_size(train, recorded, tmp_path):
    """Its best weights hold as many non-zero parameters as the run says, the number of
    the dense model at the width to match."""
    options = ["--dataset", "mnist_5k", "--train_examples", "256", "--epochs", "1"]
    options += ["--validation_examples", "256"]
    options += ["--width_mult", "0.5", "--match_width", "0.1", "--sam"]
    options += ["--pruner", "snip,random,magnitude"]
    code, out, _ = train(*options, target="workloads/mnist_mlp")
    assert code == 0
    dense = 784 * 30 + 30 + 30 * 10 + 10 + 10 * 10 + 10
    assert out.count(f"{dense:,}") == 3
    *children, _ = recorded()
    assert {c.params["num_nonzero_params"] for c in children} == {str(dense)}
    assert {c.params["num_params"] for c in children} == {"125810"}
    for path in (tmp_path / "runs").glob("*/config.yaml"):
        (config,) = parse_runs("mnist_mlp", ["--config", str(path)])
        model = build.build_model(Run(config), data.describe_data(config).info)
        model.load_weights(path.with_name("best.weights.h5"))
        kernels = sum(np.count_nonzero(w) for w in model.get_weights() if w.ndim == 2)
        assert kernels + (150 + 50 + 10) == dense
        assert model.masks.num_pruned == 125_810 - dense


def test_an_emptied_layer_fails_the_run_with_a_remedy(train, recorded):
    options = ["--dataset", "mnist_5k", "--train_examples", "128", "--epochs", "1"]
    options += ["--validation_examples", "128"]
    options += ["--pruner", "random", "--sparsity", "0.9999", "--width_mult", "0.1"]
    code, out, err = train(*options, target="workloads/mnist_mlp")
    assert code == 1
    assert "outputs/kernel; lower the sparsity, or set --allow_empty_" in out + err
    code, _, _ = train(*options, "--allow_empty_layers", target="workloads/mnist_mlp")
    assert code == 0


def test_a_dry_run_counts_what_pruning_leaves(train):
    options = ["--dry_run", "--pruner", "snip", "--sparsity", "0.9"]
    _, out, _ = train(*options, target="workloads/mnist_mlp")
    kernels = 784 * 300 + 300 * 100 + 100 * 10
    left = 410 + round(0.1 * kernels)
    assert f"parameters: 266,610 trainable, non-zero: {left:,}" in out
    assert "sparsity: 0.9\nmatch_width: null\n" in out  # as the command line has them


def test_holdout_takes_its_examples_from_the_training_set():
    """A fixed tenth of the training set, the rest to train on, none of the test set."""
    options = ["--dataset", "mnist_5k", "--holdout", "0.1", "--train_examples", "1000"]
    (config,) = parse_runs("mnist_mlp", options)
    splits, whole = data.describe_data(config), load_images("mnist_5k", None)
    assert (splits.info.num_train, splits.info.num_validation) == (900, 100)
    (x, y), (x_val, y_val) = arrays_of(splits)
    assert (len(x), len(y), len(x_val), len(y_val)) == (900, 900, 100, 100)
    parts = {image.tobytes() for image in x} | {image.tobytes() for image in x_val}
    assert parts == {image.tobytes() for image in whole.train.x[:1000]}
    (other,) = parse_runs("mnist_mlp", [*options, "--seed", "1"])
    np.testing.assert_array_equal(data.describe_data(other).validation.y, y_val)


def test_holdout_must_leave_both_parts(capsys):
    options = ["--dataset", "mnist_5k", "--holdout", "0.01", "--train_examples", "20"]
    assert command.main(["workloads/mnist_mlp", *options]) == 2
    assert "0.01 of 20 examples" in capsys.readouterr().err


def test_twice_the_epochs_stretch_the_schedule(train, recorded):
    """epochs_mult 2 of 2 epochs is 4, with the milestones at the same fractions."""
    milestones = ["--lr_milestones", "[0.5]", "--learning_rate", "0.01"]
    train(*SMALL, "--width_mult", "0.1", "--epochs_mult", "2", *milestones)
    (run_,) = recorded()
    rates = list(run_.curves["learning_rate"].values())
    assert rates == pytest.approx([0.01, 0.01, 1e-3, 1e-3])


@pytest.mark.parametrize(
    ("workload", "depth", "count"),
    [
        ("mnist_mlp", 1, 784 * 300 + 300 + 300 * 10 + 10),
        ("mnist_mlp", 3, 784 * 300 + 300 + 2 * (300 * 300 + 300) + 300 * 10 + 10),
        ("synthetic_mlp", 2, 100 * 100 + 100 + 100 * 100 + 100 + 100 + 1),
    ],
)
def test_depth_is_the_number_of_equal_hidden_layers(workload, depth, count):
    (config,) = parse_runs(workload, ["--depth", str(depth)])
    info = data.describe_data(config).info
    assert build.measure_size(Run(config), info).num_params == count


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


def test_data_that_do_not_fit_the_device_come_from_the_host(train, recorded):
    """With the same results; it is said once for all runs."""
    options = (*SMALL, "--width_mult", "0.1", "--seed", "0,1", "--verbose", "1")
    _, out, _ = train(*options)
    assert "come from the host" not in out
    code, out, _ = train(*options, "--rerun", "--resident_data", "1e-12")
    assert code == 0
    assert out.count("batches come from the host: the data take") == 1
    key = "final_val_loss"
    losses = [r.metrics[key] for r in recorded() if key in r.metrics]
    assert losses[:2] == losses[2:]
    assert losses[0] != losses[1]
