"""Records runs in a journal in each one's folder, and from there in MLflow."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

from samkeras.errors import InputError
from samkeras.experiment.options.values import plain_text
from samkeras.experiment.place import home
from samkeras.experiment.tracking.delivery import Delivery
from samkeras.experiment.tracking.journal import (
    Journal,
    find_journals,
    own_folder,
    path_of,
)
from samkeras.experiment.tracking.mlflow_store import MLflowStore, identify
from samkeras.experiment.tracking.record import RecordedRun, View, now


def default_uri() -> str:
    """The store of those who name none."""
    return f"sqlite:///{home() / 'mlflow' / 'mlflow.db'}"


def resolve_uri(tracking_uri: str | None) -> str:
    """The store that a run's option means, the same wherever one stands: None is
    $MLFLOW_TRACKING_URI, else the SQLite file mlflow/mlflow.db of `home`."""
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or default_uri()
    return identify(uri) if uri.startswith("sqlite:///") else uri


class MLflowTracker:
    """One MLflow experiment, made if it is not there yet; see Tracker.

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
        self._store = MLflowStore(self.uri)
        self._delivery = Delivery(self._store)
        self._finished: dict[str, RecordedRun] = {}  # not delivered yet, by fingerprint
        self._groups: dict[str, str] = {}  # the names of parents' folders, by id
        self._view: View | None = None
        self._ask(self._store.open)
        self._ask(lambda: self._store.find_experiment(experiment))

    def save_view(self, view: View) -> None:
        self._view = view
        self._ask(lambda: self._store.save_view(self._experiment, view))

    @property
    def view_url(self) -> str:
        return self._store.view_url(self._experiment, self._view)

    def page_url(self, run_id: str) -> str | None:
        return self._store.page_url(self._experiment, run_id)

    def find_finished(
        self, fingerprints: Sequence[Sequence[str]]
    ) -> list[RecordedRun | None]:
        known = dict(self._finished)
        for place in range(max(map(len, fingerprints))):
            # The next one of each that is not found yet.
            asked = {
                marks[place]
                for marks in fingerprints
                if place < len(marks) and known.keys().isdisjoint(marks)
            }
            ask = partial(self._store.find_finished, self._experiment, asked)
            known |= self._ask(ask) or {}
        return [
            next((known[mark] for mark in marks if mark in known), None)
            for marks in fingerprints
        ]

    def read_curves(
        self, folder: Path, fingerprints: Sequence[str], names: Iterable[str]
    ) -> dict[str, dict[int, float]]:
        journals = [each for each in find_journals(folder) if each.is_finished]
        if journals:
            return journals[-1].read_curves(names)
        (found,) = self.find_finished([fingerprints])
        if found is None or found.run_id is None:
            return {}
        ask = partial(self._store.read_curves, found.run_id, names)
        return self._ask(ask) or {}

    def gather(self, group: str, runs: Iterable[RecordedRun]) -> None:
        missing = [run.run_id for run in runs if run.run_id and group not in run.tags]
        self._ask(lambda: self._store.tag_runs(missing, group))

    def scatter(self, group: str) -> None:
        self._ask(lambda: self._store.untag_runs(self._experiment, group))

    def deliver_pending(self, run_dir: Path) -> None:
        journals = map(self._delivery.know, find_journals(run_dir))
        for journal in journals:
            if journal.head["store"] != self._store.name:
                continue
            owner = own_folder(journal.path.parent)
            if owner is None:
                continue
            owner.close()
            if journal.count_undelivered():
                self._delivery.add(journal)
                is_ours = journal.head["experiment"] == self._experiment
                run = journal.read_run()
                if is_ours and run.status == "FINISHED":
                    self._finished[journal.head["tags"].get("fingerprint")] = run

    def know(self, folder: Path, id: str) -> None:
        self._groups[id] = folder.name
        # On a machine that has no such file, MLflow knows it.
        if (path := path_of(folder, id)).exists():
            self._delivery.know(Journal(path))

    def start(
        self,
        name: str,
        tags: dict[str, str],
        parent: str | None,
        folder: Path,
        fresh: bool = False,
    ) -> "JournaledRecord":
        folder.mkdir(parents=True, exist_ok=True)
        owner = self._own(folder)
        if parent in self._groups:
            tags = {**tags, self._groups[parent]: "true"}
        place = {"store": self._store.name, "experiment": self._experiment}
        known = find_journals(folder)
        journals = [] if fresh else known
        held = [j for j in journals if place.items() <= j.head.items()]
        if held:
            journal = self._delivery.know(held[-1])
            journal.open(owner)
            journal.append({"status": "RUNNING", "time": now()})
            new = dict(tags.items() - journal.head["tags"].items())
            if new:
                journal.append({"tags": new})
        else:
            # The newest, even if the clock was set back since.
            time_ = max([now(), *(journal.head["time"] + 1 for journal in known)])
            head = {**place, "name": name, "tags": tags, "time": time_}
            head["parent"] = parent
            # A run that goes on in another store brings along what it has recorded.
            records = _unfinished_records(journals[-1]) if journals else []
            journal = self._delivery.know(Journal.create(folder, head, records))
            journal.open(owner)
            if records:
                journal.append({"status": "RUNNING", "time": now()})
        self._delivery.add(journal)
        self._groups[journal.id] = folder.name
        return JournaledRecord(journal)

    @contextmanager
    def amend(self, folder: Path) -> Iterator["JournaledRecord"]:
        place = {"store": self._store.name, "experiment": self._experiment}
        held = [j for j in find_journals(folder) if place.items() <= j.head.items()]
        if not held:
            raise InputError(f"{folder} holds no record of {self._store.name}")
        owner = self._own(folder)
        journal = self._delivery.know(held[-1])
        journal.open(owner)
        try:
            self._delivery.add(journal)
            yield JournaledRecord(journal)
        finally:
            journal.close()

    def close(self) -> None:
        self._delivery.close()

    def _own(self, folder: Path) -> IO:
        """Locks a run's folder.

        Raises:
            InputError: another command has locked it.
        """
        give_up_at = time.monotonic() + self._patience
        while (owner := own_folder(folder)) is None:
            if time.monotonic() > give_up_at:
                raise InputError(f"another command is training the run in {folder}")
            time.sleep(0.05)
        return owner

    def _ask(self, question: Callable[[], Any]) -> Any:
        """The store's answer, or None if it does not answer."""
        if not self._delivery.answers:
            return None
        try:
            return question()
        except Exception as error:
            self._delivery.note(error)
            return None


class JournaledRecord:
    """A run's record, on disk at once and in MLflow soon; see Record."""

    def __init__(self, journal: Journal):
        self.journal = journal
        self._params, self._points = set(), set()
        self.metrics: dict[str, float] = {}
        for record, _ in journal.read(0):
            self._params.update(record.get("params", ()))
            self._points.update((k, record["step"]) for k in record.get("metrics", ()))
            self.metrics.update(record.get("metrics", {}))

    @property
    def id(self) -> str:
        return self.journal.id

    @property
    def folder(self) -> Path:
        return self.journal.path.parent

    @property
    def run_id(self) -> str | None:
        return self.journal.load_state().run_id

    @property
    def last_step(self) -> int:
        return max((step for _, step in self._points), default=-1)

    def log_params(self, params: Mapping[str, Any]) -> None:
        new = {k: plain_text(v) for k, v in params.items() if k not in self._params}
        self._params.update(new)
        self.journal.append({"params": new})

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        new = {k: float(v) for k, v in metrics.items() if (k, step) not in self._points}
        self._points.update((k, step) for k in new)
        self.metrics.update(new)
        self.journal.append({"metrics": new, "step": step, "time": now()})

    def log_file(self, path: Path) -> None:
        name = os.path.relpath(path, self.folder)
        self.journal.append({"file": name})

    def set_tag(self, key: str, value: str) -> None:
        self.journal.append({"tags": {key: value}})

    def end(self, status: str, reason: str | None = None) -> None:
        try:
            self.journal.put_back()
            if reason is not None:
                self.set_tag("failure", reason)
            time_ = max(now(), self.journal.head["time"])  # a clock that was set back
            self.journal.append({"status": status, "time": time_})
        finally:
            self.journal.close()


def _unfinished_records(journal: Journal) -> list[dict[str, Any]]:
    """What a journal holds of a run that is not finished; nothing of another."""
    records = [record for record, _ in journal.read(0)][1:]
    is_finished = any(record.get("status") == "FINISHED" for record in records)
    return [] if is_finished else [r for r in records if "status" not in r]
