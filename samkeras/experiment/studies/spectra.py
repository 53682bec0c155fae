"""Pictures of the spectra of Hessians."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from samkeras.experiment.studies.drawing import COLOURS, opened

NUM_POINTS = 1000
LEAST = 1e-7  # density that is shown


class Spectrum(NamedTuple):
    """What is drawn of a run.

    Attributes:
        title: what sets the run apart.
        values: float64[point], eigenvalues in ascending order.
        weights: float64[point], the share of eigenvalues that each stands for.
    """

    title: str
    values: np.ndarray
    weights: np.ndarray


def draw_spectra(
    spectra: Sequence[Spectrum],
    paths: Sequence[Path],
    title: str = "",
    notes: str = "",
) -> None:
    """Draws densities, and below them which share of the eigenvalues is larger, of all
    runs over one range of eigenvalues. (Ghorbani et al. 2019; Foret et al. 2021,
    figure 3.)"""
    # It imports keras, which a command that finds all its runs finished does without.
    from samkeras.analysis.curvature import smooth

    low = min(each.values[0] for each in spectra)
    high = max(each.values[-1] for each in spectra)
    margin = 0.05 * (high - low) or 1.0
    at = np.linspace(low - margin, high + margin, NUM_POINTS)
    width = (high - low) / 200 or 1.0
    with opened(paths) as canvas:
        canvas.set_size_inches(1.0 + 2.2 * len(spectra), 3.6)
        grid = canvas.subplots(
            2, len(spectra), sharex=True, sharey="row", squeeze=False
        )
        for (above, below), each in zip(grid.T, spectra, strict=True):
            density = smooth(each.values, each.weights, at, width)
            above.semilogy(at, np.maximum(density, LEAST), color=COLOURS[0])
            above.set_title(each.title)
            text = f"$\\lambda_{{max}}$ {each.values[-1]:.3g}"
            above.annotate(text, (0.97, 0.93), xycoords="axes fraction", ha="right")
            order = np.argsort(each.values)[::-1]
            shares = np.cumsum(each.weights[order])
            below.step(each.values[order], shares, where="post", color=COLOURS[1])
            below.set_yscale("log")
            below.set_xlabel("eigenvalue")
        grid[0, 0].set_ylabel("density")
        grid[0, 0].set_ylim(bottom=LEAST)
        grid[1, 0].set_ylabel("share of larger ones")
        if title:
            canvas.suptitle(title, fontsize=7, wrap=True)
        if notes:
            canvas.supxlabel(notes, fontsize=5)
