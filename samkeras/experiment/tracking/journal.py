"""The journal of a run: its records on disk, and how far they are delivered.

A run's folder holds `journal_<id>.jsonl`, a record a line, the first of them saying
what run it is, and `journal_<id>.json`, which says what MLflow has of it. Whoever
trains the run holds a lock on `journal.lock` beside them, whoever delivers it one on
the journal. A process that is killed lets go of both.
"""

import dataclasses
import errno
import fcntl
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from samkeras.errors import InputError
from samkeras.experiment.tracking.record import FolderGoneError, RecordedRun
from samkeras.files import replace_file


@dataclass
class Delivered:
    """What MLflow has of a journal."""

    position: int
    """bytes of the journal that are delivered"""
    run_id: str | None = None
    """the MLflow run, once it is made"""
    files: list[str] = field(default_factory=list)
    """files whose records are delivered, but which are not uploaded yet"""


class Journal:
    """The records of one run, in a file that only grows.

    Attributes:
        head: the first record.
        id: the journal's own, which is also the MLflow run's tag `samkeras.journal`.

    Raises:
        InputError: the file is damaged.
    """

    def __init__(self, path: Path):
        self.path = path
        self.head, self._head_end = next(self.read(0), ({}, 0))
        if "journal" not in self.head:
            raise InputError(f"{path} is damaged; move it away to go on without it")
        self.id = self.head["journal"]
        self._state_path = path.with_suffix(".json")
        self._file: Any = None  # both while the run trains
        self._owner: Any = None

    @classmethod
    def create(
        cls, folder: Path, head: dict[str, Any], records: Iterable[dict[str, Any]]
    ) -> "Journal":
        """Makes the journal of a new run, with its first record and further ones."""
        name = uuid.uuid4().hex
        path = path_of(folder, name)
        lines = map(json.dumps, [{"journal": name, **head}, *records])
        replace_file(path, ("\n".join(lines) + "\n").encode())
        return cls(path)

    def read(self, position: int) -> Iterator[tuple[dict[str, Any], int]]:
        """The whole records from a byte on, each with the byte where it ends."""
        with open(self.path, "rb") as file:
            file.seek(position)
            for line in file:
                if not line.endswith(b"\n"):
                    return  # being written, or left by a kill
                try:
                    record = json.loads(line)
                except ValueError:
                    raise InputError(
                        f"{self.path} is damaged at byte {position}; move it away to "
                        "go on without it"
                    ) from None
                position += len(line)
                yield record, position

    def read_run(self) -> RecordedRun:
        """The run that the records make."""
        run = RecordedRun(started=self.head["time"])
        for record, _ in self.read(0):
            run.params.update(record.get("params", {}))
            run.metrics.update(record.get("metrics", {}))
            if "status" in record:
                run.status, run.ended = record["status"], record["time"]
        return run

    @property
    def is_finished(self) -> bool:
        """Whether the run has ended, and well."""
        return self.read_run().status == "FINISHED"

    def read_curves(self, names: Iterable[str]) -> dict[str, dict[int, float]]:
        """The values of metrics at each step that they were recorded at."""
        curves: dict[str, dict[int, float]] = {name: {} for name in names}
        for record, _ in self.read(0):
            values = record.get("metrics", {})
            for name in curves.keys() & values.keys():
                curves[name][record["step"]] = values[name]
        return curves

    def open(self, owner: IO) -> None:
        """Opens the journal for `append`; `owner` is the lock on its folder."""
        ends = [end for _, end in self.read(0)]
        # Unbuffered: what is written survives the process.
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115
        self._file.truncate(ends[-1])
        self._owner = owner

    @property
    def is_open(self) -> bool:
        return self._file is not None

    @property
    def _is_in_place(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file.fileno()), self.path.stat())
        except OSError:
            return False

    def put_back(self) -> None:
        """Writes an open journal anew if it was removed or moved with its folder, so
        that what is appended is delivered; without the files, which are gone."""
        if self._is_in_place:
            return
        self._file.seek(0)
        lines = self._file.read().splitlines()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # As long as they were, because the count of what is delivered may be left.
        kept = [b"{}".ljust(len(x)) if "file" in json.loads(x) else x for x in lines]
        replace_file(self.path, b"".join(line + b"\n" for line in kept))
        self._file.close()
        self._file = open(self.path, "a+b", buffering=0)  # noqa: SIM115

    def append(self, record: dict[str, Any]) -> None:
        """Records something.

        Raises:
            FolderGoneError: the journal is no longer where it was.
            OSError: it cannot be written, as on a full disk.
        """
        if not self._is_in_place:
            raise FolderGoneError(
                f"{self.path.parent} was removed or moved while the run was training"
            )
        line = json.dumps(record).encode() + b"\n"
        written = self._file.write(line)
        if written < len(line):
            self._file.truncate(self._file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    def close(self) -> None:
        self._file.close()
        self._owner.close()
        self._file = self._owner = None

    def load_state(self) -> Delivered:
        try:
            state = Delivered(**json.loads(self._state_path.read_text()))
        except (FileNotFoundError, ValueError):
            # Delivering twice does no harm.
            return self.nothing_delivered()
        # After a loss of power the journal may be shorter than it was.
        state.position = min(state.position, self.path.stat().st_size)
        return state

    def save_state(self, state: Delivered) -> None:
        text = json.dumps(dataclasses.asdict(state))
        replace_file(self._state_path, text.encode())

    def nothing_delivered(self) -> Delivered:
        return Delivered(position=self._head_end)

    def count_undelivered(self) -> int:
        """Number of records, files included, that MLflow does not have."""
        if not self.path.exists():
            return 0
        state = self.load_state()
        with open(self.path, "rb") as file:
            file.seek(state.position)
            records = sum(line.endswith(b"\n") for line in file)
        return records + len(state.files) + (state.run_id is None)


def path_of(folder: Path, id: str) -> Path:
    """Where a folder holds the journal of an id."""
    return folder / f"journal_{id[:8]}.jsonl"


def find_journals(folder: Path) -> list[Journal]:
    """The journals in a folder and in those directly in it, the oldest first."""
    paths = [*folder.glob("journal_*.jsonl"), *folder.glob("*/journal_*.jsonl")]
    return sorted(map(Journal, paths), key=lambda journal: journal.head["time"])


def own_folder(folder: Path) -> IO | None:
    """Locks a run's folder until the file returned is closed; None: it is taken."""
    lock = open(folder / "journal.lock", "ab")  # noqa: SIM115
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


@contextmanager
def locked(path: Path, wait: bool) -> Iterator[None]:
    """Holds the lock of an existing file, against other processes and threads.

    Raises:
        BlockingIOError: it is taken, and `wait` is False.
    """
    with open(path, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
