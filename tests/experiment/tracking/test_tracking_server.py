"""Runs recorded through servers that are down, die, dawdle or lie."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from samkeras.experiment.options.targets import ROOT
from samkeras.experiment.tracking.journal import find_journals
from samkeras.experiment.tracking.tracker import MLflowTracker
from tests.servers import MlflowServer, Postgres, Proxy, find_postgres, wait_until

pytestmark = pytest.mark.faults

NUM_POINTS = 60


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server on SQLite: starting one takes seconds, so that tests share it, each
    with an experiment of its own, and leave it running or not."""
    folder = tmp_path_factory.mktemp("server")
    server = MlflowServer(f"sqlite:///{folder / 'mlflow.db'}", folder)
    yield server
    server.kill()


@pytest.fixture
def proxy(server):
    """A proxy before the server."""
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


def experiment_of(run_dir):
    """An experiment for each test: pytest gives each a folder."""
    return run_dir.parent.name


class Session:
    """A grid of one run, recorded in the steps that a test asks for."""

    def __init__(self, uri, run_dir):
        self.tracker = MLflowTracker(uri, experiment_of(run_dir))
        self.parent = self.tracker.start("parent", {}, None, run_dir / "parent")
        folder = run_dir / "child"
        self.run = self.tracker.start("child", {"a": "b"}, self.parent.id, folder)
        self.run.log_params({"rho": 0.1})
        (folder / "config.yaml").write_text("rho: 0.1")
        self.run.log_file(folder / "config.yaml")

    def log(self, first, last):
        for step in range(first, last):
            self.run.log_metrics({"loss": 1 / (step + 1), "accuracy": step}, step)

    def end(self):
        self.run.end("FINISHED")
        self.parent.end("FINISHED")
        self.tracker.close()


def check(uri, run_dir, num_points=NUM_POINTS):
    """Everything of a Session is in MLflow, once."""
    assert [j.count_undelivered() for j in find_journals(run_dir)] == [0, 0]
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(experiment_of(run_dir))
    found = client.search_runs([experiment.experiment_id])
    runs = {run.info.run_name: run for run in found}
    assert sorted(run.info.run_name for run in found) == ["child", "parent"]
    assert {run.info.status for run in found} == {"FINISHED"}
    child, run_id = runs["child"], runs["child"].info.run_id
    assert child.data.tags["mlflow.parentRunId"] == runs["parent"].info.run_id
    assert child.data.tags["a"] == "b"
    assert child.data.params == {"rho": "0.1"}
    for key, value in (("loss", lambda i: 1 / (i + 1)), ("accuracy", float)):
        points = client.get_metric_history(run_id, key)
        steps = range(num_points)
        assert sorted((p.step, p.value) for p in points) == [
            (step, value(step)) for step in steps
        ]
    assert [file.path for file in client.list_artifacts(run_id)] == ["config.yaml"]


def is_delivered(session):
    return not session.run.journal.count_undelivered()


def test_a_server_started_late_gets_everything(server, tmp_path, capsys):
    """Down at the start of a run, up before its end: nothing is missing."""
    server.kill()
    session = Session(server.uri, tmp_path / "runs")
    session.log(0, 30)
    server.start()
    session.log(30, NUM_POINTS)
    session.end()
    check(server.uri, tmp_path / "runs")
    message = capsys.readouterr().err
    assert message.count("does not answer") == 1
    assert "not delivered" not in message


def test_a_server_started_after_the_run_gets_everything(server, tmp_path, capsys):
    """Down all the time: the next command delivers, whatever it does itself."""
    server.kill()
    session = Session(server.uri, tmp_path / "runs")
    session.log(0, NUM_POINTS)
    started = time.monotonic()
    session.end()
    assert time.monotonic() - started < 3
    assert "records are not delivered" in capsys.readouterr().err
    server.start()
    tracker = MLflowTracker(server.uri, "another")
    tracker.deliver_pending(tmp_path / "runs")
    tracker.close()
    check(server.uri, tmp_path / "runs")


def test_a_server_killed_in_the_middle_loses_nothing(server, tmp_path):
    """Killed with points under way, and back: each point is there once."""
    server.start()
    session = Session(server.uri, tmp_path / "runs")
    for first in range(0, NUM_POINTS, 20):
        session.log(first, first + 10)
        wait_until(lambda: session.run.journal.load_state().run_id)
        server.kill()
        session.log(first + 10, first + 20)
        time.sleep(1.5)  # for a delivery to fail
        server.start()
    session.end()
    check(server.uri, tmp_path / "runs")


def test_a_slow_server_delays_no_training(server, proxy, tmp_path):
    """Records take no longer when answers take a second."""
    server.start()
    proxy.delay = 1.0
    session = Session(proxy.uri, tmp_path / "runs")
    started = time.monotonic()
    session.log(0, NUM_POINTS)
    assert time.monotonic() - started < 0.5
    wait_until(lambda: is_delivered(session))
    proxy.delay = 0.0
    session.end()
    check(server.uri, tmp_path / "runs")


def test_a_hung_server_does_not_keep_the_command(server, proxy, tmp_path, capsys):
    """Answers that do not come: the end waits some seconds, then says what is left."""
    server.start()
    session = Session(proxy.uri, tmp_path / "runs")
    wait_until(lambda: is_delivered(session))
    proxy.delay = 60.0
    session.log(0, NUM_POINTS)
    started = time.monotonic()
    session.end()
    assert time.monotonic() - started < 15
    assert "records are not delivered" in capsys.readouterr().err


