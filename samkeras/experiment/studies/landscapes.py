"""Draws the loss around runs' weights: planes side by side, and lines between two."""

import hashlib
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from samkeras.analysis import Line, Plane
from samkeras.errors import InputError
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.measures import VERSION
from samkeras.experiment.runs.landscapes import (
    Track,
    View,
    find_axes,
    look_at,
    loss_at,
    take_line,
    take_plane,
)
from samkeras.experiment.runs.saved import SavedRun, Which
from samkeras.experiment.studies import tables
from samkeras.experiment.studies.drawing import COLOURS, opened, place_below

NUM_LEVELS = 24
MOST_DECADES = 6  # below the highest loss
BEYOND = 3.0  # what is shown of losses above those that trainings start from
PANEL = 2.5  # inches
STAR: dict[str, Any] = {"markersize": 9, "markeredgecolor": "w", "markeredgewidth": 0.5}


class Panel(NamedTuple):
    """A plane, and what is on it."""

    title: str
    plane: Plane
    tracks: Sequence[Track] = ()
    """paths of training"""
    explained: np.ndarray | None = None
    """the shares of them that the directions explain; None: these are random"""


def draw_landscapes(
    runs: Sequence[SavedRun],
    *,
    which: Which = "last",
    examples: int = 1000,
    points: int | None = None,
    seed: int = 0,
    folder: Path | None = None,
) -> list[Path]:
    """Draws planes through the weights of finished runs, side by side: with the same
    levels of the loss and the same axes.

    A plane is the one in which the run went for the most part, if each of the runs has
    kept its trajectory, or else one of random directions, filter by filter as long as
    the weights.

    Args:
        runs: their weights and data are read from their folders.
        which: of which epoch the weights are.
        examples: of training and of validation that the loss is a mean over, at most.
        points: of a plane's longer side. None (default): 51, or 25 with convolutions.
        seed: of random directions.
        folder: of the files. None (default): landscapes/ beside the runs, a folder for
            each choice of them. What is there is not measured again.

    Returns:
        The picture as PNG and SVG, and an .npz of all numbers of each run.

    Raises:
        InputError: there is nothing to measure.
    """
    folder = folder or name_folder(runs, which, examples, points, seed)
    named = zip(runs, name(runs), strict=True)
    views = [look_at(saved, label, which, seed) for saved, label in named]
    if not all(view.tracks for view in views):
        views = [look_at(v.saved, v.name, which, seed, False) for v in views]
    files = [folder / f"{saved.folder.name}.npz" for saved in runs]
    panels = measure(views, examples, files, points)
    pictures = [folder / f"landscape.{kind}" for kind in ("png", "svg")]
    title = f"Training loss around the {which} weights of {runs[0].config.workload}"
    draw_planes(panels, title, pictures)
    return [*pictures, *files]


def draw_interpolation(
    first: SavedRun,
    second: SavedRun,
    *,
    which: Which = "last",
    examples: int = 1000,
    folder: Path | None = None,
) -> list[Path]:
    """Draws loss and metrics on the line from one run's weights to another one's, of
    training and validation; see draw_landscapes.

    Returns:
        The picture as PNG and SVG, and an .npz of all numbers.

    Raises:
        InputError: there is nothing to measure, or their models are of other shapes.
    """
    runs = (first, second)
    folder = folder or name_folder(runs, which, examples, None, 0)
    path = folder / "interpolation.npz"  # whose folder is made with its first numbers
    line = take_line(first, second, which, examples, path)
    pictures = [folder / f"interpolation.{kind}" for kind in ("png", "svg")]
    draw_line(
        line, name(runs), f"Between two runs of {first.config.workload}", pictures
    )
    return [*pictures, path]


def measure(
    views: Sequence[View],
    examples: int,
    files: Sequence[Path],
    points: int | None = None,
) -> list[Panel]:
    """Measures planes at the same coordinates, as far as their files do not have them.

    Args:
        views: the planes.
        examples, points: see draw_landscapes.
        files: an .npz of each.
    """
    tracks = [track for view in views for track in view.tracks]
    axes = find_axes(tracks, points or min(view.points for view in views))
    return [
        Panel(
            view.name,
            take_plane(view, *axes, examples, path),
            view.tracks,
            view.directions.explained,
        )
        for view, path in zip(views, files, strict=True)
    ]


