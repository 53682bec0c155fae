"""Checkpoints: all that a run needs to go on as if it had never stopped."""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from samkeras.backend import backend
from samkeras.errors import InputError
from samkeras.experiment.options.config import list_changes
from samkeras.model import SAMModel

FORMAT = 1
NUM_KEPT = 2
UNUSABLE = "unusable"

Arrays = dict[str, np.ndarray]


class CheckpointError(RuntimeError):
    """A checkpoint is not one of this run and its model."""


def capture(model: SAMModel) -> dict[str, Any]:
    """Copies of a model's state, on the device: weights, the state of random
    generators, optimizer, metrics, method and masks."""
    arrays: dict[str, Any] = {}
    for name, variables in model.state().items():
        for i, copy in enumerate(backend.copy_values(variables)):
            arrays[f"{name}/{i}"] = copy
    if model.masks is not None:
        for i, mask in model.masks.to_arrays(model.weights).items():
            arrays[f"masks/{i}"] = mask
    return arrays


def check(model: SAMModel, arrays: Arrays, batch: tuple) -> None:
    """Checks that a captured state is one of a compiled model, which stays as it is.

    Args:
        model: the model.
        arrays: what `capture` gave.
        batch: a batch of its training, from which optimizer and metrics are built.

    Raises:
        CheckpointError: it is of another model.
    """
    model.build_for(batch)
    for name, variables in model.state().items():
        check_group(name, variables, arrays)
    for i, weight in enumerate(model.weights):
        mask = arrays.get(f"masks/{i}")
        if mask is not None and mask.shape != tuple(weight.shape):
            raise _misfit("masks")


def check_group(name: str, variables: list[keras.Variable], arrays: Arrays) -> None:
    """Checks that the arrays `name`/0, `name`/1, ... are values of variables.

    Raises:
        CheckpointError: their number, a shape or a dtype is another.
    """
    saved = [key for key in arrays if key.startswith(f"{name}/")]
    if len(saved) != len(variables):
        raise _misfit(name)
    for i, variable in enumerate(variables):
        array = arrays.get(f"{name}/{i}")
        expected = (
            tuple(variable.shape),
            keras.backend.standardize_dtype(variable.dtype),
        )
        if array is None or (array.shape, str(array.dtype)) != expected:
            raise _misfit(name)


def _misfit(name: str) -> CheckpointError:
    return CheckpointError(
        f"was made by another version: its {name} are not those of this model"
    )


def restore(model: SAMModel, arrays: Arrays) -> None:
    """Sets a model to a captured state that was checked."""
    masks = [
        (weight, arrays[f"masks/{i}"])
        for i, weight in enumerate(model.weights)
        if f"masks/{i}" in arrays
    ]
    if masks:
        model.set_masks(masks)
    for name, variables in model.state().items():
        for i, variable in enumerate(variables):
            variable.assign(arrays[f"{name}/{i}"])


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint, sound or not."""
    return bool(_paths(folder))


def _paths(folder: Path) -> list[Path]:
    """A folder's checkpoints, the oldest first."""
    return sorted(folder.glob("checkpoint_*.npz"))


Moment = tuple[int, int]
"""An epoch, counted from 0, and its steps that are done."""


def find_common_place(folders: list[Path]) -> Moment | None:
    """The newest moment that each of some runs, of whose folders these are, can go back
    to, so that they go on as they were, side by side; None if there is none, where one
    of them is far ahead."""
    common = set.intersection(*map(_list_moments, folders))
    return max(common, default=None)


def _list_moments(folder: Path) -> set[Moment]:
    """Those that a run can go back to; its start where no more is lost than that."""
    moments = {_moment_of(path) for path in _paths(folder)}
    return moments | {(0, 0)} if len(moments) < NUM_KEPT else moments


def _moment_of(path: Path) -> Moment:
    _, epoch, step = path.stem.split("_")
    return int(epoch), int(step)


