"""A run's records: on disk at once, in MLflow once, whatever happens in between."""

import dataclasses
import http.server
import json
import math
import random
import shutil
import threading
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.tracking import MlflowClient
from requests.exceptions import ConnectionError

from samkeras.errors import InputError
from samkeras.experiment.options import targets
from samkeras.experiment.options.targets import ROOT, home
from samkeras.experiment.tracking import record
from samkeras.experiment.tracking.journal import Journal, find_journals
from samkeras.experiment.tracking.mlflow_store import MLflowStore, identify
from samkeras.experiment.tracking.record import (
    FolderGoneError,
    MemoryTracker,
    RecordedRun,
    View,
)
from samkeras.experiment.tracking.tracker import MLflowTracker, resolve_uri

pytestmark = pytest.mark.one_backend

NOBODY = "http://127.0.0.1:9"
VIEW = View("w", "grid_1", ["sam", "seed"], ["num_params"], "val_loss", "min")


@pytest.fixture
def tracker(store, request):
    """A function: () -> a tracker of the test's own experiment."""
    return lambda: MLflowTracker(store, request.node.name)


@pytest.fixture
def recorded(store, request):
    """A function: () -> the runs of the test's experiment by name."""

    def runs():
        client = MlflowClient(store)
        experiment = client.get_experiment_by_name(request.node.name)
        found = client.search_runs([experiment.experiment_id])
        names = [run.info.run_name for run in found]
        assert len(set(names)) == len(names), "a run is there twice"
        return {run.info.run_name: run for run in found}

    return runs


@pytest.fixture
def curve(store):
    """A function: (run, metric) -> its points as (step, value), as they were logged."""

    def points(run, key):
        history = MlflowClient(store).get_metric_history(run.info.run_id, key)
        return sorted((point.step, point.value) for point in history)

    return points


@pytest.fixture
def silence(monkeypatch):
    """A function: () -> None, after which the store does not answer deliveries, until
    the function it returns is called."""

    def begin():
        def refuse(*_):
            raise ConnectionError("refused")

        context = pytest.MonkeyPatch()
        context.setattr(MLflowStore, "holds", refuse)
        context.setattr("samkeras.experiment.tracking.delivery.PATIENCE_SEC", 0.5)
        return context.undo

    undo = []
    yield lambda: undo.append(begin()) or undo[-1]
    for call in undo:
        call()


def log(run, steps, file=None):
    for step in steps:
        run.log_metrics({"loss": 1 / (step + 1)}, step)
    if file is not None:
        run.log_file(file)


def losses(steps):
    return [(step, 1 / (step + 1)) for step in steps]


def test_a_run_that_goes_on_in_another_store_is_whole_there(
    tracker, recorded, curve, store, tmp_path
):
    """What the first store got before the interruption is in the second too; a run
    that was finished elsewhere is a new one."""
    shutil.copy(store.removeprefix("sqlite:///"), tmp_path / "other.db")
    elsewhere = MLflowTracker(f"sqlite:///{tmp_path}/other.db", "experiment")
    run = elsewhere.start("run", {}, None, tmp_path / "run")
    run.log_params({"rho": 0.1})
    log(run, range(3))
    run.end("KILLED", "interrupted")
    done = elsewhere.start("done", {}, None, tmp_path / "done")
    log(done, range(3))
    done.end("FINISHED")
    elsewhere.close()
    session = tracker()
    run = session.start("run", {}, None, tmp_path / "run")
    log(run, range(2, 5))
    run.end("FINISHED")
    session.start("done", {}, None, tmp_path / "done").end("FINISHED")
    session.close()
    runs = recorded()
    assert runs["run"].data.params["rho"] == "0.1"
    assert curve(runs["run"], "loss") == losses(range(5))
    assert "failure" not in runs["run"].data.tags
    assert curve(runs["done"], "loss") == []


