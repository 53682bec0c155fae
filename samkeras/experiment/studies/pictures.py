"""Draws the pictures of a figure from its runs."""

import csv
import dataclasses
import hashlib
import itertools
import json
import re
import tempfile
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from samkeras.errors import InputError, nearest
from samkeras.experiment.machine import describe_machine, find_versions, name_backend
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.methods import CHOICES, DEFAULTS
from samkeras.experiment.runs.result import SIZES, Result, list_numbers
from samkeras.experiment.studies.comparison import (
    SIZE_FIELDS,
    Comparison,
    Estimate,
    compare,
    correlate_gains,
    estimate,
    rho_of,
    rule_of,
)
from samkeras.experiment.studies.conclusion import (
    caution,
    conclude,
    join,
    name_size,
)
from samkeras.experiment.studies.figure import VALUES, Figure, Picture, Y
from samkeras.experiment.studies.tables import cell
from samkeras.workload import Workload

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
# What an x is called if not by its name, and the options that it stands for.
X_LABELS = {"num_params": "trainable parameters", "width_mult": "width multiplier"}
X_FIELDS = {
    "method": CHOICES,
    "num_params": SIZE_FIELDS,
    "sparsity": ("sparsity", "match_width"),
}
LOG_X = ("num_params", "rho")
MAX_CHANGES = 80  # characters of a folder's name


class Point(NamedTuple):
    """A point of a picture."""

    line: str
    x: float | str
    """of a method its name, and the passes of a step"""
    y: Estimate | None
    """None if its runs failed or are missing"""
    rho: float | None
    """SAM's, where it takes part"""
    is_best: bool | None
    """where x is rho: whether it is the best one"""
    unfinished: int
    """runs of the point that failed or are missing"""


def check_numbers(figure: Figure, workload: Workload) -> None:
    """Checks that runs will have the numbers that a figure's pictures show, as far as
    that is known before they are trained.

    Raises:
        InputError: there is no number of a name.
    """
    names, are_all = list_numbers(workload)
    known = (*Y, *names)
    for picture in figure.pictures:
        if are_all and picture.y not in known:
            raise InputError(
                f"{picture.name}: y must be one of {', '.join(known)}. Received: "
                f"{picture.y}{nearest(picture.y, known)}"
            )


def draw_picture(
    figure: Figure, picture: Picture, results: Sequence[Result], run_dir: Path
) -> list[Path]:
    """Draws one of a figure's pictures and writes every number of it.

    Args:
        figure: of what.
        picture: what to draw.
        results: all its runs, those that failed or are missing with a failure.
        run_dir: of the runs; the files go to figures/NAME/ in it, see name_folder.

    Returns:
        The picture as PNG and SVG, its points and the runs as CSV, and a summary.

    Raises:
        InputError: no finished run has the number that it shows.
    """
    _check_number(picture, results)
    folder = run_dir / "figures" / name_folder(figure, picture, results)
    folder.mkdir(parents=True, exist_ok=True)
    workload = results[0].config.target.load()
    comparisons = compare(results, workload.mode)
    points = find_points(picture, results, comparisons)
    names = [f"{picture.name}.{kind}" for kind in ("png", "svg", "csv")]
    names += ["runs.csv", "summary.json"]
    # In place together: what is interrupted leaves the files that were there.
    with tempfile.TemporaryDirectory(dir=folder) as new:
        paths = [Path(new) / name for name in names]
        summary = summarize(figure, picture, results, comparisons)
        _draw(picture, points, summary, paths[:2])
        _write_points(picture, points, paths[2])
        _write_runs(picture, results, paths[3])
        paths[4].write_text(json.dumps(summary, indent=1))
        return [path.rename(folder / path.name) for path in paths]


def name_folder(figure: Figure, picture: Picture, results: Sequence[Result]) -> str:
    """The name of a picture's folder: the picture's and what was changed, so that each
    study has its own. A digest of its runs stands for what the changes' text does not
    tell, or is too long for."""
    if not figure.changes:
        return picture.name
    changes = [f"{name}={value}" for name, value in figure.changes.items()]
    parts = [re.sub(r"[^\w.,=+-]+", "-", text, flags=re.ASCII) for text in changes]
    ends = itertools.accumulate(len(part) + 2 for part in parts)
    kept = [part for part, end in zip(parts, ends, strict=True) if end <= MAX_CHANGES]
    if kept != changes or "config" in figure.changes:
        runs = sorted(json.dumps(result.config.result_fields) for result in results)
        digest = hashlib.sha256("\n".join(runs).encode()).hexdigest()[:8]
        kept = [*(kept or [parts[0][:MAX_CHANGES]]), digest]
    name = "__".join(kept)
    return f"{picture.name}__{name}"


