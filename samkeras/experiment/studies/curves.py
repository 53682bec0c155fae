"""What pictures show of runs beside numbers: what is recorded over their epochs, and
what measures have written."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.experiment.options.fingerprint import Marks
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.picture import (
    EPOCH,
    FUNCTION,
    MEASURED,
    SPECTRUM,
    Picture,
)
from samkeras.experiment.tracking.record import Tracker

# The arrays of measures, those that are drawn over and those that are drawn.
ARRAYS = {FUNCTION: ("x", "y"), SPECTRUM: ("values", "weights")}


def with_curves(
    tracker: Tracker,
    run_dir: str,
    runs: Sequence[Run],
    marks: Sequence[Marks],
    results: Sequence[Result],
    pictures: Sequence[Picture],
) -> list[Result]:
    """The results of runs, with the curves that pictures show of them.

    Args:
        tracker: knows what is recorded.
        run_dir: of the runs' folders.
        runs: all of them.
        marks: of each.
        results: of each.
        pictures: that are drawn of them.
    """
    names = [picture.y for picture in pictures if picture.x == EPOCH]
    measures = {p.y for p in pictures if p.x in MEASURED}

    def complete(run: Run, mark: Marks, result: Result) -> Result:
        if result.failure is not None:
            return result
        folder, _ = run.find_folder(run_dir, mark)
        curves: dict[str, Any] = {}
        if names:
            curves.update(tracker.read_curves(folder, mark, names))
        for measure in measures:
            curves[measure] = _read_measure(folder, measure)
        return dataclasses.replace(result, curves=curves)

    return list(map(complete, runs, marks, results))


def _read_measure(folder: Path, measure: str) -> dict[float, float]:
    """What a measure has written of a run's last weights."""
    files = sorted((folder / "measures").glob(f"{measure}_*.npz"))
    if not files:
        return {}
    # Of the end of the training, or of its last epoch: "last" comes after "epoch".
    with np.load(files[-1]) as arrays:
        x, y = (arrays[name].tolist() for name in ARRAYS[measure])
    curve: dict[float, float] = {}
    for at, value in zip(x, y, strict=True):  # eigenvalues may be equal
        curve[at] = curve.get(at, 0.0) + value
    return curve