class Checkpoints:
    """A run's checkpoints in its folder, of which the last two are kept.

    Each is one .npz file, whose checksums tell a damaged one. It is written beside and
    then renamed, so that a kill at any moment leaves the one before.

    Args:
        folder: the run's folder.
        fingerprint: the run's, written into each checkpoint.
        warn: told in one line what is wrong with a checkpoint or its writing, or what
            others there are.
        newest: the newest moment to go back to. None (default): the last.
    """

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        warn: Callable[[str], None],
        newest: Moment | None = None,
    ):
        self._folder, self._fingerprint, self._warn = folder, fingerprint, warn
        self._newest = newest
        self._writer = threading.Thread()
        self._error: Exception | None = None

    def save(self, epoch: int, step: int, arrays: dict[str, Any], values: dict) -> None:
        """Writes a checkpoint in the background.

        Args:
            epoch: the epoch to go on with.
            step: its steps that are done.
            arrays: the state, on the device or the host. Not copied: leave it as it is.
            values: what else is to be known, plain values.
        """
        self.wait()
        values = {
            **values,
            "epoch": epoch,
            "step": step,
            "format": FORMAT,
            "fingerprint": self._fingerprint,
            "names": sorted(arrays),
        }
        path = self._folder / f"checkpoint_{epoch:06}_{step:08}.npz"
        self._writer = threading.Thread(target=self._write, args=(path, arrays, values))
        self._writer.start()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk, and warns if it could not be."""
        if self._writer.ident is not None:
            self._writer.join()
        if self._error is not None:
            reason = getattr(self._error, "strerror", None) or self._error
            self._warn(
                f"cannot write a checkpoint to {self._folder}: {reason}; training goes "
                "on, the earlier checkpoint stays"
            )
            self._error = None

    def load(
        self, check: Callable[[Arrays, dict], None]
    ) -> tuple[Arrays, dict[str, Any]] | None:
        """The newest checkpoint that can be used: its arrays and values; None if the
        run has none. Those that cannot be used are told of and set aside.

        Args:
            check: raises CheckpointError for arrays and values that do not fit the run.
        """
        for path in self._folder.glob("checkpoint_*.tmp"):
            path.unlink()  # left by a kill
        problems = []
        for path in reversed(_paths(self._folder)):
            if self._newest is not None and _moment_of(path) > self._newest:
                continue
            try:
                found = self._read(path)
                check(*found)
            except Exception as error:
                problems.append(self._set_aside(path, error))
                continue
            self._tell(problems, "going on from the one before")
            return found
        self._tell(problems, "the run starts anew")
        return None

    def _set_aside(self, path: Path, error: Exception) -> str:
        """Renames a checkpoint that cannot be used, so that it is never taken for the
        newest again. Returns what is to be said of it."""
        aside = path.with_name(f"{UNUSABLE}_{path.name}")
        path.rename(aside)
        # Changed bytes make zipfile, NumPy and JSON raise a dozen kinds.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:80]
        is_misfit = isinstance(error, CheckpointError)
        problem = str(error) if is_misfit else f"is damaged ({reason})"
        return f"{path} {problem} and is set aside as {aside.name}"

    def _tell(self, problems: list[str], rest: str) -> None:
        for problem in problems:
            self._warn(f"{problem}; {rest}")

    def mention_others(self, name: str, values: dict[str, Any]) -> None:
        """Tells of unfinished runs beside a new one that differ from it in their
        configs alone.

        Args:
            name: the run's, which is theirs.
            values: its options, as config.yaml has them.
        """
        if has_checkpoint(self._folder):
            return
        for other in sorted(self._folder.parent.glob(f"{name}_????????")):
            if other == self._folder or not has_checkpoint(other):
                continue
            try:
                changes = list_changes(other / "config.yaml", values)
            except InputError:
                continue  # It says nothing of this run.
            self._warn(
                f"the unfinished run {other} stays as it is: this one is another "
                f"({', '.join(changes) or 'backend, data or version'}) and starts anew"
            )

    def clear(self) -> None:
        """Deletes the run's checkpoints."""
        self.wait()
        for path in (*_paths(self._folder), *self._folder.glob(f"{UNUSABLE}_*.npz")):
            path.unlink(missing_ok=True)

    def _write(self, path: Path, arrays: dict[str, Any], values: dict) -> None:
        temporary = path.with_suffix(".tmp")
        try:
            text = np.frombuffer(json.dumps(values).encode(), "uint8")
            content = {**backend.fetch(arrays), "values": text}
            with open(temporary, "wb") as file:
                np.savez(file, **content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            for old in _paths(self._folder)[:-NUM_KEPT]:
                old.unlink()
        except Exception as error:  # nobody would hear of it in this thread
            self._error = error
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _read(self, path: Path) -> tuple[Arrays, dict[str, Any]]:
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        values = json.loads(arrays.pop("values").tobytes())
        if values["format"] != FORMAT:
            raise CheckpointError(f"is of another format, {values['format']},")
        if values["fingerprint"] != self._fingerprint:
            raise CheckpointError("belongs to another run")
        # Checksums are of the arrays, not of their names.
        if values.get("names", sorted(arrays)) != sorted(arrays):
            raise ValueError("its arrays have other names than when it was saved")
        return arrays, values
