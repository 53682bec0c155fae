"""What is recorded of a run, and where: a journal in its folder, then MLflow."""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from samkeras.errors import InputError
from samkeras.experiment.options.targets import ROOT
from samkeras.experiment.tracking.delivery import Delivery, identify
from samkeras.experiment.tracking.journal import Journal, find_journals, own_folder

DEFAULT_URI = f"sqlite:///{ROOT / 'mlflow' / 'mlflow.db'}"
LOCAL_SERVER = "http://127.0.0.1:5000"
STARTED = time.time() - time.monotonic()


def resolve_uri(tracking_uri: str | None) -> str:
    """The store that a run's option means, the same wherever one stands: None is
    $MLFLOW_TRACKING_URI, else the SQLite file mlflow/mlflow.db of the project."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return identify(uri) if uri.startswith("sqlite:///") else uri


class Tracker:
    """One MLflow experiment, made if it is not there yet.

    A server that does not answer is waited for in the background. What it is asked
    until then has no answer.

    Args:
        tracking_uri: store or server, see resolve_uri.
        experiment: the experiment's name.
        patience: seconds to wait for a run that another process seems to train, which
            may be about to end, or be looking whether there is something to deliver.

    Raises:
        InputError: the store cannot be opened, or the server answers with an error
            that waiting does not cure.
    """

    def __init__(
        self, tracking_uri: str | None, experiment: str, patience: float = 2.0
    ):
        self.uri = resolve_uri(tracking_uri)
        self._experiment, self._patience = experiment, patience
        self._delivery = Delivery(self.uri)
        self._finished: dict[str, Journal] = {}  # not delivered yet, by fingerprint
        self._ask(self._find_experiment)

    def save_view(self, workload: str, monitor: str, mode: str) -> None:
        """Saves the view that `view_url` opens: the columns that one compares, best
        run first, runs of grids side by side."""
        params = ("width_mult", "num_params", "sam", "rho", "seed")
        metrics = (f"best_{monitor}", f"final_{monitor}")
        columns = [f"params.`{name}`" for name in params]
        columns += [f"metrics.`{name}`" for name in metrics]
        view = {
            "selectedColumns": columns,
            "searchFilter": f"params.workload = '{workload}'",
            "orderByKey": f"metrics.`best_{monitor}`",
            "orderByAsc": mode == "min",
        }
        self._ask(
            lambda: self._delivery.client.set_experiment_tag(
                self._find_experiment(),
                "mlflow.sharedViewState.samkeras",
                json.dumps(view),
            )
        )

    @property
    def view_url(self) -> str:
        """Where the saved view opens, on the server or on the one of `make ui`."""
        server = self._delivery.store if self._delivery.is_server else LOCAL_SERVER
        experiment_id = self._delivery.experiments.get(self._experiment)
        if experiment_id is None:
            return f"{server}/#/experiments"
        query = "viewStateShareKey=samkeras&workflowType=machine_learning"
        return f"{server}/#/experiments/{experiment_id}/runs?{query}"

    def find_finished(self, fingerprint: str) -> Any | None:
        """The experiment's finished run with a fingerprint, or None."""
        if fingerprint in self._finished:
            return _read_run(self._finished[fingerprint])
        mark = f"tags.fingerprint = '{fingerprint}'"
        runs = self._ask(
            lambda: self._delivery.client.search_runs(
                [self._find_experiment()],
                f"{mark} and attributes.status = 'FINISHED'",
                max_results=1,
            )
        )
        return runs[0] if runs else None

    def deliver_pending(self, run_dir: Path) -> None:
        """Delivers what earlier commands recorded under `run_dir` for this store and
        could not deliver; what another command is recording there is left to it."""
        journals = map(self._delivery.know, find_journals(run_dir))
        for journal in journals:
            if journal.head["store"] != self._delivery.store:
                continue
            owner = own_folder(journal.path.parent)
            if owner is None:
                continue
            owner.close()
            if journal.count_undelivered():
                self._delivery.add(journal)
                is_ours = journal.head["experiment"] == self._experiment
                if is_ours and _read_run(journal).info.status == "FINISHED":
                    self._finished[journal.head["tags"].get("fingerprint")] = journal

    def know(self, path: Path) -> None:
        """Takes the journal of a run that another process records, the parent of runs
        here; on a machine that has no such file, MLflow knows it."""
        if path.exists():
            self._delivery.know(Journal(path))

    def start(
        self,
        name: str,
        tags: dict[str, str],
        parent: str | None,
        folder: Path,
        fresh: bool = False,
    ) -> "RunLogger":
        """Starts a run, or goes on with the one that its folder holds.

        Args:
            name: the run's name.
            tags: its tags.
            parent: id of the journal of the run that it is nested in.
            folder: the run's own directory, made if it is not there yet.
            fresh: start a new run, whatever the folder holds.

        Raises:
            InputError: another command is at this run.
        """
        folder.mkdir(parents=True, exist_ok=True)
        give_up_at = time.monotonic() + self._patience
        while (owner := own_folder(folder)) is None:
            if time.monotonic() > give_up_at:
                raise InputError(f"another command is training the run in {folder}")
            time.sleep(0.05)
        place = {"store": self._delivery.store, "experiment": self._experiment}
        known = find_journals(folder)
        journals = [] if fresh else known
        held = [j for j in journals if place.items() <= j.head.items()]
        if held:
            journal = self._delivery.know(held[-1])
            journal.open(owner)
            journal.append({"status": "RUNNING", "time": _now()})
        else:
            # The newest, even if the clock was set back since.
            now = max([_now(), *(journal.head["time"] + 1 for journal in known)])
            head = {**place, "name": name, "tags": tags, "time": now}
            head["parent"] = parent
            # A run that goes on in another store brings along what it has recorded.
            records = _unfinished_records(journals[-1]) if journals else []
            journal = self._delivery.know(Journal.create(folder, head, records))
            journal.open(owner)
            if records:
                journal.append({"status": "RUNNING", "time": _now()})
        self._delivery.add(journal)
        return RunLogger(journal)

    def close(self) -> None:
        """Delivers what is left, if the store answers, and says in one line what an
        unreachable one has not got."""
        self._delivery.close()

    def _find_experiment(self) -> str:
        return self._delivery.find_experiment(self._experiment)

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The store's answer, or None if it does not answer."""
        if not self._delivery.answers:
            return None
        try:
            return question()
        except Exception as error:
            self._delivery.note(error)
            return None


