"""What is recorded of a run, and how it goes on."""

import math
import shutil
import time

import pytest
from mlflow.tracking import MlflowClient

from samkeras.experiment.tracking import record
from samkeras.experiment.tracking.journal import find_journals
from samkeras.experiment.tracking.record import (
    MemoryTracker,
    RecordedRun,
)
from samkeras.experiment.tracking.tracker import MLflowTracker
from tests.experiment.tracking.making import log, losses

pytestmark = pytest.mark.one_backend


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


def test_finished_runs_are_found_among_many(tracker, tmp_path, monkeypatch):
    """Those of late by one question, older ones by one each; the newest counts. What
    else a run may be known by is asked only of one that is not found."""
    session = tracker()
    for i, name in enumerate(("old", "twice", "x", "y", "twice", "new")):
        run = session.start(name, {"fingerprint": name}, None, tmp_path / str(i))
        run.log_metrics({"number": i}, 0)
        run.end("FINISHED")
        time.sleep(0.002)  # MLflow tells runs of one millisecond apart by chance
    session.close()
    session, asked = tracker(), []
    ask = session._store.find_finished

    def find_finished(experiment, marks):
        asked.append(set(marks))
        return ask(experiment, marks)

    monkeypatch.setattr(session._store, "find_finished", find_finished)
    found = session.find_finished([("old",), ("twice", "x"), ("none", "new")])
    assert [run.metrics["number"] for run in found] == [0, 4, 5]
    assert asked == [{"old", "twice", "none"}, {"new"}]


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


def test_curves_are_read_where_they_are(tracker, tmp_path):
    """From the run's folder, from MLflow where that is gone, or from memory; of the
    newest run that is finished, at each step."""
    for make in (tracker, MemoryTracker):
        session, folder = make(), tmp_path / make.__name__
        assert session.read_curves(folder, ("f",), ["loss"]).get("loss", {}) == {}
        run = session.start("run", {"fingerprint": "f"}, None, folder)
        log(run, range(3))
        run.end("FINISHED")
        again = session.start("again", {"fingerprint": "f"}, None, folder, fresh=True)
        log(again, range(1))
        again.end("KILLED")
        expected = {"loss": dict(losses(range(3))), "lost": {}}
        assert session.read_curves(folder, ("new", "f"), ["loss", "lost"]) == expected
        session.close()
    shutil.rmtree(tmp_path)
    session = tracker()
    found = session.read_curves(tmp_path / "gone", ("new", "f"), ["loss", "lost"])
    assert found == expected
    session.close()


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
