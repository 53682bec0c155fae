"""Runs and grids by their command: trained, recorded, found again and gone on with."""

import dataclasses
import getpass
import hashlib
import json
import math
from unittest.mock import Mock

import keras
import numpy as np
import pytest
import yaml
from mlflow.tracking import MlflowClient

import samkeras
from samkeras.data.batches import EpochBatches
from samkeras.experiment.runs import build, data
from samkeras.experiment.runs.member import Clock, Member, Place
from samkeras.experiment.runs.run import Run
from samkeras.experiment.runs.turns import train_together
from samkeras.experiment.tasks.validation import ExampleValidation
from tests import helpers
from tests.experiment.runs.making import MNIST, SMALL
from tests.helpers import arrays_of, parse_runs

pytestmark = pytest.mark.one_backend


WEIGHTS = {"best.weights.h5", "last.weights.h5"}
FILES = {"data.txt", "config.yaml", "model_summary.txt", *WEIGHTS}


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
    """Params, curves, summaries, tags and files of nested runs: docs/compare.md."""
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
    meter = Mock()
    meter.measure.return_value = {}
    made = Member(run, 0.1, Mock(), Mock(), Mock(), meter, Clock())
    model = Mock(weights=[], masks=None)
    model.get_weights.return_value = []
    model.state.return_value = {}
    batches = Mock(total=1)
    batches.capture.return_value = {}
    for epoch, value in enumerate(values):
        place = Place(epoch, 1, {"loss": 1.0}, 1.0)
        made.end_epoch(model, batches, place, {"val_loss": value})
    assert (made.best, made.best_epoch) == (values[1], 1)


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


@pytest.mark.slow_on_tensorflow
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
    evaluation = ExampleValidation(model, feed, score).evaluate(lambda: None)
    ((_, scores),) = train_together([evaluation])
    labels, weights, predictions = given
    np.testing.assert_array_equal(labels, y)
    assert set(weights) == {2.0 if with_weights else 1.0}
    np.testing.assert_allclose(predictions, model.predict(x, verbose=0), rtol=1e-5)
    assert type(scores["val_largest"]) is float
    assert {"val_loss", "val_largest"} <= scores.keys()


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