@pytest.mark.parametrize("call", ["runs/create", "runs/log-batch", "runs/update"])
def test_an_answer_that_is_lost_doubles_nothing(server, proxy, tmp_path, call):
    """The server did what it was asked, the client does not know, and asks again."""
    server.start()
    dropped = []

    def drop(data):
        if call.encode() in data and len(dropped) < 2:
            dropped.append(data)
            return "drop"
        return "pass"

    proxy.on_request = drop
    session = Session(proxy.uri, tmp_path / "runs")
    session.log(0, NUM_POINTS)
    session.run.end("FINISHED")
    session.parent.end("FINISHED")
    wait_until(lambda: is_delivered(session))
    session.tracker.close()
    assert len(dropped) == 2
    check(server.uri, tmp_path / "runs")


def test_a_run_made_too_late_is_deleted(server, proxy, tmp_path):
    """A request that hung is carried out after the client has repeated it."""
    server.start()
    held = []

    def hold(data):
        if b"runs/create" in data and b"child" in data and not held:
            held.append(data)
            return "hold"
        return "pass"

    proxy.on_request = hold
    session = Session(proxy.uri, tmp_path / "runs")
    session.log(0, NUM_POINTS)
    wait_until(lambda: is_delivered(session))
    proxy.release()
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(experiment_of(tmp_path / "runs"))
    assert len(client.search_runs([experiment.experiment_id])) == 3
    session.end()
    check(server.uri, tmp_path / "runs")


def record_in_a_process(uri, run_dir, before="", **options):
    """Records a Session in a process of its own, `before` being run first."""
    script = f"""
import os, signal, sys, time
from pathlib import Path
from samkeras.experiment.tracking.journal import Journal
from samkeras.experiment.tracking.delivery import Delivery
from tests.experiment.tracking.test_tracking_server import NUM_POINTS, Session

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

{before}
session = Session({uri!r}, Path({str(run_dir)!r}))
session.log(0, NUM_POINTS)
session.end()
"""
    return subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, **options
    )


DIE = {
    # Between the journal and the delivery, which has not begun.
    "undelivered": """
Delivery._deliver = lambda *_: False
Session.end = die
""",
    # After the run is made, before that is written down.
    "created": """
Journal.save_state = die
""",
    # After the first batch, before that is written down.
    "half": """
save = Journal.save_state
def save_state(self, state):
    if state.position != self.nothing_delivered().position:
        time.sleep(0.5)  # until the main thread has written everything
        die()
    save(self, state)
Journal.save_state = save_state
""",
}


@pytest.mark.parametrize("when", DIE)
def test_a_killed_client_loses_nothing(server, tmp_path, when):
    """kill -9 at the worst moments: the next command continues the same runs."""
    server.start()
    run_dir = tmp_path / "runs"
    process = record_in_a_process(server.uri, run_dir, DIE[when])
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    session = Session(server.uri, run_dir)  # repeats all points, as a rerun does
    session.log(0, NUM_POINTS)
    session.end()
    check(server.uri, run_dir)


def test_a_pending_journal_is_delivered_by_one_of_many(server, tmp_path):
    """Commands that start at once do not trip over one another."""
    server.kill()
    session = Session(server.uri, tmp_path / "runs")
    session.log(0, NUM_POINTS)
    session.end()
    server.start()
    trackers = [MLflowTracker(server.uri, "another") for _ in range(4)]

    def deliver(tracker):
        tracker.deliver_pending(tmp_path / "runs")
        tracker.close()

    threads = [threading.Thread(target=deliver, args=[t]) for t in trackers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(server.uri, tmp_path / "runs")


def test_eight_processes_share_a_fresh_sqlite_store(tmp_path):
    """The default store, not even made yet: no error, no lock, no point lost."""
    uri = f"sqlite:///{tmp_path / 'mlflow' / 'mlflow.db'}"
    folders = [tmp_path / "e" / f"runs{i}" for i in range(8)]
    processes = [record_in_a_process(uri, folder) for folder in folders]
    for process in processes:
        _, message = process.communicate(timeout=300)
        assert process.returncode == 0, message
        assert message == b""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("e").experiment_id])
    assert len(runs) == 16
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in runs:
        if run.info.run_name == "child":
            points = client.get_metric_history(run.info.run_id, "loss")
            assert sorted(p.step for p in points) == list(range(NUM_POINTS))
            (file,) = client.list_artifacts(run.info.run_id)
            assert file.path == "config.yaml"


def test_a_database_that_dies_loses_nothing(tmp_path):
    """PostgreSQL behind the server is killed and back: each point is there once."""
    if find_postgres() is None:
        pytest.skip("PostgreSQL is not installed (apt-get install postgresql)")
    pytest.importorskip("psycopg2")
    folder = tmp_path / "server"
    folder.mkdir()
    # Users other than the tests' own may not look into pytest's folders.
    place = Path(f"/var/tmp/samkeras-{os.getpid()}")
    place.mkdir()
    database = Postgres(place)
    server = MlflowServer(database.uri, folder)
    try:
        database.start()
        server.start()
        session = Session(server.uri, tmp_path / "runs")
        session.log(0, 20)
        wait_until(lambda: session.run.journal.load_state().run_id)
        database.stop()
        session.log(20, 40)
        time.sleep(1.5)  # for a delivery to fail
        database.start()
        session.log(40, NUM_POINTS)
        session.end()
        (_, journal) = find_journals(tmp_path / "runs")
        journal.save_state(journal.nothing_delivered())  # all is sent again
        tracker = MLflowTracker(server.uri, "another")
        tracker.deliver_pending(tmp_path / "runs")
        tracker.close()
        check(server.uri, tmp_path / "runs")
    finally:
        server.kill()
        database.stop()
        shutil.rmtree(place)