def describe_title(picture: Picture, results: Sequence[Result]) -> str:
    """A picture's title, with the data sets, or games, that it is of."""
    configs = [result.config for result in results]
    names = [getattr(c, "dataset", "") or getattr(c, "game", "") for c in configs]
    # Of a file, without its folder.
    shown = {Path(name).name if Path(name).exists() else name for name in names if name}
    if not shown or all(_letters(name) in _letters(picture.title) for name in shown):
        return picture.title
    text = join(sorted(shown)) if len(shown) <= 3 else f"{len(shown)} data sets"
    return f"{picture.title} on {text}"


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def explain(
    picture: Picture, points: Sequence[Point], comparisons: Sequence[Comparison]
) -> list[str]:
    """What a picture's marks mean, and what is to be known before it is believed."""
    known = [point.y for point in points if point.y is not None]
    counts = sorted({estimate.num_seeds for estimate in known})
    said: list[str] = []
    if counts:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        of = "one seed" if counts == [1] else f"means over {several} seeds"
        said.append(f"by {of}" if picture.y == "best_rho" else of)
    if any(estimate.error for estimate in known):
        said.append("band: ± one standard error")
    if picture.x == "rho":
        said.append("ring: the best rho")
    elif picture.y != "best_rho":
        most = max((len(c.by_rule) for c in comparisons), default=0)
        said += [f"SAM at its best of {most} rho"] if most > 1 else []
    text = "; ".join(said)
    marks = [f"{text[0].upper()}{text[1:]}."] if text else []
    return [*marks, *caution(comparisons)]


def _check_number(picture: Picture, results: Sequence[Result]) -> None:
    name = _find_number(picture, results[0].config)
    finished = [result for result in results if result.failure is None]
    if finished and all(result.number(name) is None for result in finished):
        known = dict.fromkeys(name for result in finished for name in result.numbers)
        raise InputError(
            f"{picture.name}: no finished run has a number {name}; they have "
            f"{', '.join((*known, *SIZES))}{nearest(name, (*known, *SIZES))}"
        )


def find_points(
    picture: Picture, results: Sequence[Result], comparisons: Sequence[Comparison]
) -> list[Point]:
    """The points of a picture, line by line."""
    config = results[0].config
    varied = varied_fields(result.config for result in results)
    x_fields = X_FIELDS.get(picture.x, (picture.x,))
    number = _find_number(picture, config)
    points: list[Point] = []
    bases: list[dict[int, Result]] = []
    for c in comparisons:
        options = {
            name: _describe(name, value)
            for name, value in c.fields.items()
            if name in varied and name not in x_fields
        }
        if c.is_apart and picture.x != "num_params":
            options["num_params"] = name_size(c)
        label = ", ".join(options.values())
        if picture.x == "rho":
            points += _find_rho_points(c, number, label or "SAM")
            continue
        found: list[tuple[str, Estimate | None, float | None]] = []
        if picture.y == "gain":
            gain = estimate(c.gains(picture.value))
            found.append((label or "SAM - base", gain, c.rho))
        elif picture.y == "best_rho":
            rho = None if c.rho is None else Estimate(c.rho, None, len(c.sam))
            found.append((label or "SAM", rho, c.rho))
        else:
            sam, base = (_estimate(r.values(), number) for r in (c.sam, c.base))
            if sam or not base:
                found.append((f"SAM, {label}" if label else "SAM", sam, c.rho))
            if base and c.base not in bases:
                bases.append(c.base)
                shown = [v for n, v in options.items() if n not in CHOICES]
                line = ", ".join((config.optimizer.upper(), *shown))
                found.append((line, base, None))
        x = _find_x(picture.x, c, config)
        points += [
            Point(line, x, y, rho, None, len(c.unfinished)) for line, y, rho in found
        ]
    if picture.x == "sparsity":
        points = _share_dense(points)
    lines = list(dict.fromkeys(point.line for point in points))
    if picture.x == "method":
        return sorted(points, key=lambda point: lines.index(point.line))
    return sorted(points, key=lambda point: (lines.index(point.line), point.x))