def test_everything_is_recorded(tracker, recorded, curve, store, tmp_path):
    """Names, tags, params, points, files, statuses and nesting reach MLflow."""
    session = tracker()
    parent = session.start("parent", {"workload": "w"}, None, tmp_path / "parent")
    run = session.start("child", {"workload": "w"}, parent.id, tmp_path / "child")
    run.log_params({"rho": 0.1, "sam": True})
    path = tmp_path / "child" / "config.yaml"
    path.write_text("rho: 0.1")
    log(run, range(3), path)
    picture = tmp_path / "figures" / "figure.svg"
    picture.parent.mkdir()
    picture.touch()
    run.log_file(picture)
    run.log_metrics({"grad": math.nan}, 0)
    run.set_tag("note", "n")
    run.end("FAILED", "why")
    parent.end("FINISHED")
    session.close()
    runs = recorded()
    child = runs["child"]
    assert child.data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert child.data.params == {"rho": "0.1", "sam": "true"}
    tags = {key: child.data.tags[key] for key in ("workload", "note", "failure")}
    assert tags == {"workload": "w", "note": "n", "failure": "why"}
    assert curve(child, "loss") == losses(range(3))
    assert math.isnan(curve(child, "grad")[0][1])
    assert child.info.status == "FAILED"
    assert runs["parent"].info.status == "FINISHED"
    client = MlflowClient(store)
    files = [file.path for file in client.list_artifacts(child.info.run_id)]
    assert files == ["config.yaml", "figures"]
    files = [f.path for f in client.list_artifacts(child.info.run_id, "figures")]
    assert files == ["figures/figure.svg"]
    head = find_journals(tmp_path / "child")[0].head
    assert child.info.start_time == head["time"]


def test_a_view_shows_the_runs_of_its_grid(tracker, store, tmp_path, request):
    """Those that were trained for it and those that others had finished; a run that
    goes on for another grid is in both. Finished runs are asked for all at once."""
    session = tracker()
    parents = [session.start(n, {}, None, tmp_path / n) for n in ("grid_1", "grid_2")]
    for name in ("a", "b", "c"):
        tags, parent = {"fingerprint": name}, parents[0].id
        run = session.start(name, tags, parent, tmp_path / name)
        run.end("KILLED" if name == "c" else "FINISHED")
    session.close()
    session = tracker()
    session.know(parents[1].folder, parents[1].id)
    found = session.find_finished([("a", "-"), ("-", "b"), ("c", "-")])
    assert [run and run.tags["fingerprint"] for run in found] == ["a", "b", None]
    session.gather("grid_2", found[1:2])
    session.start("c", {"source": "s"}, parents[1].id, tmp_path / "c").end("FINISHED")
    views = [dataclasses.replace(VIEW, group=name) for name in ("grid_1", "grid_2")]
    unsaved = session.view_url
    for view in views:
        session.save_view(view)
    url = session.view_url
    session.close()
    client = MlflowClient(store)
    experiment = client.get_experiment_by_name(request.node.name)
    of_grid = []
    for view in views:
        saved = json.loads(experiment.tags[f"mlflow.sharedViewState.{view.group}"])
        columns = [f"params.`{name}`" for name in ("sam", "seed")]
        assert saved["selectedColumns"][:2] == columns
        runs = client.search_runs([experiment.experiment_id], saved["searchFilter"])
        of_grid.append({run.info.run_name for run in runs})
        assert all(r.data.tags.get("source", "s") == "s" for r in runs)
    assert of_grid == [{"a", "b", "c"}, {"b", "c"}]
    tracker().scatter("grid_2")
    assert not client.search_runs([experiment.experiment_id], saved["searchFilter"])
    runs = f"#/experiments/{experiment.experiment_id}/runs?"
    assert url.endswith(f"{runs}viewStateShareKey=grid_2&workflowType=machine_learning")
    assert unsaved.endswith(f"{runs}workflowType=machine_learning")


def test_finished_runs_are_found_among_many(tracker, tmp_path):
    """Those of late by one question, older ones by one each; the newest counts."""
    session = tracker()
    for i, name in enumerate(("old", "twice", "x", "y", "twice", "new")):
        run = session.start(name, {"fingerprint": name}, None, tmp_path / str(i))
        run.log_metrics({"number": i}, 0)
        run.end("FINISHED")
        time.sleep(0.002)  # MLflow tells runs of one millisecond apart by chance
    session.close()
    found = tracker().find_finished([("old",), ("twice",), ("none", "new")])
    assert [run.metrics["number"] for run in found] == [0, 4, 5]


