"""MLflow's stores: how they are named, opened, looked at and what they answer."""

import dataclasses
import http.server
import json
import sqlite3
import threading
from pathlib import Path
from unittest.mock import Mock

import pytest
from mlflow.tracking import MlflowClient
from requests.exceptions import ConnectionError

from samkeras.errors import InputError
from samkeras.experiment import place
from samkeras.experiment.options.targets import ROOT
from samkeras.experiment.place import home
from samkeras.experiment.tracking.mlflow_store import MLflowStore, identify
from samkeras.experiment.tracking.tracker import MLflowTracker, resolve_uri
from tests.experiment.tracking.making import NOBODY, VIEW

pytestmark = pytest.mark.one_backend


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


def test_a_new_store_is_as_mlflow_makes_it(store, tmp_path):
    """Also where a command was killed at making one."""
    path = tmp_path / "runs.db"
    (tmp_path / "runs.db.new").write_text("half a store")
    MLflowStore(f"sqlite:///{path}").open()
    query = "SELECT sql FROM sqlite_master UNION SELECT * FROM alembic_version"
    ours, theirs = (
        # A migration copies a table with its constraints in the order of a set.
        sorted(
            sorted(line.strip(" \t,") for line in (sql or "").splitlines())
            for (sql,) in sqlite3.connect(file).execute(query)
        )
        for file in (path, store.removeprefix("sqlite:///"))
    )
    assert ours == theirs
    assert {each.name for each in tmp_path.iterdir()} == {"runs.db", "runs.db.lock"}


def test_a_link_opens_on_the_port_of_the_user_interface(tracker, monkeypatch):
    """$MLFLOW_PORT is the one that `mlflow ui` takes; a view that could not be saved
    is in the link itself."""
    session = tracker()
    monkeypatch.setenv("MLFLOW_PORT", "5050")
    monkeypatch.setattr(MLflowStore, "save_view", Mock(side_effect=ConnectionError()))
    session.save_view(VIEW)
    assert session.view_url.startswith("http://127.0.0.1:5050/#/experiments/")
    assert "searchFilter=tags.grid_1+%3D+%27true%27&" in session.view_url


def test_a_deleted_experiment_is_named(tracker, store, request):
    """What the user deleted is neither restored nor written to."""
    session = tracker()
    session.close()
    client = MlflowClient(store)
    name = request.node.name
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    with pytest.raises(InputError, match=f"the experiment {name} was deleted"):
        tracker()


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
    (packages / "configs").mkdir(parents=True)
    (packages / "run.py").touch()  # both of other distributions
    assert home(packages) == tmp_path
    monkeypatch.setattr(place, "is_checkout", lambda folder: False)
    assert resolve_uri(None) == f"sqlite:///{tmp_path}/mlflow/mlflow.db"
