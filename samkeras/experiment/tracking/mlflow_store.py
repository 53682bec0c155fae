"""What MLflow is told of runs and asked of them. Nothing else imports it."""

import itertools
import json
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from samkeras.errors import InputError
from samkeras.experiment.options.values import plain_text
from samkeras.experiment.tracking.journal import Delivered, Journal, locked
from samkeras.experiment.tracking.record import RecordedRun, View
from samkeras.quiet import leave_out

JOURNAL_TAG = "samkeras.journal"
VIEW_KEY = "samkeras"
# Else MLflow opens its pages for applications of language models.
WORKFLOW = {"workflowType": "machine_learning"}
HEALTH_TIMEOUT_SEC = 5
REQUEST_TIMEOUT_SEC = 30
NAME_COLUMN = "attributes.`Run Name`"
RECORDS_A_BATCH = 100
MAX_FOUND = 50_000  # of a search, more than a command has runs
MAX_NAME = 250  # characters that a database takes


class MLflowStore:
    """One MLflow store or server.

    Nothing is doubled, however often it is sent: a run is looked for by its journal's
    id before it is made, params, tags, files and statuses overwrite themselves, and a
    metric's point that the store has already is dropped there, because its timestamp
    is the journal's.

    What a method raises may be what waiting cures, see is_unanswered.

    Args:
        uri: the MLflow store or server.

    Attributes:
        name: the URI without credentials.

    Raises:
        InputError: the URI is malformed.
    """

    def __init__(self, uri: str):
        self.name = identify(uri)
        self._uri = uri
        self._experiments: dict[str, str] = {}  # ids by name
        self._views: set[str] = set()  # keys of those that are saved
        self._verified: set[str] = set()

    @property
    def is_server(self) -> bool:
        return self._uri.startswith(("http://", "https://"))

    def open(self) -> None:
        """Sees whether the store answers, which takes little time, and makes it if it
        is a file that is not there."""
        _import_client()  # takes seconds, for which no other process is to wait
        with self._exclusive():
            _ = self.client
        if self.is_server:
            self._check_health()

    @cached_property
    def client(self) -> Any:
        """MLflow's client."""
        if self._file is not None and not self._file.exists():
            _make_file(self._file)
        return _import_client()(self._uri)

    def find_experiment(self, name: str) -> str:
        """The id of an experiment, which is made if there is none.

        Raises:
            InputError: it was deleted.
        """
        if name not in self._experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                self._experiments[name] = self._create_experiment(name)
            elif found.lifecycle_stage == "deleted":
                raise InputError(
                    f"the experiment {name} was deleted in MLflow; restore it with "
                    f"`mlflow experiments restore -x {found.experiment_id}`, or choose "
                    "another with --experiment"
                )
            else:
                self._experiments[name] = found.experiment_id
        return self._experiments[name]

    def save_view(self, experiment: str, view: View) -> None:
        """Saves what `view_url` shows."""
        key = view.group or VIEW_KEY
        self.client.set_experiment_tag(
            self.find_experiment(experiment),
            f"mlflow.sharedViewState.{key}",
            json.dumps({**_select(view), **_lay_out(view)}),
        )
        self._views.add(key)

    def view_url(self, experiment: str, view: View | None) -> str:
        """Where a view opens."""
        if experiment not in self._experiments:
            return f"{self._server}/#/experiments"
        query = {} if view is None else _select(view)
        if view is not None and (view.group or VIEW_KEY) in self._views:
            query = {"viewStateShareKey": view.group or VIEW_KEY}
        return self._address(experiment, "", query)

    def page_url(self, experiment: str, run_id: str) -> str | None:
        """Where a run's page opens, where the experiment is known."""
        if experiment not in self._experiments:
            return None
        return self._address(experiment, f"/{run_id}", {})

    @property
    def _server(self) -> str:
        """The server, or the one of `make ui`."""
        if self.is_server:
            return self.name
        return f"http://127.0.0.1:{os.environ.get('MLFLOW_PORT', '5000')}"

    def _address(self, experiment: str, run: str, query: dict[str, Any]) -> str:
        place = f"{self._server}/#/experiments/{self._experiments[experiment]}/runs"
        texts = {k: plain_text(v) for k, v in (query | WORKFLOW).items()}
        return f"{place}{run}?{urlencode(texts)}"

    def find_finished(
        self, experiment: str, fingerprints: Collection[str]
    ) -> dict[str, RecordedRun]:
        """The experiment's newest finished run of each fingerprint that has one."""
        if not fingerprints:
            return {}
        # One question for all tells of those of late, and of all where they are few.
        count = len(fingerprints) + 1
        newest = self._search_finished(experiment, "", count)
        found = {run.data.tags.get("fingerprint"): run for run in reversed(newest)}
        if len(newest) == count:
            for mark in fingerprints - found.keys():
                mine = f" and tags.fingerprint = '{mark}'"
                for run in self._search_finished(experiment, mine, 1):
                    found[mark] = run
        return {m: _read_run(found[m]) for m in fingerprints if m in found}

    def _search_finished(self, experiment: str, which: str, count: int) -> list[Any]:
        return self.client.search_runs(
            [self.find_experiment(experiment)],
            f"attributes.status = 'FINISHED'{which}",
            max_results=count,
        )

    def read_curves(
        self, run_id: str, names: Iterable[str]
    ) -> dict[str, dict[int, float]]:
        """The values of a run's metrics at each step that they were recorded at."""
        ask = self.client.get_metric_history
        return {n: {m.step: m.value for m in ask(run_id, n)} for n in names}

    def tag_runs(self, run_ids: Iterable[str], tag: str) -> None:
        """Gives runs a tag."""
        with self._exclusive():
            for run_id in run_ids:
                self.client.set_tag(run_id, tag, "true")

    def untag_runs(self, experiment: str, tag: str) -> None:
        """Takes a tag from an experiment's runs."""
        experiment_id = self.find_experiment(experiment)
        runs = self.client.search_runs(
            [experiment_id], f"tags.{tag} = 'true'", max_results=MAX_FOUND
        )
        with self._exclusive():
            for run in runs:
                self.client.delete_tag(run.info.run_id, tag)

    def holds(self, journal: Journal, state: Delivered) -> bool:
        """Whether the journal's run is there; of one that was, nothing is delivered."""
        if state.run_id is None:
            return False
        if journal.id in self._verified or self._is_active(state.run_id):
            self._verified.add(journal.id)
            return True
        # Deleted by hand, or the store is a new one: the journal has it all.
        vars(state).update(vars(journal.nothing_delivered()))
        return False

    def make_run(
        self, journal: Journal, state: Delivered, parent_id: str | None
    ) -> None:
        """Makes the journal's run, or finds one that was made and not written down.

        Args:
            journal: the run's.
            state: how far it is delivered, which gets the run's id.
            parent_id: the id here of the run that it is nested in. With None the store
                knows it by its journal, or never will, or it is nested in none.
        """
        head = journal.head
        experiment_id = self.find_experiment(head["experiment"])
        if parent_id is None and head["parent"] is not None:
            parent_id = next(iter(self._search(experiment_id, head["parent"])), None)
        tags = {**head["tags"], JOURNAL_TAG: journal.id}
        if parent_id is not None:
            tags["mlflow.parentRunId"] = parent_id
        found = self._search(experiment_id, journal.id)
        if not found:
            with self._exclusive():
                run = self.client.create_run(
                    experiment_id, head["time"], tags, head["name"][:MAX_NAME]
                )
            found = [run.info.run_id]
        state.run_id = found[0]
        journal.save_state(state)
        self._verified.add(journal.id)

    def forget(self, journal: Journal) -> None:
        """Looks for a run and its experiment anew, which may not be what they were."""
        self._verified.discard(journal.id)
        self._experiments.clear()

    def send_records(self, journal: Journal, state: Delivered) -> bool:
        """Sends the next records. Returns False if there are none."""
        from mlflow.entities import Metric, Param, RunTag

        params, tags, metrics, status, resumed = {}, {}, [], None, False
        batch = list(itertools.islice(journal.read(state.position), RECORDS_A_BATCH))
        if not batch:
            return False
        for record, _ in batch:
            match record:
                case {"params": values}:
                    params.update(values)
                case {"metrics": values, "step": step, "time": at}:
                    metrics += [Metric(k, v, at, step) for k, v in values.items()]
                case {"tags": values}:
                    tags.update(values)
                case {"file": name}:
                    state.files += [name] if name not in state.files else []
                case {"status": _}:
                    status = record
                    if record["status"] == "RUNNING":
                        resumed = True
                        tags.pop("failure", None)
        with self._exclusive():
            if resumed:
                self._resume(state)
            self.client.log_batch(
                state.run_id,
                metrics,
                [Param(k, v) for k, v in params.items()],
                [RunTag(k, v) for k, v in tags.items()],
            )
            if status is not None and status["status"] != "RUNNING":
                self.client.set_terminated(
                    state.run_id, status["status"], status["time"]
                )
                self._delete_doubles(journal, state)
        state.position = batch[-1][1]
        journal.save_state(state)
        return True

    def send_file(self, path: Path, folder: str, state: Delivered) -> None:
        self.client.log_artifact(state.run_id, str(path), folder or None)

    def _resume(self, state: Delivered) -> None:
        if "failure" in self.client.get_run(state.run_id).data.tags:
            self.client.delete_tag(state.run_id, "failure")
        self.client.update_run(state.run_id, "RUNNING")

    def _delete_doubles(self, journal: Journal, state: Delivered) -> None:
        """Deletes runs that a slow server made after it was no longer waited for."""
        experiment_id = self.find_experiment(journal.head["experiment"])
        for double in self._search(experiment_id, journal.id):
            if double != state.run_id:
                self.client.delete_run(double)

    def _search(self, experiment_id: str, journal_id: str) -> list[str]:
        """The ids of the runs with a journal's tag."""
        runs = self.client.search_runs(
            [experiment_id], f"tags.`{JOURNAL_TAG}` = '{journal_id}'"
        )
        return [run.info.run_id for run in runs]

    def _is_active(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except Exception as error:
            if getattr(error, "error_code", None) == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise

    def _create_experiment(self, name: str) -> str:
        try:
            return self.client.create_experiment(name, self._artifacts_of(name))
        except Exception as error:
            if getattr(error, "error_code", None) != "RESOURCE_ALREADY_EXISTS":
                raise
            # Another process was faster.
            return self.client.get_experiment_by_name(name).experiment_id

    @property
    def _file(self) -> Path | None:
        """The file of an SQLite store."""
        if not self.name.startswith("sqlite:///"):
            return None
        return Path(self.name.removeprefix("sqlite:///"))

    def _artifacts_of(self, experiment: str) -> str | None:
        """Where files go: beside an SQLite file, otherwise as the server says."""
        if self._file is None:
            return None
        # MLflow's default would be mlruns in whatever folder the user stands in.
        return (self._file.parent / "artifacts" / experiment).as_uri()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keeps other processes from writing to an SQLite store, which takes one."""
        if self._file is None:
            yield
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        lock = self._file.with_name(f"{self._file.name}.lock")
        lock.touch()
        with locked(lock, wait=True):
            yield

    def _check_health(self) -> None:
        """Asks a server for its health, which takes little of its time and of ours."""
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        http_request(
            get_default_host_creds(self._uri),
            "/health",
            "GET",
            timeout=HEALTH_TIMEOUT_SEC,
        )


def identify(uri: str) -> str:
    """A store's URI without credentials, the same wherever one stands.

    Raises:
        InputError: it is malformed.
    """
    if uri.startswith("sqlite:///"):
        return f"sqlite:///{os.path.abspath(uri.removeprefix('sqlite:///'))}"
    try:
        parts = urlsplit(uri)
        if not parts.scheme and (os.sep in uri or uri.endswith(".db")):
            file = os.path.abspath(os.path.expanduser(uri))
            raise ValueError(f"a file is sqlite:///{file}")
        if parts.scheme.startswith("http") and not (parts.hostname and parts.port != 0):
            raise ValueError("it names no host")
    except ValueError as error:
        raise InputError(f"cannot use the MLflow store {uri}: {error}") from None
    host = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=host).geturl().rstrip("/")


def is_unanswered(error: Exception) -> bool:
    """Whether a server is down, too slow or restarting, which waiting may cure."""
    from requests import exceptions

    kinds = (
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.RetryError,  # 429 and 500 to 504
        exceptions.ChunkedEncodingError,
    )
    texts = "\n".join(f"{type(cause).__name__}: {cause}" for cause in causes(error))
    if re.search(r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|BadStatus", texts):
        return False
    return "database is locked" in texts or any(
        isinstance(cause, kinds) for cause in causes(error)
    )


def explain(error: Exception, store: str) -> InputError:
    """The one line for an error that waiting does not cure."""
    from mlflow.exceptions import MlflowException, RestException

    if isinstance(error, InputError):
        return error
    reason = " ".join(str(error).split())[:200]
    if isinstance(error, MlflowException):
        if error.error_code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            return InputError(
                f"the MLflow server {store} refuses access; set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD to your "
                f"credentials ({reason})"
            )
        if store.startswith("http") and not isinstance(error, RestException):
            return InputError(f"{store} does not answer as MLflow does: {reason}")
    return InputError(f"cannot use the MLflow store {store}: {reason}")


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from, the first cause last."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _read_run(run: Any) -> RecordedRun:
    return RecordedRun(
        params=run.data.params,
        metrics=run.data.metrics,
        status=run.info.status,
        started=run.info.start_time,
        ended=run.info.end_time,
        tags=run.data.tags,
        run_id=run.info.run_id,
    )


def _select(view: View) -> dict[str, Any]:
    """The runs of a view, in the words of the address of MLflow's list of runs."""
    # The runs of grids have a workload among their parameters, their parents have not.
    which = f"params.workload = '{view.workload}'"
    if view.group is not None:
        which = f"tags.{view.group} = 'true'"
    return {
        "searchFilter": which,
        "orderByKey": f"metrics.`best_{view.monitor}`",
        "orderByAsc": view.mode == "min",
    }


def _lay_out(view: View) -> dict[str, Any]:
    """The columns of a view, those that set its runs apart and the best metric first,
    so wide that a window of 1500 pixels has them."""
    best, final = (f"metrics.`{kind}_{view.monitor}`" for kind in ("best", "final"))
    varied, others = (
        [f"params.`{name}`" for name in names] for names in (view.varied, view.params)
    )
    columns = [*varied, best, final, "metrics.`best_epoch`", *others]
    # Of the longest names and numbers the start is enough.
    widths = {name: max(60, min(105, 7 * len(name) - 45)) for name in columns}
    order = [NAME_COLUMN, *columns, "duration"]
    return {
        "selectedColumns": columns,
        "columnOrder": order,
        "columnWidths": {NAME_COLUMN: 230, **widths, "duration": 70},
    }


def _make_file(path: Path) -> None:
    """Makes an SQLite store, which takes hundreds of statements: nobody else knows it
    by its first name, and so the disk is waited for once, not after each of them."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    connections: list[Any] = []

    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")
        connections.append(connection)

    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)  # of a command that was killed
    event.listen(Engine, "connect", hurry)
    try:
        _import_client()(f"sqlite:///{new}")
    finally:
        event.remove(Engine, "connect", hurry)
        for connection in connections:
            connection.close()
    with open(new, "rb") as file:
        os.fsync(file.fileno())
    new.rename(path)


def _import_client() -> Any:
    """MLflow's client class, imported so that it leaves us in peace."""
    # MLflow would block for minutes where this module tries again by itself. Its
    # telemetry draws from the global generator, which models are drawn from.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_SEC))
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Half a second, for tables that nobody here asks for.
    with warnings.catch_warnings(), leave_out("pandas", "pyarrow"):
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        # MLflow and its database tools announce each step of setting up a store, and
        # print the traceback of what is tried again here.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient
