"""Pictures of the spectra of Hessians."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samkeras.experiment.options.groups import Config
from samkeras.experiment.studies.drawing import COLOURS, opened

NUM_POINTS = 1000
LEAST = 1e-7  # density that is shown
MAX_STEPS = 5  # of a training that are shown
PANEL_SIZE = (1.9, 1.5)  # inches
SYMBOLS = {
    "lambda_max": r"$\lambda_{max}$",
    "lambda_ratio": r"$\lambda_{max}/\lambda_5$",
}


class Spectrum(NamedTuple):
    """What is drawn of a run, in a panel.

    Attributes:
        row, column: what sets the panel's row and column apart.
        values: float64[point], eigenvalues in ascending order.
        weights: float64[point], the share of eigenvalues that each stands for.
        numbers: what is said of it, of SYMBOLS; lambda_max, where it is not known, is
            the last value.
    """

    row: str
    column: str
    values: np.ndarray
    weights: np.ndarray
    numbers: Mapping[str, float] = {}


def choose_steps(steps: Iterable[int]) -> list[int]:
    """Those that are shown, evenly spaced, the first and the last among them."""
    known = sorted(steps)
    if len(known) <= MAX_STEPS:
        return known
    places = np.linspace(0, len(known) - 1, MAX_STEPS).round().astype(int)
    return [known[place] for place in places]


def name_step(config: Config, step: int) -> str:
    """What a recorded step is called, as "epoch 3": epochs are counted from 1."""
    is_epoch = config.log_step(0, 1) == 0
    return f"epoch {step + 1}" if is_epoch else f"step {step:,}"


def draw_spectra(
    spectra: Sequence[Spectrum],
    paths: Sequence[Path],
    title: str = "",
    notes: str = "",
) -> None:
    """Draws densities, row by row, and below them for each column which share of the
    eigenvalues is larger, all over one range of eigenvalues. (Ghorbani et al. 2019;
    Foret et al. 2021, figure 3.)"""
    # It imports keras, which a command that finds all its runs finished does without.
    from samkeras.analysis.curvature import smooth

    rows = list(dict.fromkeys(each.row for each in spectra))
    columns = list(dict.fromkeys(each.column for each in spectra))
    low = min(each.values[0] for each in spectra)
    high = max(each.values[-1] for each in spectra)
    margin = 0.05 * (high - low) or 1.0
    at = np.linspace(low - margin, high + margin, NUM_POINTS)
    width = (high - low) / 200 or 1.0
    with opened(paths) as canvas:
        shape = (len(rows) + 1, len(columns))
        panel_width, panel_height = PANEL_SIZE
        canvas.set_size_inches(
            panel_width * shape[1] + 0.6, panel_height * shape[0] + 0.6
        )
        grid = canvas.subplots(*shape, sharex=True, sharey="row", squeeze=False)
        for each in spectra:
            row, column = rows.index(each.row), columns.index(each.column)
            colour = COLOURS[row % len(COLOURS)]
            above, below = grid[row, column], grid[-1, column]
            density = smooth(each.values, each.weights, at, width)
            above.semilogy(at, np.maximum(density, LEAST), color=colour)
            above.set_title(", ".join(filter(None, (each.row, each.column))))
            numbers = {"lambda_max": each.values[-1], **each.numbers}
            text = "\n".join(f"{SYMBOLS[n]} {v:.3g}" for n, v in numbers.items())
            place = {"xy": (0.97, 0.95), "xycoords": "axes fraction"}
            above.annotate(text, **place, ha="right", va="top", fontsize=7)
            order = np.argsort(each.values)[::-1]
            shares = np.cumsum(each.weights[order])
            below.step(
                each.values[order], shares, where="post", color=colour, label=each.row
            )
            below.set_yscale("log")
            below.set_xlabel("eigenvalue")
        for axes in grid[:-1, 0]:
            axes.set_ylabel("density")
            axes.set_ylim(bottom=LEAST)
        grid[-1, 0].set_ylabel("share of larger ones")
        if len(rows) > 1:
            grid[-1, -1].legend()
        if title:
            canvas.suptitle(title, fontsize=7, wrap=True)
        if notes:
            canvas.supxlabel(notes, fontsize=5)