def _name_method(comparison: Comparison, config: Config) -> str:
    """A method with the options that choose it, if they are not its defaults, and its
    passes where they are known."""
    fields = comparison.fields
    method = str(fields.get("method", config.method))
    defaults = {f.name: f.default for f in dataclasses.fields(config)}
    defaults |= DEFAULTS.get(method, {})
    chosen = {n: fields.get(n) for n in CHOICES[1:]}
    words = [method]
    words += [
        _describe(name.removeprefix("sam_"), value)
        for name, value in chosen.items()
        if value not in (None, defaults[name])
    ]
    finished = (
        result for runs in comparison.by_rule.values() for result in runs.values()
    )
    passes = {result.number("passes") for result in finished} - {None}
    cost = f" ({passes.pop():g} passes)" if len(passes) == 1 else ""
    return ", ".join(words) + cost


def _find_rho_points(c: Comparison, number: str, line: str) -> list[Point]:
    """SAM's points at each rho that was tried."""
    failed = [rule_of(r.config) for r in c.unfinished if r.config.sam]
    points: list[Point] = []
    for rule in dict.fromkeys([*c.by_rule, *failed]):
        rho = rho_of(rule)
        y = _estimate(c.by_rule.get(rule, {}).values(), number)
        points.append(Point(line, rho, y, rho, rule == c.rule, failed.count(rule)))
    return points


def _share_dense(points: list[Point]) -> list[Point]:
    """Makes the dense model, which no pruner made, the first point of each pruner's
    line."""
    lines = dict.fromkeys(p.line for p in points if p.x != 0)
    shared: list[Point] = []
    for point in points:
        is_own = point.line in lines or not lines
        shared += [point] if is_own else [point._replace(line=n) for n in lines]
    return shared


def _find_x(x: str, comparison: Comparison, config: Config) -> float | str:
    if x == "method":
        return _name_method(comparison, config)
    if x in ("num_params", "sparsity"):
        return getattr(comparison, x)
    # An option that does not vary is the same in any config.
    return comparison.fields.get(x, getattr(config, x))


def _find_number(picture: Picture, config: Config) -> str:
    """The name of the number that a picture shows of each run."""
    if picture.y in Y:
        return f"{picture.value}_{config.target.load().monitor}"
    return picture.y


def describe_changes(figure: Figure) -> str:
    """The options that were given in the place of the file's, as they were."""
    return " ".join(f"--{name} {value}" for name, value in figure.changes.items())


def _estimate(results: Iterable[Result], number: str) -> Estimate | None:
    values = (result.number(number) for result in results)
    return estimate(value for value in values if value is not None)


def _describe(field: str, value: object) -> str:
    """A line's option, as "label noise 0.5", and a multiplier's with a sign of that."""
    name = field.replace("_mult", " \N{MULTIPLICATION SIGN}").replace("_", " ")
    return f"{name} {cell(value)}"


def summarize(
    figure: Figure,
    picture: Picture,
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
) -> dict[str, Any]:
    """What a report says of a picture beside its numbers."""
    monitor = results[0].config.target.load().monitor
    varied = varied_fields(result.config for result in results)
    common = {
        name: value
        for name, value in results[0].config.plain_values.items()
        if name not in varied
    }
    points = find_points(picture, results, comparisons)
    correlation, conclusion = None, []
    if picture.y == "gain":
        conclusion = conclude(comparisons, monitor, picture.value)
    if picture.y == "gain" and picture.x == "num_params":
        correlation = correlate_gains(comparisons, picture.value)
    done = [result for result in results if result.failure is None]
    return {
        "name": picture.name,
        "title": describe_title(picture, results),
        "changes": describe_changes(figure),
        "workload": results[0].config.workload,
        "monitor": monitor,
        "drawn_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "runs": len(results),
        "finished": len(done),
        "failures": sorted({r.failure for r in results if r.failure}),
        "training_seconds": sum(result.seconds for result in done),
        "correlation": correlation and correlation._asdict(),
        "notes": explain(picture, points, comparisons),
        "conclusion": conclusion,
        "varied": varied,
        "config": common,
        "backend": name_backend(),
        "versions": find_versions(),
        "machine": describe_machine(),
    }


def _write_points(picture: Picture, points: Iterable[Point], path: Path) -> None:
    columns = ("standard_error", "seeds", "rho", "is_best_rho", "unfinished_runs")
    rows = [
        (p.line, p.x, *(p.y or ("", "", 0)), p.rho, p.is_best, p.unfinished)
        for p in points
    ]
    _write_csv(path, ("line", picture.x, picture.y, *columns), rows)


