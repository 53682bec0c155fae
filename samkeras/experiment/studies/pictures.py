"""Draws a figure of the paper from its runs."""

import csv
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import keras

from samkeras.experiment.options.config import (
    plain_values,
    result_fields,
    varied_fields,
)
from samkeras.experiment.runs.run import Result
from samkeras.experiment.studies.comparison import (
    RULE_FIELDS,
    Comparison,
    Estimate,
    compare,
    correlate_gains,
    estimate,
    rule_of,
)
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.studies.tables import cell

# Okabe and Ito's, which the colour-blind tell apart; markers do so in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
STYLE = {
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
# What each x is called, and the options that it stands for.
X_LABELS = {
    "num_params": "trainable parameters",
    "width_mult": "width multiplier",
    "depth": "depth",
    "sparsity": "sparsity",
    "rho": "rho",
    "label_noise": "label noise",
    "weight_decay": "weight decay",
}
X_FIELDS = {
    "num_params": ("width_mult", "depth"),
    "sparsity": ("sparsity", "match_width"),
}
LOG_X = ("num_params", "rho")


class Point(NamedTuple):
    """A point of a figure."""

    line: str
    x: float
    y: Estimate | None
    """None if its runs failed or are missing"""
    rho: float | None
    """SAM's, where it takes part"""
    is_best: bool | None
    """where x is rho: whether it is the best one"""
    unfinished: int
    """runs of the point that failed or are missing"""


def draw_figure(figure: Figure, results: Sequence[Result], run_dir: Path) -> list[Path]:
    """Draws a figure and writes every number of it.

    Args:
        figure: what to draw.
        results: all its runs, those that failed or are missing with a failure.
        run_dir: of the runs; the files go to figures/<name>/ in it.

    Returns:
        The picture as PNG and SVG, its points and the runs as CSV, and a summary.
    """
    folder = run_dir / "figures" / figure.name
    folder.mkdir(parents=True, exist_ok=True)
    workload = results[0].config.target.load()
    comparisons = compare(results, workload.mode)
    points = find_points(figure, results, comparisons)
    names = [f"{figure.name}.{kind}" for kind in ("png", "svg", "csv")]
    names += ["runs.csv", "summary.json"]
    # In place together: what is interrupted leaves the files that were there.
    with tempfile.TemporaryDirectory(dir=folder) as new:
        paths = [Path(new) / name for name in names]
        _draw(figure, points, workload.monitor, paths[:2])
        _write_points(figure, points, paths[2])
        _write_runs(results, paths[3])
        summary = summarize(figure, results, comparisons)
        paths[4].write_text(json.dumps(summary, indent=1))
        return [path.rename(folder / path.name) for path in paths]


def find_points(
    figure: Figure, results: Sequence[Result], comparisons: Sequence[Comparison]
) -> list[Point]:
    """The points of a figure, line by line."""
    varied = varied_fields(result.config for result in results)
    x_fields = X_FIELDS.get(figure.x, (figure.x,))
    points, bases = [], []
    for c in comparisons:
        options = {
            name: _describe(name, value)
            for name, value in c.fields.items()
            if name in varied and name not in x_fields
        }
        label = ", ".join(options.values())
        unfinished = len(c.unfinished)

        def add(line, y, rho, x=None, is_best=None, c=c, unfinished=unfinished):
            x = _find_x(figure.x, c, results[0]) if x is None else x
            points.append(Point(line, x, y, rho, is_best, unfinished))

        sam = _estimate(c.sam.values(), figure.value)
        base = _estimate(c.base.values(), figure.value)
        if figure.y == "gain":
            add(label or "SAM - base", estimate(c.gains(figure.value)), c.rho)
        elif figure.y == "best_rho":
            known = c.rho is not None
            add(
                label or "SAM",
                Estimate(c.rho, None, len(c.sam)) if known else None,
                c.rho,
            )
        elif figure.x == "rho":
            failed = [rule_of(r.config) for r in c.unfinished if r.config.sam]
            for rule in dict.fromkeys([*c.by_rule, *failed]):
                rho = rule[RULE_FIELDS.index("rho")]
                y = _estimate(c.by_rule.get(rule, {}).values(), figure.value)
                add(
                    label or "SAM",
                    y,
                    rho,
                    x=rho,
                    is_best=rule == c.rule,
                    unfinished=failed.count(rule),
                )
        else:
            if sam or not base:
                add(f"SAM, {label}" if label else "SAM", sam, c.rho)
            if base and c.base not in bases:
                bases.append(c.base)
                options.pop("method", None)
                optimizer = results[0].config.optimizer.upper()
                add(", ".join((optimizer, *options.values())), base, None)
    if figure.x == "sparsity":
        points = _share_dense(points)
    lines = list(dict.fromkeys(point.line for point in points))
    return sorted(points, key=lambda point: (lines.index(point.line), point.x))


def _share_dense(points: list[Point]) -> list[Point]:
    """Makes the dense model, which no pruner made, the first point of each pruner's
    line."""
    lines = dict.fromkeys(point.line for point in points if point.x > 0)
    shared = []
    for point in points:
        is_own = point.line in lines or not lines
        shared += [point] if is_own else [point._replace(line=n) for n in lines]
    return shared


def _find_x(x: str, comparison: Comparison, result: Result) -> float:
    if x in ("num_params", "sparsity"):
        return getattr(comparison, x)
    # An option that does not vary is the same in any result.
    return comparison.fields.get(x, getattr(result.config, x))


def describe_changes(figure: Figure) -> str:
    """The options that were given in the place of the file's, as they were."""
    return " ".join(f"--{name} {value}" for name, value in figure.changes.items())


def _estimate(results: Iterable[Result], value: str) -> Estimate | None:
    return estimate(getattr(result, value) for result in results)


def _describe(field: str, value: object) -> str:
    """A line's option, as "label noise 0.5", and a multiplier's with a sign of that."""
    name = field.replace("_mult", " \N{MULTIPLICATION SIGN}").replace("_", " ")
    return f"{name} {cell(value)}"


def summarize(
    figure: Figure, results: Sequence[Result], comparisons: Sequence[Comparison]
) -> dict:
    """What a report says of a figure beside its numbers."""
    backend = keras.backend.backend()
    varied = varied_fields(result.config for result in results)
    common = {
        name: value
        for name, value in plain_values(results[0].config).items()
        if name not in varied
    }
    correlation = None
    if figure.y == "gain" and figure.x == "num_params":
        others = [
            tuple(v for n, v in c.fields.items() if n not in X_FIELDS["num_params"])
            for c in comparisons
        ]
        if len(set(others)) == 1:
            correlation = correlate_gains(comparisons, figure.value)
    packages = ("keras", backend, "samkeras")
    versions = {"python": platform.python_version()}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # samkeras, run from its source
    devices = keras.distribution.list_devices()
    done = [result for result in results if result.failure is None]
    return {
        "name": figure.name,
        "title": figure.title,
        "changes": describe_changes(figure),
        "workload": figure.workload,
        "monitor": results[0].config.target.load().monitor,
        "drawn_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "runs": len(results),
        "finished": len(done),
        "failures": sorted({r.failure for r in results if r.failure}),
        "training_seconds": sum(result.seconds for result in done),
        "correlation": correlation and correlation._asdict(),
        "varied": varied,
        "config": common,
        "backend": backend,
        "versions": versions,
        "machine": {
            "system": platform.platform(),
            "cpu": f"{platform.machine()}, {os.cpu_count()} cores",
            "devices": [str(device) for device in devices],
        },
    }


def _write_points(figure: Figure, points: Iterable[Point], path: Path) -> None:
    columns = ("standard_error", "seeds", "rho", "is_best_rho", "unfinished_runs")
    rows = [
        (p.line, p.x, *(p.y or ("", "", 0)), p.rho, p.is_best, p.unfinished)
        for p in points
    ]
    _write_csv(path, ("line", figure.x, figure.y, *columns), rows)


def _write_runs(results: Sequence[Result], path: Path) -> None:
    varied = varied_fields(result.config for result in results)
    columns = ("num_params", "num_nonzero", "best", "final", "seconds", "failure")
    rows = [
        (
            *(result_fields(result.config)[name] for name in varied),
            *(getattr(result, name) for name in columns),
        )
        for result in results
    ]
    _write_csv(path, (*varied, *columns), rows)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _draw(
    figure: Figure, points: list[Point], monitor: str, paths: Sequence[Path]
) -> None:
    import matplotlib
    from matplotlib.figure import Figure as Canvas
    from matplotlib.ticker import LogFormatterSciNotation, NullLocator

    metric = monitor.removeprefix("val_").replace("_", " ")
    with matplotlib.rc_context(STYLE):
        canvas = Canvas(layout="constrained")
        axes = canvas.add_subplot()
        if figure.x in LOG_X:
            axes.set_xscale("log")
            # Within less than a decade it would write a label at each ninth.
            few = LogFormatterSciNotation(minor_thresholds=(1, 0.1))
            axes.xaxis.set_minor_formatter(few)
        if figure.x == "rho":
            axes.xaxis.set_minor_locator(NullLocator())
            rhos = sorted({point.x for point in points})
            axes.set_xticks(rhos, [cell(rho) for rho in rhos])
        axes.set_xlabel(X_LABELS[figure.x])
        axes.set_ylabel(
            {
                "gain": f"gain of SAM in {metric}",
                "metric": metric,
                "best_rho": "best rho",
            }[figure.y]
        )
        lines = list(dict.fromkeys(point.line for point in points))
        for i, line in enumerate(lines):
            colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
            known = [p for p in points if p.line == line and p.y is not None]
            _draw_line(axes, known, color=colour, marker=marker, label=line)
        if figure.paper is not None:
            curve = (figure.paper["x"], figure.paper["y"])
            axes.plot(*curve, color="0.45", linestyle="--", marker=".", label="paper")
        if figure.y == "gain":
            axes.axhline(0, color="0.3", linewidth=0.8)
        missing = sorted({p.x for p in points if p.unfinished})
        if missing:
            # In units of the data: matplotlib rounds x where only y is in the axes'.
            axes.plot(
                missing,
                [axes.get_ylim()[0]] * len(missing),
                linestyle="",
                marker="x",
                color="#A00000",
                label="runs failed or missing",
            )
        num_labels = len(axes.get_legend_handles_labels()[0])
        if num_labels > 4:  # which would cover the lines
            canvas.legend(loc="outside lower center", ncols=2)
        elif num_labels > 1:
            axes.legend()
        # A smaller study is not to be taken for the paper's.
        canvas.suptitle(figure.title, fontsize=7, wrap=True)
        axes.set_title(describe_changes(figure), fontsize=5, wrap=True)
        for path in paths:
            no_date = {"Date": None} if path.suffix == ".svg" else None
            canvas.savefig(path, metadata=no_date)


def _draw_line(axes: Any, points: list[Point], color: str, **style: str) -> None:
    """The means, their standard error as a band, and rings around the best rho."""
    x, y = [p.x for p in points], [p.y.mean for p in points]
    error = [p.y.error or 0.0 for p in points]
    axes.plot(x, y, color=color, **style)
    if any(error):
        axes.fill_between(
            x,
            [mean - e for mean, e in zip(y, error, strict=True)],
            [mean + e for mean, e in zip(y, error, strict=True)],
            color=color,
            alpha=0.2,
            linewidth=0,
        )
    axes.plot(
        [p.x for p in points if p.is_best],
        [p.y.mean for p in points if p.is_best],
        linestyle="",
        marker="o",
        markersize=8,
        fillstyle="none",
        color=color,
    )