def test_a_link_opens_on_the_port_of_the_user_interface(tracker, monkeypatch):
    """$MLFLOW_PORT is the one that `mlflow ui` takes; a view that could not be saved
    is in the link itself."""
    session = tracker()
    monkeypatch.setenv("MLFLOW_PORT", "5050")
    monkeypatch.setattr(MLflowStore, "save_view", Mock(side_effect=ConnectionError()))
    session.save_view(VIEW)
    assert session.view_url.startswith("http://127.0.0.1:5050/#/experiments/")
    assert "searchFilter=tags.grid_1+%3D+%27true%27&" in session.view_url


def test_a_silent_server_delays_nothing(tmp_path, capsys):
    """Records are on disk when the call returns; the end says where they are."""
    started = time.monotonic()
    tracker = MLflowTracker(NOBODY, "e")
    run = tracker.start("name", {}, None, tmp_path / "run")
    log(run, range(1000))
    (journal,) = find_journals(tmp_path)
    assert journal.count_undelivered() == 1001  # with the creation
    run.end("FINISHED")
    assert tracker.find_finished([("0",)]) == [None]
    tracker.save_view(VIEW)
    assert tracker.view_url == f"{NOBODY}/#/experiments"
    tracker.close()
    assert time.monotonic() - started < 5
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert f"{NOBODY} does not answer" in lines[0]
    assert f"1002 records are not delivered to {NOBODY} yet" in lines[1]


def test_a_silent_store_gets_everything_later(
    tracker, recorded, curve, silence, tmp_path, capsys
):
    """What one command could not deliver, the next one does: parents first."""
    answer = silence()
    session = tracker()
    parent = session.start("parent", {}, None, tmp_path / "parent")
    # A folder that sorts before its parent's.
    run = session.start("child", {}, parent.id, tmp_path / "child")
    log(run, range(5))
    run.end("FINISHED")
    parent.end("FINISHED")
    session.close()
    assert recorded() == {}
    assert "9 records are not delivered" in capsys.readouterr().err
    answer()
    session = tracker()
    session.deliver_pending(tmp_path)
    session.close()
    runs = recorded()
    parent_id = runs["parent"].info.run_id
    assert runs["child"].data.tags["mlflow.parentRunId"] == parent_id
    assert curve(runs["child"], "loss") == losses(range(5))
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert capsys.readouterr().err == ""


def test_a_child_waits_for_its_parent(
    tracker, recorded, silence, tmp_path, monkeypatch
):
    """A run whose parent is another command's to deliver is not made without it."""
    answer = silence()
    first = tracker()
    parent = first.start("parent", {}, None, tmp_path / "parent")
    first.start("child", {}, parent.id, tmp_path / "child").end("FINISHED")
    first.close()  # and yet the parent's folder is taken until its end
    answer()
    with monkeypatch.context() as context:
        context.setattr("samkeras.experiment.tracking.delivery.PATIENCE_SEC", 0.5)
        second = tracker()
        second.deliver_pending(tmp_path)
        second.close()
    assert recorded() == {}
    parent.end("FINISHED")
    third = tracker()
    third.deliver_pending(tmp_path)
    third.close()
    parent_id = recorded()["parent"].info.run_id
    assert recorded()["child"].data.tags["mlflow.parentRunId"] == parent_id


def test_a_finished_run_is_known_before_it_is_delivered(tracker, silence, tmp_path):
    """Nothing is trained twice because the server was down."""
    silence()
    session = tracker()
    run = session.start("name", {"fingerprint": "f00"}, None, tmp_path / "run")
    run.log_params({"num_params": 7})
    run.log_metrics({"best_val_loss": 0.5}, 0)
    run.end("FINISHED")
    other = session.start("other", {"fingerprint": "ba5"}, None, tmp_path / "other")
    other.end("KILLED", "interrupted")
    session.close()
    session = tracker()
    session.deliver_pending(tmp_path)
    found, other = session.find_finished([("f00", "old"), ("ba5", "old")])
    assert found.params == {"num_params": "7"}
    assert found.metrics == {"best_val_loss": 0.5}
    assert found.ended >= found.started
    assert other is None
    session.close()


