"""What pictures show of runs beside numbers: what is recorded over their epochs, and
the functions that their models come to."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.experiment.options.fingerprint import Marks
from samkeras.experiment.runs.result import Result
from samkeras.experiment.runs.run import Run
from samkeras.experiment.studies.picture import EPOCH, FUNCTION, INPUT, Picture
from samkeras.experiment.tracking.record import Tracker


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
    has_functions = any(picture.x == INPUT for picture in pictures)

    def complete(run: Run, mark: Marks, result: Result) -> Result:
        if result.failure is not None:
            return result
        folder, _ = run.find_folder(run_dir, mark)
        curves: dict[str, Any] = {}
        if names:
            curves.update(tracker.read_curves(folder, mark, names))
        if has_functions:
            curves[FUNCTION] = _read_function(folder)
        return dataclasses.replace(result, curves=curves)

    return list(map(complete, runs, marks, results))


def _read_function(folder: Path) -> dict[float, float]:
    """What the measure "function" has written of a run."""
    files = sorted((folder / "measures").glob(f"{FUNCTION}_*.npz"))
    if not files:
        return {}
    with np.load(files[-1]) as arrays:
        return dict(zip(arrays["x"].tolist(), arrays["y"].tolist(), strict=True))
