"""Records are delivered to MLflow once, whatever happens in between."""

import math
import random
import shutil
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from samkeras.experiment.tracking.journal import find_journals
from samkeras.experiment.tracking.record import FolderGoneError
from samkeras.experiment.tracking.tracker import MLflowTracker
from tests.experiment.tracking.making import NOBODY, VIEW, log, losses

pytestmark = pytest.mark.one_backend


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