class RunLogger:
    """Records one run. What is recorded is on disk at once, and in MLflow soon."""

    def __init__(self, journal: Journal):
        self.journal = journal
        self._params, self._points = set(), set()
        for record, _ in journal.read(0):
            self._params.update(record.get("params", ()))
            self._points.update((k, record["step"]) for k in record.get("metrics", ()))

    @property
    def folder(self) -> Path:
        """The run's own directory."""
        return self.journal.path.parent

    def log_params(self, params: dict[str, Any]) -> None:
        """Records parameters; those of a run that goes on stay what they were."""
        new = {k: _text(v) for k, v in params.items() if k not in self._params}
        self._params.update(new)
        self.journal.append({"params": new})

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        """Records the metrics of a step, once: a run that goes on may repeat steps."""
        new = {k: float(v) for k, v in metrics.items() if (k, step) not in self._points}
        self._points.update((k, step) for k in new)
        self.journal.append({"metrics": new, "step": step, "time": _now()})

    def log_file(self, path: Path) -> None:
        """Records a file, again if it was replaced since it was recorded."""
        name = os.path.relpath(path, self.folder)
        self.journal.append({"file": name})

    def set_tag(self, key: str, value: str) -> None:
        self.journal.append({"tags": {key: value}})

    def end(self, status: str, reason: str | None = None) -> None:
        """Ends the run as FINISHED, FAILED or KILLED, the last two with the reason.

        Raises:
            OSError: that cannot be recorded, as on a full disk.
        """
        try:
            self.journal.put_back()
            if reason is not None:
                self.set_tag("failure", reason)
            now = max(_now(), self.journal.head["time"])  # a clock that was set back
            self.journal.append({"status": status, "time": now})
        finally:
            self.journal.close()


def _unfinished_records(journal: Journal) -> list[dict]:
    """What a journal holds of a run that is not finished; nothing of another."""
    records = [record for record, _ in journal.read(0)][1:]
    is_finished = any(record.get("status") == "FINISHED" for record in records)
    return [] if is_finished else [r for r in records if "status" not in r]


def _read_run(journal: Journal) -> Any:
    """The MLflow run that a journal will be."""
    from mlflow.entities import Metric, Param, Run, RunData, RunInfo

    params, metrics, status = {}, {}, {"status": "RUNNING", "time": None}
    for record, _ in journal.read(0):
        params.update(record.get("params", {}))
        metrics.update(record.get("metrics", {}))
        status = record if "status" in record else status
    head = journal.head
    info = RunInfo(
        run_id=journal.id,
        experiment_id=head["experiment"],
        user_id="",
        status=status["status"],
        start_time=head["time"],
        end_time=status["time"],
        lifecycle_stage="active",
    )
    metrics = [Metric(k, v, head["time"], 0) for k, v in metrics.items()]
    return Run(info, RunData(metrics, [Param(k, v) for k, v in params.items()]))


def _now() -> int:
    """Milliseconds since 1970, which go on evenly while a process' clock is set."""
    return int((STARTED + time.monotonic()) * 1000)


def _text(value: Any) -> str:
    """A parameter as it is written on the command line."""
    return str(value).lower() if isinstance(value, bool) else str(value)