def test_a_run_goes_on_where_it_was(tracker, recorded, curve, tmp_path):
    """The next command continues the MLflow run; steps that it repeats are there
    once, with the values of the first time, and the failure is forgotten."""
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    run.log_params({"device": "cpu"})
    log(run, range(3))
    run.end("KILLED", "interrupted")
    session.close()
    first = recorded()["name"]
    assert first.data.tags["failure"] == "interrupted"
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    run.log_params({"device": "gpu", "more": 1})
    run.log_metrics({"loss": 99, "new": 1}, 2)
    log(run, range(3, 5))
    run.end("FINISHED")
    session.close()
    again = recorded()["name"]
    assert again.info.run_id == first.info.run_id
    assert again.info.status == "FINISHED"
    assert "failure" not in again.data.tags
    assert again.data.params == {"device": "cpu", "more": "1"}
    assert curve(again, "loss") == losses(range(5))
    assert curve(again, "new") == [(2, 1)]


def test_a_fresh_run_leaves_the_old_one_alone(
    tracker, recorded, curve, silence, tmp_path
):
    """fresh=True makes a new run; the old one's undelivered records arrive too."""
    answer = silence()
    session = tracker()
    run = session.start("old", {}, None, tmp_path / "run")
    log(run, range(3))
    run.end("FINISHED")
    session.close()
    answer()
    session = tracker()
    session.deliver_pending(tmp_path)
    run = session.start("new", {}, None, tmp_path / "run", fresh=True)
    log(run, range(2))
    run.end("FINISHED")
    session.close()
    assert curve(recorded()["old"], "loss") == losses(range(3))
    assert curve(recorded()["new"], "loss") == losses(range(2))
    session = tracker()
    session.start("new", {}, None, tmp_path / "run").end("FINISHED")
    session.close()
    assert set(recorded()) == {"old", "new"}


def record_two_commands(make_tracker, folder) -> RecordedRun:
    """A run that is interrupted and goes on, as a tracker knows it in the end."""
    session = make_tracker()
    run = session.start("name", {"fingerprint": "f"}, None, folder)
    run.log_params({"rho": 0.1, "sam": True})
    run.log_metrics({"loss": 0.5, "odd": 1}, 0)
    run.end("KILLED", "interrupted")
    assert session.find_finished([("f",)]) == [None]
    session.close()
    session = make_tracker()
    run = session.start("name", {"fingerprint": "f"}, None, folder)
    run.log_params({"rho": 0.2, "more": None})
    run.log_metrics({"loss": 0.4}, 0)
    run.log_metrics({"loss": 0.25}, 1)
    run.log_metrics({"late": 3}, 7)
    run.end("FINISHED")
    session.close()
    session = make_tracker()
    found, missing = session.find_finished([("new", "f"), ("g",)])
    assert missing is None
    session.start("name", {"fingerprint": "f"}, None, folder, fresh=True)
    assert session.find_finished([("f",)]) == [found]
    session.close()
    return found


def test_memory_records_what_mlflow_does(tracker, tmp_path):
    """The same calls are known as the same run afterwards."""
    records = []
    found = [
        record_two_commands(make, tmp_path / name)
        for name, make in {
            "memory": lambda: MemoryTracker(records),
            "mlflow": tracker,
        }.items()
    ]
    in_memory, in_mlflow = ((r.params, r.metrics, r.status) for r in found)
    assert in_memory == in_mlflow
    assert in_memory[0] == {"rho": "0.1", "sam": "true", "more": "None"}
    assert in_memory[1] == {"loss": 0.25, "odd": 1, "late": 3}
    assert all(run.ended >= run.started > 1.6e12 for run in found)
    finished, fresh = records
    assert finished.curves["loss"] == {0: 0.5, 1: 0.25}
    assert "failure" not in finished.tags
    assert (finished.id != fresh.id, fresh.status) == (True, "RUNNING")


