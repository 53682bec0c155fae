"""Pictures of what measures have written: the functions that models of one number come
to, and the spectra of Hessians, in a panel for each option and optimizer, and of
spectra for each epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.experiment.options.groups import Config, Measuring
from samkeras.experiment.runs.result import Result
from samkeras.experiment.studies.comparison import (
    Comparison,
    Estimate,
    estimate,
    find_rule,
    rho_of,
)
from samkeras.experiment.studies.curves import OF_SPECTRA
from samkeras.experiment.studies.drawing import COLOURS, opened, spell
from samkeras.experiment.studies.picture import SPECTRUM, Picture
from samkeras.experiment.studies.points import (
    Point,
    find_varied_rules,
    name_line,
    name_panel,
)
from samkeras.experiment.studies.spectra import Spectrum, choose_steps, name_step

# What is said of the functions of a panel, where their runs have it.
NUMBERS = ("slope_variation", "lambda_max", "lambda_ratio", "val_loss")
PANEL_SIZE = (1.8, 1.5)  # inches


class Panel(NamedTuple):
    """The functions of one panel."""

    row: str
    column: str
    runs: dict[int, Result]
    """that are finished, by seed"""
    rho: float | None
    unfinished: int


def find_panels(picture: Picture, comparisons: Sequence[Comparison]) -> list[Panel]:
    """The panels of a picture, row by row: the base optimizer, then SAM."""
    rules = find_varied_rules(comparisons)
    panels: list[Panel] = []
    for c in comparisons:
        column = name_panel(picture, {**vars(c.config), **c.fields})
        for rule, runs in c.runs.items():
            row = name_line(rule, {}, rules, c.config)
            rho = None if rule is None else rho_of(rule)
            failed = sum(find_rule(result.config) == rule for result in c.unfinished)
            panels.append(Panel(row, column, runs, rho, failed))
    rows = list(dict.fromkeys(panel.row for panel in panels))
    return sorted(panels, key=lambda panel: rows.index(panel.row))


def list_points(picture: Picture, panels: Sequence[Panel]) -> list[Point]:
    """The functions' values, or the spectra's, of each seed alone."""
    points: list[Point] = []
    for panel in panels:
        counts = (panel.rho, None, panel.unfinished)
        for seed, result in panel.runs.items():
            for at, y in result.curves.get(picture.y, {}).items():
                line, x = f"{panel.row}, seed {seed}", at
                if picture.y == SPECTRUM:
                    step, x = at
                    line += f", {name_step(result.config, step)}"
                points.append(
                    Point(line, x, Estimate(y, None, 1), *counts, panel.column)
                )
    return points


def describe_panel(panel: Panel) -> str:
    """The means over seeds of what runs have of NUMBERS."""
    said: list[str] = []
    for name in NUMBERS:
        values = (result.number(name) for result in panel.runs.values())
        mean = estimate(value for value in values if value is not None)
        if mean is not None:
            digits = ",.0f" if abs(mean.mean) >= 1000 else ".3g"
            said.append(f"{spell(name)} {mean.mean:{digits}}")
    return ", ".join(said)


def draw_functions(
    panels: Sequence[Panel],
    points: Sequence[Point],
    examples: tuple[np.ndarray, np.ndarray],
    summary: Mapping[str, Any],
    paths: Sequence[Path],
) -> None:
    """Draws the panels on one scale.

    Args:
        panels: of `find_panels`.
        points: of `list_points`.
        examples: x and y of what the models are trained on.
        summary: what is said with it.
        paths: the files that are written.
    """
    rows = list(dict.fromkeys(panel.row for panel in panels))
    columns = list(dict.fromkeys(panel.column for panel in panels))
    with opened(paths) as canvas:
        width, height = PANEL_SIZE
        canvas.set_size_inches(width * len(columns) + 0.4, height * len(rows) + 0.8)
        grid = canvas.subplots(
            len(rows), len(columns), sharex=True, sharey=True, squeeze=False
        )
        for panel in panels:
            axes = grid[rows.index(panel.row), columns.index(panel.column)]
            for i, seed in enumerate(panel.runs):
                line = (f"{panel.row}, seed {seed}", panel.column)
                own = [p for p in points if (p.line, p.panel) == line]
                y = [p.y.mean for p in own if p.y is not None]
                colour = COLOURS[i % len(COLOURS)]
                axes.plot([p.x for p in own], y, color=colour, linewidth=0.9)
            axes.plot(*map(np.ravel, examples), "o", color="black", markersize=2)
            title = ", ".join(filter(None, (panel.row, panel.column)))
            axes.set_title(title, fontsize=7)
            axes.set_xlabel(describe_panel(panel).replace(", ", "\n"), fontsize=5)
            axes.tick_params(labelsize=6)
        title = " ".join(filter(None, (summary["title"], summary["changes"])))
        canvas.suptitle(title, fontsize=7, wrap=True)
        canvas.supxlabel(" ".join(summary["notes"]), fontsize=5)


def list_spectra(picture: Picture, panels: Sequence[Panel]) -> list[Spectrum]:
    """The spectra of each panel's first seed, at each epoch that is shown, with the
    means of what is known of all of its runs there."""
    spectra: list[Spectrum] = []
    for panel in panels:
        first = next((r for r in panel.runs.values() if r.curves.get(picture.y)), None)
        if first is None:
            continue
        by_step: dict[int, list[tuple[float, float]]] = {}
        for (step, value), weight in first.curves[picture.y].items():
            by_step.setdefault(step, []).append((value, weight))
        for step in choose_steps(by_step):
            values, weights = np.array(sorted(by_step[step])).T
            at = name_step(first.config, step) if len(by_step) > 1 else ""
            column = ", ".join(filter(None, (panel.column, at)))
            numbers = _find_numbers(panel, step)
            spectra.append(Spectrum(panel.row, column, values, weights, numbers))
    return spectra


def _find_numbers(panel: Panel, step: int) -> dict[str, float]:
    """The means over a panel's runs of what is said of their spectra at a step."""
    numbers: dict[str, float] = {}
    for name in OF_SPECTRA:
        values = (
            result.curves.get(name, {}).get(step)
            if Measuring.of(result.config).measure_every
            else result.number(name)
            for result in panel.runs.values()
        )
        mean = estimate(value for value in values if value is not None)
        if mean is not None:
            numbers[name] = mean.mean
    return numbers


def read_examples(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """x and y of what a run is trained on."""
    train = config.target.load().task.load(config).train
    return train.x, train.y
