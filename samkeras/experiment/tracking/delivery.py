"""When journals are delivered: from a thread of their own, as long as it takes."""

import random
import threading
import time
from pathlib import Path

from samkeras.experiment.place import complain
from samkeras.experiment.tracking.journal import Delivered, Journal, locked
from samkeras.experiment.tracking.mlflow_store import (
    MLflowStore,
    causes,
    explain,
    is_unanswered,
)

DELIVER_EVERY_SEC = 1.0
MAX_PAUSE_SEC = 30.0
PATIENCE_SEC = 10.0
SERVER_GRACE_SEC = 2.0
SQLITE_GRACE_SEC = 60.0  # other processes go first, and our turn comes


class Delivery:
    """Delivers journals to one store, and tries again whatever fails.

    Args:
        store: the store.

    Attributes:
        answers: whether the store answered when it was last asked.
    """

    def __init__(self, store: MLflowStore):
        self.answers, self._silence_is_known = True, False
        self._store = store
        self._journals: list[Journal] = []  # to deliver, parents before children
        self._known: dict[str, Journal] = {}
        self._lock = threading.Lock()
        self._warned: set[str] = set()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def note(self, error: Exception) -> None:
        """Takes note of a store that does not answer, saying so once.

        Raises:
            InputError: the error is one that waiting does not cure.
        """
        if not is_unanswered(error):
            raise explain(error, self._store.name) from None
        self.answers = False
        self._warn_of_silence(error)

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
        grace = SERVER_GRACE_SEC if self._store.is_server else SQLITE_GRACE_SEC
        while self._thread.is_alive():
            if time.monotonic() > self._give_up_at + grace:
                break
            self._thread.join(0.1)
        left = sum(journal.count_undelivered() for journal in self._journals)
        if left:
            self._warn(
                f"{left} records are not delivered to {self._store.name} yet; the next "
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
                self._store.forget(journal)
                # The next time the others go first.
                with self._lock:
                    self._journals.remove(journal)
                    self._journals.append(journal)
                if is_unanswered(error):
                    # Once may be a server that is started again.
                    if not self.answers:
                        self._warn_of_silence(error)
                    self.answers = False
                    break
                if journal.path.exists():  # else its run says that it is gone
                    reason = explain(error, self._store.name)
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
                if not self._store.holds(journal, state):
                    parent = self._known.get(journal.head["parent"])
                    parent_id = parent and parent.load_state().run_id
                    if parent is not None and parent_id is None:
                        return False
                    self._store.make_run(journal, state, parent_id)
                    self._progress()
                while self._store.send_records(journal, state):
                    self._progress()
                self._send_files(journal, state)
                return True
        except BlockingIOError:
            return False  # Another command delivers it.

    def _send_files(self, journal: Journal, state: Delivered) -> None:
        for name in list(state.files):
            path = journal.path.parent / name
            if path.exists():
                # A figure's, beside the run's folder, have folders of their own there.
                parts = [part for part in Path(name).parent.parts if part != ".."]
                self._store.send_file(path, "/".join(parts), state)
            else:
                self._warn(f"{path} is gone and cannot be recorded in MLflow")
            state.files.remove(name)
            journal.save_state(state)
            self._progress()

    def _progress(self) -> None:
        self.answers, self._silence_is_known = True, False
        self._give_up_at = time.monotonic() + PATIENCE_SEC

    def _warn_of_silence(self, error: Exception) -> None:
        if not self._silence_is_known:
            self._silence_is_known = True
            *_, cause = causes(error)
            self._warn(
                f"the MLflow server {self._store.name} does not answer ({cause}); "
                "training goes on, and its records are kept in the runs' folders until "
                "it does"
            )

    def _warn(self, line: str) -> None:
        if line not in self._warned:
            self._warned.add(line)
            complain(line)