def test_a_clock_that_is_set_back_shortens_no_run(tracker, tmp_path, monkeypatch):
    """Neither while it trains, nor between two commands, of which the newer counts."""
    session = tracker()
    run = session.start("name", {"fingerprint": "f"}, None, tmp_path / "run")
    yesterday = time.time() - 86400
    monkeypatch.setattr(time, "time", lambda: yesterday)
    run.end("FINISHED")
    found = run.journal.read_run()
    assert 0 <= found.ended - found.started < 60_000
    monkeypatch.setattr(record, "STARTED", record.STARTED - 86400)
    run = session.start("name", {"fingerprint": "f"}, None, tmp_path / "run", True)
    run.end("KILLED", "interrupted")
    session.close()
    found = run.journal.read_run()
    assert found.ended >= found.started
    newest = find_journals(tmp_path / "run")[-1]
    assert newest.id == run.journal.id


@pytest.mark.parametrize("left", ["nothing", "its state", "a moved one"])
def test_a_run_whose_folder_is_gone_ends(tracker, recorded, curve, tmp_path, left):
    """It hears of it with its next record, and what it had recorded, and that it has
    failed, is delivered all the same."""
    session, folder = tracker(), tmp_path / "run"
    run = session.start("name", {}, None, folder)
    (folder / "config.yaml").touch()
    log(run, range(3), folder / "config.yaml")
    while run.journal.count_undelivered():
        time.sleep(0.05)
    log(run, range(3, 5))
    if left == "nothing":
        shutil.rmtree(folder)
    elif left == "its state":  # written by a delivery just then
        run.journal.path.unlink()
    else:
        folder.rename(tmp_path / "moved")
    with pytest.raises(FolderGoneError, match="was removed or moved"):
        log(run, [5])
    run.end("FAILED", "gone")
    session.close()
    ended = recorded()["name"]
    assert ended.info.status == "FAILED"
    assert ended.data.tags["failure"] == "gone"
    assert curve(ended, "loss") == losses(range(5))


@pytest.mark.parametrize("lost", ["position", "run", "file"])
def test_delivering_twice_changes_nothing(tracker, recorded, curve, tmp_path, lost):
    """A kill after a delivery, before it is noted: the same is sent again."""
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    run.log_params({"p": 1})
    log(run, range(300))
    run.log_metrics({"odd": math.nan}, 0)
    run.log_metrics({"odd": math.inf}, 1)
    run.end("FAILED", "why")
    session.close()
    before, points = recorded()["name"], {}
    for key in ("loss", "odd"):
        points[key] = str(curve(before, key))
    (journal,) = find_journals(tmp_path)
    state = journal.load_state()
    state.position = journal.nothing_delivered().position
    if lost == "position":
        journal.save_state(state)
    elif lost == "run":
        journal.save_state(journal.nothing_delivered())
    else:
        journal.path.with_suffix(".json").write_text("{")  # a loss of power
    session = tracker()
    session.deliver_pending(tmp_path)
    session.close()
    after = recorded()["name"]
    assert after.info == before.info
    assert after.data.to_dictionary() == before.data.to_dictionary() or lost
    assert {key: str(curve(after, key)) for key in points} == points
    assert journal.count_undelivered() == 0


@pytest.mark.parametrize("how", ["deleted", "another store"])
def test_a_run_that_mlflow_lost_is_recorded_anew(
    tracker, recorded, curve, store, tmp_path, how
):
    """The journal holds the whole run, so that a new one is complete."""
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    log(run, range(3))
    run.end("KILLED", "interrupted")
    session.close()
    first = recorded()["name"].info.run_id
    if how == "deleted":
        MlflowClient(store).delete_run(first)
    else:
        (journal,) = find_journals(tmp_path)
        state = journal.load_state()
        state.run_id = "0" * 32
        journal.save_state(state)
        MlflowClient(store).delete_run(first)
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    log(run, range(3, 5))
    run.end("FINISHED")
    session.close()
    run = recorded()["name"]
    assert run.info.run_id != first
    assert run.info.status == "FINISHED"
    assert curve(run, "loss") == losses(range(5))


