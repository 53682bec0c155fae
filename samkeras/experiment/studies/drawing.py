"""How a picture looks."""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from samkeras.experiment.studies.bounds import Bound
from samkeras.experiment.studies.picture import EPOCH, Picture
from samkeras.experiment.studies.points import Point
from samkeras.experiment.studies.tables import cell

# Okabe and Ito's, which the colour-blind tell apart; markers do so in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
STYLE: dict[Any, Any] = {
    "figure.figsize": (3.4, 2.6),  # inches: a column of a paper
    "figure.dpi": 300,
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "0.9",
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "svg.hashsalt": "samkeras",  # the same numbers make the same file
}
# What an x is called if not by its name.
X_LABELS = {"num_params": "trainable parameters", "width_mult": "width multiplier"}
LOG_X = ("num_params", "rho", "alpha")
PANEL_SIZE = (2.2, 2.0)  # inches
MAX_COLUMNS = 4
FEW = 20  # points of a line that have markers


def draw(
    picture: Picture,
    points: list[Point],
    bounds: Sequence[Bound],
    summary: Mapping[str, Any],
    paths: Sequence[Path],
) -> None:
    """Draws a picture.

    Args:
        picture: what it is.
        points: of its lines.
        bounds: drawn dashed.
        summary: what is said with it.
        paths: the files that are written.
    """
    with opened(paths) as canvas:
        if picture.panels is not None:
            _draw_panels(canvas, picture, points, bounds, summary)
            return
        axes = canvas.add_subplot()
        if picture.x == "method":
            _draw_rows(canvas, axes, picture, points, summary["monitor"])
        else:
            _draw_lines(axes, picture, points, bounds, summary)
        _place_legend(canvas, axes, picture)
        # A smaller study is not to be taken for the paper's.
        axes.set_title(summary["changes"], fontsize=5, wrap=True)
        _place_notes(axes, summary["notes"])
        canvas.suptitle(summary["title"], fontsize=7, wrap=True)


@contextmanager
def opened(paths: Sequence[Path]) -> Iterator[Any]:
    """A canvas of the house's style, which is saved at its scope's end."""
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(layout="constrained")
        yield canvas
        for path in paths:
            no_date = {"Date": None} if path.suffix == ".svg" else None
            canvas.savefig(path, metadata=no_date)


def _place_legend(canvas: Any, axes: Any, picture: Picture) -> None:
    num_labels = len(axes.get_legend_handles_labels()[0])
    # More would cover the lines; curves are everywhere.
    if num_labels > (2 if picture.x == EPOCH else 4):
        canvas.legend(loc="outside lower center", ncols=2)
    elif num_labels > 1:
        axes.legend()


def _place_notes(axes: Any, notes: Sequence[str]) -> None:
    place_below(axes, textwrap.fill(" ".join(notes), 80))


def place_below(axes: Any, text: str) -> None:
    """Writes below the label of x, as a part of the axes, which the layout keeps free
    of a legend."""
    axes.annotate(
        text,
        xy=(0.5, 0),
        xycoords=axes.xaxis.label,
        xytext=(0, -4),
        textcoords="offset points",
        fontsize=5,
        ha="center",
        va="top",
    )


def _draw_panels(
    canvas: Any,
    picture: Picture,
    points: list[Point],
    bounds: Sequence[Bound],
    summary: Mapping[str, Any],
) -> None:
    """A panel for each value of an option, of one scale, with one legend."""
    names = list(dict.fromkeys(point.panel for point in points))
    columns = min(len(names), MAX_COLUMNS)
    rows = math.ceil(len(names) / columns)
    width, height = PANEL_SIZE
    canvas.set_size_inches(width * columns + 0.6, height * rows + 0.9)
    grid = canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    lines = list(dict.fromkeys(point.line for point in points))
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for name, axes in zip(names, grid.flat, strict=False):
        own = [point for point in points if point.panel == name]
        theory = [bound for bound in bounds if bound.panel == name]
        _draw_lines(axes, picture, own, theory, summary, lines)
        axes.set_title(name, fontsize=7)
        axes.label_outer()
    labels: dict[str, Any] = {}
    for axes in canvas.axes:
        handles, texts = axes.get_legend_handles_labels()
        labels |= dict(zip(texts, handles, strict=True))
    if len(labels) > 1:
        canvas.legend(labels.values(), labels, loc="outside right center")
    title = " ".join(filter(None, (summary["title"], summary["changes"])))
    canvas.suptitle(title, fontsize=7, wrap=True)
    notes = textwrap.fill(" ".join(summary["notes"]), 60 * columns)
    canvas.supxlabel(notes, fontsize=5)


def _draw_rows(
    canvas: Any, axes: Any, picture: Picture, points: list[Point], monitor: str
) -> None:
    """A row a method: its gains with their standard errors, and its best rho."""
    rows = list(dict.fromkeys(point.x for point in points))
    lines = list(dict.fromkeys(point.line for point in points))
    canvas.set_size_inches(4.8, 1.4 + 0.22 * len(rows))
    for i, line in enumerate(lines):
        known = [p for p in points if p.line == line and p.y is not None]
        axes.errorbar(
            [p.y.mean for p in known if p.y],
            [rows.index(p.x) + 0.5 * ((i + 0.5) / len(lines) - 0.5) for p in known],
            xerr=[p.y.error or 0.0 for p in known if p.y],
            color=COLOURS[i % len(COLOURS)],
            marker=MARKERS[i % len(MARKERS)],
            linestyle="",
            elinewidth=0.8,
            label=line,
        )
    axes.axvline(0, color="0.3", linewidth=0.8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel(_label_y(picture.y, monitor))
    right = axes.secondary_yaxis("right")
    best = [[cell(p.rho) for p in points if p.x == row and p.rho] for row in rows]
    right.set_yticks(range(len(rows)), [", ".join(rhos) for rhos in best], fontsize=6)
    right.set_ylabel("best rho of each size")
    right.tick_params(length=0)


def _draw_lines(
    axes: Any,
    picture: Picture,
    points: list[Point],
    bounds: Sequence[Bound],
    summary: Mapping[str, Any],
    lines: Sequence[str] = (),
) -> None:
    """The lines of one panel, in the colours that they have among `lines`."""
    from matplotlib.ticker import (
        EngFormatter,
        LogFormatterSciNotation,
        MaxNLocator,
        NullLocator,
    )

    if picture.x in LOG_X:
        axes.set_xscale("log")
        # Within less than a decade it would write a label at each ninth.
        few = LogFormatterSciNotation(minor_thresholds=(1, 0.1))
        axes.xaxis.set_minor_formatter(few)
    if picture.x == "rho":
        axes.xaxis.set_minor_locator(NullLocator())
        rhos = sorted({point.x for point in points})
        axes.set_xticks(rhos, [cell(rho) for rho in rhos])
    if picture.x == EPOCH:
        axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k: of any many steps
    if picture.log_y:
        axes.set_yscale("log")
    labels = {**X_LABELS, EPOCH: summary["unit"]}
    axes.set_xlabel(labels.get(picture.x, spell(picture.x)))
    axes.set_ylabel(_label_y(picture.y, summary["monitor"]))
    lines = lines or list(dict.fromkeys(point.line for point in points))
    for i, line in enumerate(lines):
        own = [p for p in points if p.line == line]
        if own:
            marker = MARKERS[i % len(MARKERS)] if len(own) <= FEW else ""
            colour = COLOURS[i % len(COLOURS)]
            _draw_line(
                axes, own, picture.log_y, color=colour, marker=marker, label=line
            )
    for bound in dict.fromkeys(bound[1:] for bound in bounds):
        name, value = bound
        axes.axhline(value, color="0.3", linestyle="--", linewidth=0.8, label=name)
    if picture.paper is not None:
        curve = (picture.paper["x"], picture.paper["y"])
        axes.plot(*curve, color="0.45", linestyle="--", marker=".", label="paper")
    if picture.y == "gain":
        axes.axhline(0, color="0.3", linewidth=0.8)
    missing = sorted({p.x for p in points if p.unfinished})
    if missing and picture.x != EPOCH:  # of which the notes tell
        # In units of the data: matplotlib rounds x where only y is in the axes'.
        axes.plot(
            missing,
            [axes.get_ylim()[0]] * len(missing),
            linestyle="",
            marker="x",
            color="#A00000",
            label="runs failed or missing",
        )


def _label_y(y: str, monitor: str) -> str:
    metric = spell(monitor.removeprefix("val_"))
    labels = {"gain": f"gain of SAM in {metric}", "metric": metric}
    return labels.get(y, spell(y))


def spell(name: str) -> str:
    """A number's name in words, as "validation loss"."""
    words = name.split("_")
    return " ".join("validation" if word == "val" else word for word in words)


def _draw_line(
    axes: Any, points: list[Point], is_log: bool, color: str, **style: str
) -> None:
    """The means, their standard error as a band, and rings around the best rho."""
    known = [(p.x, p.y, p.is_best) for p in points if p.y is not None]
    x, y = [x for x, _, _ in known], [y.mean for _, y, _ in known]
    error = [y.error or 0.0 for _, y, _ in known]
    axes.plot(x, y, color=color, **style)
    if any(error):
        ends = [
            (mean * math.exp(-e / mean), mean * math.exp(e / mean))
            if is_log
            else (mean - e, mean + e)
            for mean, e in zip(y, error, strict=True)
        ]
        low, high = zip(*ends, strict=True)
        axes.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)
    axes.plot(
        [x for x, _, is_best in known if is_best],
        [y.mean for _, y, is_best in known if is_best],
        linestyle="",
        marker="o",
        markersize=8,
        fillstyle="none",
        color=color,
    )
