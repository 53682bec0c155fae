"""Checkpoints: all that a run needs to go on as if it had never stopped."""

import json
import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from samkeras.model import SAMModel

FORMAT = 1
NUM_KEPT = 2

Arrays = dict[str, np.ndarray]


class CheckpointError(RuntimeError):
    """There are checkpoints, and none of them can be used."""


def capture(model: SAMModel) -> Arrays:
    """Copies of a model's state on the host: weights, the state of random generators,
    optimizer, metrics and masks."""
    arrays = {}
    for name, variables in _groups(model).items():
        for i, variable in enumerate(variables):
            # A copy, because the backend reuses the memory of its variables.
            arrays[f"{name}/{i}"] = np.array(variable)
    if model.masks is not None:
        for i, mask in model.masks.to_arrays(model.weights).items():
            arrays[f"masks/{i}"] = mask
    return arrays


def restore(model: SAMModel, arrays: Arrays, batch: tuple) -> None:
    """Sets a compiled model to a captured state, but for its metrics: fit resets those
    at the begin of an epoch, see `restore_metrics`.

    Args:
        model: the model.
        arrays: what `capture` gave.
        batch: a batch of its training, from which optimizer and metrics are built.

    Raises:
        CheckpointError: the state is of another model.
    """
    masks = [
        (weight, arrays[f"masks/{i}"])
        for i, weight in enumerate(model.weights)
        if f"masks/{i}" in arrays
    ]
    if masks:
        model.set_masks(masks)
    model._symbolic_build(data_batch=batch)
    for name in ("variables", "optimizer"):
        _assign(name, _groups(model)[name], arrays)


def restore_metrics(model: SAMModel, arrays: Arrays) -> None:
    """Sets a model's metrics to a captured state, within an epoch of fit."""
    _assign("metrics", _groups(model)["metrics"], arrays)


def _groups(model: SAMModel) -> dict[str, list[keras.Variable]]:
    return {
        "variables": model.variables,
        "optimizer": model.optimizer.variables,
        "metrics": model.metrics_variables,
    }


def _assign(name: str, variables: list[keras.Variable], arrays: Arrays) -> None:
    saved = [key for key in arrays if key.startswith(f"{name}/")]
    shapes = [arrays.get(f"{name}/{i}", None) for i in range(len(variables))]
    if len(saved) != len(variables) or any(
        array is None or array.shape != tuple(variable.shape)
        for array, variable in zip(shapes, variables, strict=True)
    ):
        raise CheckpointError(
            f"the checkpoint's {name} are not those of this model: it was made by "
            "another version; --rerun starts afresh"
        )
    for i, variable in enumerate(variables):
        variable.assign(arrays[f"{name}/{i}"])


def has_checkpoint(folder: Path) -> bool:
    """Whether a run's folder holds a checkpoint, sound or not."""
    return bool(_paths(folder))


def _paths(folder: Path) -> list[Path]:
    """A folder's checkpoints, the oldest first."""
    return sorted(folder.glob("checkpoint_*.npz"))


class Checkpoints:
    """A run's checkpoints in its folder, of which the last two are kept.

    Each is one .npz file, whose checksums tell a damaged one. It is written beside and
    then renamed, so that a kill at any moment leaves the one before.

    Args:
        folder: the run's folder.
        fingerprint: the run's, written into each checkpoint.
        warn: told in one line what is wrong with a checkpoint or its writing.
    """

    def __init__(self, folder: Path, fingerprint: str, warn: Callable[[str], None]):
        self._folder, self._fingerprint, self._warn = folder, fingerprint, warn
        self._writer = threading.Thread()
        self._error: OSError | None = None

    def save(self, epoch: int, step: int, arrays: Arrays, values: dict) -> None:
        """Writes a checkpoint in the background.

        Args:
            epoch: the epoch to go on with.
            step: its steps that are done.
            arrays: the state. Not copied: leave it as it is.
            values: what else is to be known, plain values.
        """
        self.wait()
        values = {
            **values,
            "epoch": epoch,
            "step": step,
            "format": FORMAT,
            "fingerprint": self._fingerprint,
        }
        path = self._folder / f"checkpoint_{epoch:06}_{step:08}.npz"
        self._writer = threading.Thread(target=self._write, args=(path, arrays, values))
        self._writer.start()

    def wait(self) -> None:
        """Waits until the last checkpoint is on disk, and warns if it could not be."""
        if self._writer.ident is not None:
            self._writer.join()
        if self._error is not None:
            self._warn(
                f"cannot write a checkpoint to {self._folder}: {self._error.strerror}; "
                "training goes on, the earlier checkpoint stays"
            )
            self._error = None

    def load(self) -> tuple[Arrays, dict[str, Any]] | None:
        """The newest checkpoint that can be used: its arrays and values; None if the
        run has none.

        Raises:
            CheckpointError: there are some, all of them damaged or of another run.
        """
        for path in self._folder.glob("checkpoint_*.tmp"):
            path.unlink()  # left by a kill
        problems = []
        for path in reversed(_paths(self._folder)):
            try:
                arrays, values = self._read(path)
            except CheckpointError as error:
                problems.append(f"{path} {error}")
                continue
            for problem in problems:
                self._warn(f"{problem}; going on from the one before")
            return arrays, values
        if problems:
            raise CheckpointError(
                f"{'; '.join(problems)}; no other checkpoint is left: --rerun starts "
                "afresh"
            )
        return None

    def clear(self) -> None:
        """Deletes the run's checkpoints."""
        self.wait()
        for path in _paths(self._folder):
            path.unlink()

    def _write(self, path: Path, arrays: Arrays, values: dict) -> None:
        temporary = path.with_suffix(".tmp")
        text = np.frombuffer(json.dumps(values).encode(), "uint8")
        try:
            with open(temporary, "wb") as file:
                np.savez(file, **arrays, values=text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            for old in _paths(self._folder)[:-NUM_KEPT]:
                old.unlink()
        except OSError as error:
            temporary.unlink(missing_ok=True)
            self._error = error

    def _read(self, path: Path) -> tuple[Arrays, dict[str, Any]]:
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in file.files}
            values = json.loads(arrays.pop("values").tobytes())
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split())[:80]
            raise CheckpointError(f"is damaged ({reason})") from None
        if values.get("format") != FORMAT:
            raise CheckpointError(f"is of another format, {values.get('format')}")
        if values.get("fingerprint") != self._fingerprint:
            raise CheckpointError("belongs to another run")
        return arrays, values