def name(runs: Sequence[SavedRun]) -> list[str]:
    """What sets each of some runs apart, as "SAM rho=0.1"."""
    varied = varied_fields(saved.config for saved in runs)
    if "sam" not in varied:
        return [tables.label(saved.run, varied) for saved in runs]
    others = [field for field in varied if field != "sam"]
    names: list[str] = []
    for saved in runs:
        config, shown = saved.config, []
        if any(field not in config.unused for field in others):
            shown = [tables.label(saved.run, others)]
        names.append(
            " ".join(["SAM" if config.sam else config.optimizer.upper(), *shown])
        )
    return names


def name_folder(
    runs: Sequence[SavedRun],
    which: Which,
    examples: int,
    points: int | None,
    seed: int,
) -> Path:
    """The folder of a landscape's files."""
    records = [saved.record for saved in runs]
    mark = digest(*records, which, examples, points, seed, VERSION)
    first = runs[0]
    return first.folder.parent / "landscapes" / f"{first.config.workload}_{mark}"


def digest(*parts: object) -> str:
    """A short name for some things."""
    text = "\n".join(map(str, parts))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def draw_planes(
    panels: Sequence[Panel], title: str, paths: Sequence[Path], notes: str = ""
) -> None:
    """Draws planes in one row, with the same levels of the training loss and one colour
    bar; with the same axes where they have the same coordinates.

    Args:
        panels: the planes.
        title: of the picture.
        paths: the files that are written.
        notes: what else is said.

    Raises:
        InputError: no loss is finite.
    """
    import matplotlib
    from matplotlib.colors import LogNorm

    losses = [panel.plane.train["loss"] for panel in panels]
    starts = [loss_at(p.plane, t.coordinates[0]) for p in panels for t in p.tracks]
    levels = find_levels(losses, BEYOND * max(starts, default=np.inf))
    norm = LogNorm(levels[0], levels[-1])
    # Equal scales leave margins that are cut off.
    with matplotlib.rc_context({"savefig.bbox": "tight"}), opened(paths) as canvas:
        x, y = panels[0].plane.x, panels[0].plane.y
        height = PANEL * np.ptp(y) / np.ptp(x)
        canvas.set_size_inches(PANEL * len(panels) + 1, 0.85 * height + 1.2)
        is_one = all(
            np.array_equal(x, p.plane.x) and np.array_equal(y, p.plane.y)
            for p in panels
        )
        grid = canvas.subplots(
            1, len(panels), sharex=is_one, sharey=is_one, squeeze=False
        )
        filled: Any = None
        for panel, loss, axes in zip(panels, losses, grid[0], strict=True):
            shown = np.clip(np.where(np.isfinite(loss), loss, np.inf), *levels[[0, -1]])
            place = (panel.plane.x, panel.plane.y, shown)
            filled = axes.contourf(*place, levels=levels, norm=norm, cmap="Greys")
            axes.contour(*place, levels=levels, colors="0.35", linewidths=0.3)
            axes.grid(visible=False)
            _draw_tracks(axes, panel)
            axes.set_title(panel.title, fontsize=7)
            axes.set_aspect("equal")
            axes.set_xlabel(_label_axis(panel, 0))
            axes.set_ylabel(_label_axis(panel, 1))
            place_below(axes, "\n".join(_describe(panel)))
        bar = canvas.colorbar(filled, ax=grid[0], label="training loss", shrink=0.8)
        decades = np.arange(np.ceil(np.log10(levels[0])), np.log10(levels[-1]))
        if len(decades) > 1:
            bar.set_ticks([*10.0**decades])
        else:
            ticks = levels[:: len(levels) // 4]
            bar.set_ticks([*ticks], labels=[f"{tick:.2g}" for tick in ticks])
        bar.ax.minorticks_off()
        if len(panels[0].tracks) > 1:
            grid[0, 0].legend(loc="best", frameon=True)
        canvas.suptitle(title, fontsize=7, wrap=True)
        # Below what stands under the panels, which the layout does not see.
        canvas.text(0.5, -0.02, notes, fontsize=5, ha="center", va="top")


def find_levels(losses: Sequence[np.ndarray], highest: float = np.inf) -> np.ndarray:
    """Levels for all planes, evenly on a log scale: from the least loss that is above
    zero, but at most some decades down, to the greatest one that is not above
    `highest`.

    Raises:
        InputError: there is no such loss.
    """
    values = np.concatenate([np.ravel(loss) for loss in losses])
    values = values[np.isfinite(values) & (values > 0)]
    if not len(values):
        raise InputError("there is no landscape: no loss is a finite number above zero")
    low, high = values.min(), min(values.max(), highest)
    low = max(low, high / 10**MOST_DECADES)
    return np.geomspace(low, max(high, 1.01 * low), NUM_LEVELS)


def _draw_tracks(axes: Any, panel: Panel) -> None:
    """The paths, from a ring to the minima; without paths the plane's origin alone."""
    if not panel.tracks:
        axes.plot(0, 0, "*", color=COLOURS[0], **STAR)
    for place, track in enumerate(panel.tracks):
        colour, (x, y) = COLOURS[place % len(COLOURS)], track.coordinates.T
        axes.plot(x, y, color=colour, marker=".", markersize=2, label=track.name)
        axes.plot(x[0], y[0], "o", color="w", markeredgecolor="k", markersize=5)
        axes.plot(x[-1], y[-1], "*", color=colour, **STAR)


def _label_axis(panel: Panel, place: int) -> str:
    if panel.explained is None:
        return f"random direction {place + 1}"
    share = f"{100 * panel.explained[place]:.3g} %"
    return f"{'distance along ' * (place == 0)}direction {place + 1} ({share})"


def _describe(panel: Panel) -> list[str]:
    """What is to be known of a panel, a line each: units, what does not lie on the
    plane, and the losses at its marks."""
    plane, tracks = panel.plane, panel.tracks
    if not tracks:
        lengths = " and ".join(dict.fromkeys(f"{d:.3g}" for d in plane.lengths))
        loss = loss_at(plane, np.zeros(2))
        return [
            f"a unit is a distance of {lengths}, as long as the weights",
            f"cosine of the directions {plane.cosine:.2g}; loss at the star {loss:.3g}",
        ]
    said = [f"loss at the start {loss_at(plane, tracks[0].coordinates[0]):.3g}"]
    for track in tracks:
        who = f"{track.name}: " if len(tracks) > 1 else ""
        off, share = track.places.distances.max(), 100 * track.places.outside.max()
        loss = loss_at(plane, track.coordinates[-1])
        said += [
            f"{who}loss at the end {loss:.3g}; path up to {off:.2g} off the plane,",
            f"at most {share:.3g} % of a point's distance from the origin",
        ]
    return said


def draw_line(
    line: Line, ends: Sequence[str], title: str, paths: Sequence[Path]
) -> None:
    """Draws loss and metrics on the line between two networks, of training and
    validation.

    Args:
        line: the numbers, the networks at 0 and 1.
        ends: their names.
        title: of the picture.
        paths: the files that are written.
    """
    splits: Mapping[str, Mapping[str, np.ndarray]] = {
        "training": line.train,
        "validation": line.test,
    }
    with opened(paths) as canvas:
        names = list(line.train)
        canvas.set_size_inches(3.4, 1.7 * len(names) + 0.9)
        rows = canvas.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
        for number, axes in zip(names, rows, strict=True):
            for (split, values), colour in zip(splits.items(), COLOURS, strict=False):
                if number in values:
                    style = "-" if split == "training" else "--"
                    axes.plot(line.at, values[number], style, color=colour, label=split)
            axes.set_ylabel(number.replace("_", " "))
            for end in (0, 1):
                axes.axvline(end, color="0.3", linewidth=0.8)
        losses = np.concatenate(
            [values["loss"] for values in splits.values() if values]
        )
        if losses.min() > 0 and losses.max() > 10 * losses.min():
            rows[0].set_yscale("log")
        rows[0].legend()
        top = rows[0].secondary_xaxis("top")
        top.set_xticks((0, 1), [textwrap.fill(end, 24) for end in ends], fontsize=5)
        top.tick_params(length=0)
        rows[-1].set_xlabel(f"place on the line (1 is a distance of {line.length:.3g})")
        canvas.suptitle(title, fontsize=7, wrap=True)
