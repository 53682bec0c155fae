"""What MLflow is told of runs and asked of them. Nothing else imports it."""

import itertools
import json
import logging
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from samkeras.errors import InputError
from samkeras.experiment.tracking.journal import Delivered, Journal, locked
from samkeras.experiment.tracking.record import RecordedRun

JOURNAL_TAG = "samkeras.journal"
VIEW_KEY = "samkeras"
LOCAL_SERVER = "http://127.0.0.1:5000"
HEALTH_TIMEOUT_SEC = 5
REQUEST_TIMEOUT_SEC = 30
RECORDS_A_BATCH = 100


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

    def save_view(self, experiment: str, view: dict[str, Any]) -> None:
        """Saves what `view_url` shows."""
        self.client.set_experiment_tag(
            self.find_experiment(experiment),
            f"mlflow.sharedViewState.{VIEW_KEY}",
            json.dumps(view),
        )

    def view_url(self, experiment: str) -> str:
        """Where the saved view opens, on the server or on the one of `make ui`."""
        server = self.name if self.is_server else LOCAL_SERVER
        if experiment not in self._experiments:
            return f"{server}/#/experiments"
        query = f"viewStateShareKey={VIEW_KEY}&workflowType=machine_learning"
        return f"{server}/#/experiments/{self._experiments[experiment]}/runs?{query}"

    def find_finished(self, experiment: str, fingerprint: str) -> RecordedRun | None:
        """The experiment's newest finished run with a fingerprint, or None."""
        mark = f"tags.fingerprint = '{fingerprint}'"
        runs = self.client.search_runs(
            [self.find_experiment(experiment)],
            f"{mark} and attributes.status = 'FINISHED'",
            max_results=1,
        )
        return _read_run(runs[0]) if runs else None

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
                    experiment_id, head["time"], tags, head["name"]
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
    )


def _import_client() -> Any:
    """MLflow's client class, imported so that it leaves us in peace."""
    # MLflow would block for minutes where this module tries again by itself. Its
    # telemetry draws from the global generator, which models are drawn from.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(REQUEST_TIMEOUT_SEC))
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        # MLflow and its database tools announce each step of setting up a store, and
        # print the traceback of what is tried again here.
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient
