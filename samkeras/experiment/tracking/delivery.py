"""Delivers journals to MLflow, from a thread of its own."""

import itertools
import logging
import os
import random
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from samkeras.errors import InputError
from samkeras.experiment.tracking.journal import Delivered, Journal, locked

JOURNAL_TAG = "samkeras.journal"
HEALTH_TIMEOUT_SEC = 5
REQUEST_TIMEOUT_SEC = 30
DELIVER_EVERY_SEC = 1.0
MAX_PAUSE_SEC = 30.0
PATIENCE_SEC = 10.0
SERVER_GRACE_SEC = 2.0
SQLITE_GRACE_SEC = 60.0  # other processes go first, and our turn comes
RECORDS_A_BATCH = 100


class Delivery:
    """Delivers journals to one MLflow store, and tries again whatever fails.

    Nothing is doubled, however often it is sent: a run is looked for by its journal's
    id before it is made, params, tags, files and statuses overwrite themselves, and a
    metric's point that the store has already is dropped there, because its timestamp
    is the journal's.

    Args:
        uri: the MLflow store or server.

    Attributes:
        client: MLflow's client.
        answers: whether the store answered when it was last asked.
        experiments: the ids of the experiments that were found, by name.

    Raises:
        InputError: there is no such store.
    """

    def __init__(self, uri: str):
        self.store = identify(uri)
        self.answers, self._silence_is_known = True, False
        self._uri = uri
        self._journals: list[Journal] = []  # to deliver, parents before children
        self._known: dict[str, Journal] = {}
        self._lock = threading.Lock()
        self.experiments: dict[str, str] = {}
        self._verified: set[str] = set()
        self._warned: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)
        make_client = _import_client()
        try:
            with self._exclusive():
                self.client = make_client(uri)
            if self.is_server:
                self._check_health()
        except Exception as error:
            self.note(error)

    @property
    def is_server(self) -> bool:
        return self._uri.startswith(("http://", "https://"))

    def note(self, error: Exception) -> None:
        """Takes note of a store that does not answer, saying so once.

        Raises:
            InputError: the error is one that waiting does not cure.
        """
        if not _is_unanswered(error):
            raise _explained(error, self.store) from None
        self.answers = False
        self._warn_of_silence(error)

    def find_experiment(self, name: str) -> str:
        """The id of an experiment, which is made if there is none.

        Raises:
            InputError: it was deleted.
        """
        if name not in self.experiments:
            found = self.client.get_experiment_by_name(name)
            if found is None:
                self.experiments[name] = self._create_experiment(name)
            elif found.lifecycle_stage == "deleted":
                raise InputError(
                    f"the experiment {name} was deleted in MLflow; restore it with "
                    f"`mlflow experiments restore -x {found.experiment_id}`, or choose "
                    "another with --experiment"
                )
            else:
                self.experiments[name] = found.experiment_id
        return self.experiments[name]

    def know(self, journal: Journal) -> Journal:
        """Takes a journal, perhaps the parent of others, or gives the one it has."""
        return self._known.setdefault(journal.id, journal)

    def add(self, journal: Journal) -> None:
        """Delivers a known journal, until it is closed and wholly delivered."""
        with self._lock:
            if journal not in self._journals:
                self._journals.append(journal)
        if not self._thread.is_alive():
            self._thread.start()

    def close(self) -> None:
        """Delivers the rest, as long as the store takes it, and says what is left."""
        # A store that is down gets one chance more.
        patience = PATIENCE_SEC if self.answers else 0
        self._give_up_at = time.monotonic() + patience
        self._closing.set()
        grace = SERVER_GRACE_SEC if self.is_server else SQLITE_GRACE_SEC
        while self._thread.is_alive():
            if time.monotonic() > self._give_up_at + grace:
                break
            self._thread.join(0.1)
        left = sum(journal.count_undelivered() for journal in self._journals)
        if left:
            self._warn(
                f"{left} records are not delivered to {self.store} yet; the next "
                "command with the same --run_dir delivers them"
            )

    def _loop(self) -> None:
        pause = DELIVER_EVERY_SEC
        # The global generator is not for threads: models are drawn from it.
        jitter = random.Random()
        while True:
            closing = self._closing.is_set()  # asked before the last look
            complete = self._deliver_all()
            if closing:
                if complete or time.monotonic() > self._give_up_at:
                    return
                time.sleep(0.2)
            else:
                pause = DELIVER_EVERY_SEC if complete else min(2 * pause, MAX_PAUSE_SEC)
                self._closing.wait(pause * jitter.uniform(0.7, 1))

    def _deliver_all(self) -> bool:
        """Delivers what there is. Returns whether all of it was."""
        complete = True
        for journal in list(self._journals):
            try:
                complete &= self._deliver(journal)
            except Exception as error:
                complete = False
                # The run, or the whole store, may not be what it was.
                self._verified.discard(journal.id)
                self.experiments.clear()
                # The next time the others go first.
                with self._lock:
                    self._journals.remove(journal)
                    self._journals.append(journal)
                if _is_unanswered(error):
                    # Once may be a server that is started again.
                    if not self.answers:
                        self._warn_of_silence(error)
                    self.answers = False
                    break
                if journal.path.exists():  # else its run says that it is gone
                    reason = _explained(error, self.store)
                    self._warn(f"{journal.path.parent}: {reason}")
            else:
                with self._lock:
                    if not journal.is_open and not journal.count_undelivered():
                        self._journals.remove(journal)
        return complete

    def _deliver(self, journal: Journal) -> bool:
        """Delivers a journal. Returns False if another has to be delivered first."""
        if not journal.count_undelivered():
            return True
        try:
            with locked(journal.path, wait=False):
                state = journal.load_state()
                if not self._find_run(journal, state):
                    return False
                while self._deliver_batch(journal, state):
                    self._progress()
                for name in list(state.files):
                    self._upload(journal.path.parent / name, state.run_id)
                    state.files.remove(name)
                    journal.save_state(state)
                    self._progress()
                return True
        except BlockingIOError:
            return False  # Another command delivers it.

    def _progress(self) -> None:
        self.answers, self._silence_is_known = True, False
        self._give_up_at = time.monotonic() + PATIENCE_SEC

    def _find_run(self, journal: Journal, state: Delivered) -> bool:
        """Sees to it that the journal's run exists, or returns False for not yet."""
        unsure = state.run_id is not None and journal.id not in self._verified
        if unsure and not self._is_active(state.run_id):
            # Deleted by hand, or the store is a new one: the journal has it all.
            vars(state).update(vars(journal.nothing_delivered()))
        if state.run_id is None:
            head = journal.head
            experiment_id = self.find_experiment(head["experiment"])
            tags = {**head["tags"], JOURNAL_TAG: journal.id}
            if head["parent"] is not None:
                if head["parent"] in self._known:
                    parent = self._known[head["parent"]].load_state().run_id
                    if parent is None:
                        return False
                    tags["mlflow.parentRunId"] = parent
                # Without its journal, the parent is delivered or will never be.
                elif parents := self._search(experiment_id, head["parent"]):
                    tags["mlflow.parentRunId"] = parents[0]
            found = self._search(experiment_id, journal.id)
            if not found:
                with self._exclusive():
                    run = self.client.create_run(
                        experiment_id, head["time"], tags, head["name"]
                    )
                found = [run.info.run_id]
            state.run_id = found[0]
            journal.save_state(state)
            self._progress()
        self._verified.add(journal.id)
        return True

    def _deliver_batch(self, journal: Journal, state: Delivered) -> bool:
        """Delivers the next records. Returns False if there are none."""
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
                self._resume(state.run_id)
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
                self._delete_doubles(journal, state.run_id)
        state.position = batch[-1][1]
        journal.save_state(state)
        return True

    def _resume(self, run_id: str) -> None:
        if "failure" in self.client.get_run(run_id).data.tags:
            self.client.delete_tag(run_id, "failure")
        self.client.update_run(run_id, "RUNNING")

    def _delete_doubles(self, journal: Journal, run_id: str) -> None:
        """Deletes runs that a slow server made after it was no longer waited for."""
        experiment_id = self.find_experiment(journal.head["experiment"])
        for double in self._search(experiment_id, journal.id):
            if double != run_id:
                self.client.delete_run(double)

    def _upload(self, path: Path, run_id: str) -> None:
        if path.exists():
            self.client.log_artifact(run_id, str(path))
        else:
            self._warn(f"{path} is gone and cannot be recorded in MLflow")

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

    def _artifacts_of(self, experiment: str) -> str | None:
        """Where files go: beside an SQLite file, otherwise as the server says."""
        if not self.store.startswith("sqlite:///"):
            return None
        # MLflow's default would be mlruns in whatever folder the user stands in.
        folder = Path(self.store.removeprefix("sqlite:///")).parent
        return (folder / "artifacts" / experiment).as_uri()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keeps other processes from writing to an SQLite store, which takes one."""
        if not self.store.startswith("sqlite:///"):
            yield
            return
        path = Path(self.store.removeprefix("sqlite:///"))
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f"{path.name}.lock")
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

    def _warn_of_silence(self, error: Exception) -> None:
        if not self._silence_is_known:
            self._silence_is_known = True
            *_, cause = _causes(error)
            self._warn(
                f"the MLflow server {self.store} does not answer ({cause}); training "
                "goes on, and its records are kept in the runs' folders until it does"
            )

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            print(f"run.py: {line}", file=sys.stderr)


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


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_unanswered(error: Exception) -> bool:
    """Whether a server is down, too slow or restarting, which waiting may cure."""
    from requests import exceptions

    kinds = (
        exceptions.ConnectionError,
        exceptions.Timeout,
        exceptions.RetryError,  # 429 and 500 to 504
        exceptions.ChunkedEncodingError,
    )
    texts = "\n".join(f"{type(cause).__name__}: {cause}" for cause in _causes(error))
    if re.search(r"CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER|BadStatus", texts):
        return False
    return "database is locked" in texts or any(
        isinstance(cause, kinds) for cause in _causes(error)
    )


def _explained(error: Exception, store: str) -> InputError:
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