def test_files_are_uploaded_when_they_change(
    tracker, recorded, store, tmp_path, monkeypatch, capsys
):
    """Each recorded file is uploaded once for each time; a missing one is reported."""
    uploads, upload = [], MlflowClient.log_artifact

    def count(self, run_id, path, *place):
        uploads.append(Path(path).name)
        upload(self, run_id, path, *place)

    monkeypatch.setattr(MlflowClient, "log_artifact", count)
    weights = tmp_path / "run" / "best.weights.h5"
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    weights.write_text("first")
    run.log_file(weights)
    run.log_file(tmp_path / "run" / "gone")
    run.end("KILLED")
    session.close()
    assert "gone is gone and cannot be recorded" in capsys.readouterr().err
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    weights.write_text("second")
    run.log_file(weights)
    run.end("FINISHED")
    session.close()
    session = tracker()
    session.deliver_pending(tmp_path)
    session.close()
    assert uploads == ["best.weights.h5"] * 2
    client = MlflowClient(store)
    saved = client.download_artifacts(recorded()["name"].info.run_id, weights.name)
    assert Path(saved).read_text() == "second"


def test_a_file_that_cannot_be_uploaded_holds_nothing_up(
    tracker, recorded, curve, tmp_path, monkeypatch, capsys
):
    """A broken artifact store costs the files, until it works; not the metrics."""
    monkeypatch.setattr("samkeras.experiment.tracking.delivery.PATIENCE_SEC", 0.5)

    def fail(*_):
        raise PermissionError("read-only")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_artifact", fail)
        session = tracker()
        run = session.start("name", {}, None, tmp_path / "run")
        run.log_file(find_journals(tmp_path)[0].path)
        log(run, range(3))
        run.end("FINISHED")
        session.close()
    run = recorded()["name"]
    assert curve(run, "loss") == losses(range(3))
    assert run.info.status == "FINISHED"
    message = capsys.readouterr().err
    assert "read-only" in message
    assert "1 records are not delivered" in message
    session = tracker()
    session.deliver_pending(tmp_path)
    session.close()
    assert find_journals(tmp_path)[0].count_undelivered() == 0


def test_a_record_cut_short_is_dropped(tmp_path):
    """A kill in the middle of a write leaves half a line: it is no record, and the
    next one does not run into it."""
    tracker = MLflowTracker(NOBODY, "e")
    run = tracker.start("name", {}, None, tmp_path / "run")
    log(run, range(2))
    run.journal.close()
    path = run.journal.path
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"metrics": {"loss": 0.1')
    assert len(list(Journal(path).read(0))) == 3
    run = tracker.start("name", {}, None, tmp_path / "run")
    log(run, range(3))
    assert path.read_bytes().startswith(whole)
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[3]["status"] == "RUNNING"
    steps = [r["step"] for r in records if r.get("metrics")]
    assert steps == [0, 1, 2]
    tracker.close()


def test_a_damaged_journal_is_named(tmp_path):
    """A line that is none of ours is not passed over."""
    tracker = MLflowTracker(NOBODY, "e")
    run = tracker.start("name", {}, None, tmp_path / "run")
    run.end("FINISHED")
    with open(run.journal.path, "ab") as file:
        file.write(b"\0\0\0\n")
    with pytest.raises(InputError, match=r"journal_\w+.jsonl is damaged at byte"):
        tracker.start("name", {}, None, tmp_path / "run")
    tracker.close()


def test_a_run_has_one_owner(tmp_path):
    """Two commands do not train the same run into one folder."""
    first, second = MLflowTracker(NOBODY, "e"), MLflowTracker(NOBODY, "e", patience=0.1)
    run = first.start("name", {}, None, tmp_path / "run")
    with pytest.raises(InputError, match="another command is training the run in"):
        second.start("name", {}, None, tmp_path / "run")
    second.deliver_pending(tmp_path)  # leaves it to the first
    assert second._delivery._journals == []
    run.end("FINISHED")
    second.start("name", {}, None, tmp_path / "run").end("FINISHED")
    first.close()
    second.close()


def test_journals_of_other_stores_are_left_alone(tracker, recorded, tmp_path):
    """A run folder may hold runs of several stores and experiments."""
    elsewhere = MLflowTracker(NOBODY, "e")
    elsewhere.start("name", {}, None, tmp_path / "run").end("FINISHED")
    elsewhere.close()
    session = tracker()
    session.deliver_pending(tmp_path)
    session.start("name", {}, None, tmp_path / "run").end("FINISHED")
    session.close()
    assert recorded()["name"].info.status == "FINISHED"
    journals = {j.head["store"]: j for j in find_journals(tmp_path)}
    assert len(journals) == 2
    assert journals[NOBODY].count_undelivered() == 2


def test_delivery_does_not_touch_the_random_generator(tracker, tmp_path):
    """Models are drawn from Python's generator, in the main thread, meanwhile."""
    random.seed(0)
    before = random.getstate()
    session = tracker()
    run = session.start("name", {}, None, tmp_path / "run")
    log(run, range(200))
    run.end("FINISHED")
    session.close()
    assert random.getstate() == before


def test_a_deleted_experiment_is_named(tracker, store, request):
    """What the user deleted is neither restored nor written to."""
    session = tracker()
    session.close()
    client = MlflowClient(store)
    name = request.node.name
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    with pytest.raises(InputError, match=f"the experiment {name} was deleted"):
        tracker()


@pytest.fixture
def answer():
    """A function: (status, body) -> URI of a server that always answers so."""
    servers = []

    def serve(status, body):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>Welcome</html>", "does not answer as MLflow does"),
        (404, b"<html>Nothing</html>", "does not answer as MLflow does"),
        (401, b"who?", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        (403, b"you?", "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
    ],
)
def test_answers_that_waiting_does_not_cure(answer, status, body, words):
    """They are errors at once, in one line that says what to do."""
    with pytest.raises(InputError, match=words) as error:
        MLflowTracker(answer(status, body), "e")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_answers_that_waiting_may_cure(answer, status, capsys):
    """A server behind a proxy that is being started again is waited for."""
    MLflowTracker(answer(status, b"later"), "e").close()
    assert "does not answer (too many" in capsys.readouterr().err


@pytest.mark.parametrize(
    "uri", ["foo://x", "http://", "http://[x", "http://a:b", "/tmp/runs.db", "runs.db"]
)
def test_malformed_uris_are_refused(uri):
    """One line names the URI."""
    with pytest.raises(InputError, match="cannot use the MLflow store"):
        MLflowTracker(uri, "e")


def test_credentials_are_not_written(tmp_path, capsys):
    """A password in the URI stays out of journals and messages."""
    tracker = MLflowTracker("http://user:secret@127.0.0.1:9/", "e")
    run = tracker.start("name", {}, None, tmp_path / "run")
    run.end("FINISHED")
    tracker.close()
    assert "secret" not in run.journal.path.read_text()
    assert "secret" not in capsys.readouterr().err
    assert run.journal.head["store"] == NOBODY
    assert identify("sqlite:///a.db") == f"sqlite:///{Path('a.db').absolute()}"


def test_the_default_store_is_never_inside_a_package(tmp_path, monkeypatch):
    """It is the project's, wherever one stands; installed, where samkeras has none, it
    is in the folder that the user stands in."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    assert home() == ROOT
    assert resolve_uri(None) == f"sqlite:///{ROOT}/mlflow/mlflow.db"
    packages = tmp_path / "site-packages"
    (packages / "configs").mkdir(parents=True)  # of another distribution
    assert home(packages) == tmp_path
    monkeypatch.setattr(targets, "is_checkout", lambda folder: False)
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"


def test_a_record_knows_the_last_value_of_each_metric(tracker, tmp_path):
    """Those of before too, where a run goes on; in memory as in a journal."""
    for start in (tracker().start, MemoryTracker().start):
        run = start("name", {}, None, tmp_path / "run")
        run.log_metrics({"loss": 2.0, "accuracy": 0.5}, step=0)
        run.log_metrics({"loss": 1.0}, step=1)
        assert run.metrics == {"loss": 1.0, "accuracy": 0.5}
        run.end("KILLED")
        run = start("name", {}, None, tmp_path / "run")
        # That of a step which is recorded already is not recorded.
        run.log_metrics({"loss": 7.0, "best_loss": 1.0}, step=1)
        assert run.metrics == {"loss": 1.0, "accuracy": 0.5, "best_loss": 1.0}
        run.end("FINISHED")
