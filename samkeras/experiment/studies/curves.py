"""What pictures show of runs beside numbers: what is recorded over their epochs, and
what measures have written."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from samkeras.experiment.options.fingerprint import Marks
from samkeras.experiment.options.groups import Config, Epochs, Measuring
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
# What is said of a spectrum, where runs have it of the same epoch.
OF_SPECTRA = ("lambda_max", "lambda_ratio")


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
    names += OF_SPECTRA if SPECTRUM in measures else ()

    def complete(run: Run, mark: Marks, result: Result) -> Result:
        if result.failure is not None:
            return result
        folder, _ = run.find_folder(run_dir, mark)
        curves: dict[str, Any] = {}
        if names:
            curves.update(tracker.read_curves(folder, mark, names))
        if FUNCTION in measures:
            curves[FUNCTION] = _read_function(folder, run.config)
        if SPECTRUM in measures:
            curves[SPECTRUM] = _read_spectra(folder, run.config)
        return dataclasses.replace(result, curves=curves)

    return list(map(complete, runs, marks, results))


def find_files(folder: Path, config: Config, measure: str) -> dict[int, Path]:
    """The files that a measure has written of a run, by the epoch, or the steps, that
    its metrics of the same weights are recorded at: of its last weights alone, or along
    its training."""
    options = Measuring.of(config)
    if options.measure_every is None:
        name = f"{measure}_last_{options.measure_examples}"
        numbers = {config.total_epochs: folder / "measures" / f"{name}.npz"}
    else:
        found = sorted((folder / "measures").glob(f"{measure}_epoch_*.npz"))
        numbers = {int(path.stem.rpartition("_")[2]): path for path in found}
    per_round = Epochs.of(config).steps_a_round or 1
    return {
        config.log_step(number - 1, per_round): path
        for number, path in numbers.items()
        if path.is_file()
    }


def _read_function(folder: Path, config: Config) -> dict[float, float]:
    """What a run's last model computes of each input."""
    files = [*find_files(folder, config, FUNCTION).values()]
    if not files:
        return {}
    x, y = _read(files[-1], FUNCTION)
    return dict(zip(x.tolist(), y.tolist(), strict=True))


def _read_spectra(folder: Path, config: Config) -> dict[tuple[int, float], float]:
    """The weights of eigenvalues, each at the step of its spectrum."""
    curve: dict[tuple[int, float], float] = {}
    for step, path in find_files(folder, config, SPECTRUM).items():
        values, weights = _read(path, SPECTRUM)
        for value, weight in zip(values.tolist(), weights.tolist(), strict=True):
            at = (step, value)  # eigenvalues may be equal
            curve[at] = curve.get(at, 0.0) + weight
    return curve


def _read(path: Path, measure: str) -> list[np.ndarray]:
    with np.load(path) as arrays:
        return [arrays[name] for name in ARRAYS[measure]]