def _write_runs(picture: Picture, results: Sequence[Result], path: Path) -> None:
    varied = varied_fields(result.config for result in results)
    monitor = results[0].config.target.load().monitor
    numbers = {kind: f"{kind}_{monitor}" for kind in VALUES}
    numbers["seconds"] = "seconds"
    if picture.y not in (*Y, *SIZES):
        numbers[picture.y] = picture.y
    rows = [
        (
            *(result.config.result_fields[name] for name in varied),
            *(getattr(result, name) or None for name in SIZES),
            *(result.number(name) for name in numbers.values()),
            result.failure,
        )
        for result in results
    ]
    _write_csv(path, (*varied, *SIZES, *numbers, "failure"), rows)


def _write_csv(
    path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _draw(
    picture: Picture,
    points: list[Point],
    summary: Mapping[str, Any],
    paths: Sequence[Path],
) -> None:
    import matplotlib
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(STYLE):
        canvas = Canvas(layout="constrained")
        axes = canvas.add_subplot()
        if picture.x == "method":
            _draw_rows(canvas, axes, picture, points, summary["monitor"])
        else:
            _draw_lines(axes, picture, points, summary["monitor"])
        num_labels = len(axes.get_legend_handles_labels()[0])
        if num_labels > 4:  # which would cover the lines
            canvas.legend(loc="outside lower center", ncols=2)
        elif num_labels > 1:
            axes.legend()
        # A smaller study is not to be taken for the paper's.
        canvas.suptitle(summary["title"], fontsize=7, wrap=True)
        axes.set_title(summary["changes"], fontsize=5, wrap=True)
        # A part of the axes, which the layout keeps free of the legend.
        axes.annotate(
            textwrap.fill(" ".join(summary["notes"]), 80),
            xy=(0.5, 0),
            xycoords=axes.xaxis.label,
            xytext=(0, -4),
            textcoords="offset points",
            fontsize=5,
            ha="center",
            va="top",
        )
        for path in paths:
            no_date = {"Date": None} if path.suffix == ".svg" else None
            canvas.savefig(path, metadata=no_date)


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


def _draw_lines(axes: Any, picture: Picture, points: list[Point], monitor: str) -> None:
    from matplotlib.ticker import LogFormatterSciNotation, NullLocator

    if picture.x in LOG_X:
        axes.set_xscale("log")
        # Within less than a decade it would write a label at each ninth.
        few = LogFormatterSciNotation(minor_thresholds=(1, 0.1))
        axes.xaxis.set_minor_formatter(few)
    if picture.x == "rho":
        axes.xaxis.set_minor_locator(NullLocator())
        rhos = sorted({point.x for point in points})
        axes.set_xticks(rhos, [cell(rho) for rho in rhos])
    axes.set_xlabel(X_LABELS.get(picture.x, _spell(picture.x)))
    axes.set_ylabel(_label_y(picture.y, monitor))
    lines = list(dict.fromkeys(point.line for point in points))
    for i, line in enumerate(lines):
        colour, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        own = [p for p in points if p.line == line]
        _draw_line(axes, own, color=colour, marker=marker, label=line)
    if picture.paper is not None:
        curve = (picture.paper["x"], picture.paper["y"])
        axes.plot(*curve, color="0.45", linestyle="--", marker=".", label="paper")
    if picture.y == "gain":
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


def _label_y(y: str, monitor: str) -> str:
    metric = _spell(monitor.removeprefix("val_"))
    labels = {"gain": f"gain of SAM in {metric}", "metric": metric}
    return labels.get(y, _spell(y))


def _spell(name: str) -> str:
    """A number's name in words, as "validation loss"."""
    words = name.split("_")
    return " ".join("validation" if word == "val" else word for word in words)


def _draw_line(axes: Any, points: list[Point], color: str, **style: str) -> None:
    """The means, their standard error as a band, and rings around the best rho."""
    known = [(p.x, p.y, p.is_best) for p in points if p.y is not None]
    x, y = [x for x, _, _ in known], [y.mean for _, y, _ in known]
    error = [y.error or 0.0 for _, y, _ in known]
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
        [x for x, _, is_best in known if is_best],
        [y.mean for _, y, is_best in known if is_best],
        linestyle="",
        marker="o",
        markersize=8,
        fillstyle="none",
        color=color,
    )
