"""What a study's parent run records of it: what was varied, and what came out."""

import contextlib
import csv
import io
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from samkeras.errors import InputError
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.runs.result import SIZES, Result
from samkeras.experiment.runs.run import Run, find_defaults
from samkeras.experiment.studies import pictures, tables
from samkeras.experiment.studies.comparison import (
    SIZE_FIELDS,
    Comparison,
    compare,
    compare_sizes,
    correlate_gains,
    estimate,
)
from samkeras.experiment.studies.conclusion import decimals_of, with_error
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.studies.picture import VALUES, Picture
from samkeras.experiment.studies.tables import cell
from samkeras.experiment.tracking.record import Record, View

SHOWN_VALUES = 6  # of a list, in a name
# How long a run's training is, whichever of them says it.
LENGTHS = ("epochs", "steps", "frames")


def name_study(runs: Sequence[Run], figure: Figure | None) -> str:
    """What a study is called: a figure with the options that were given in the place
    of its file's, a grid by its options."""
    if figure is None:
        return f"grid: {describe_grid(runs)}"
    return " ".join((figure.name, pictures.describe_changes(figure))).strip()


def describe_grid(runs: Sequence[Run]) -> str:
    """What varies in a grid, and what is not its workload's default."""
    options, defaults = _find_options(runs), find_defaults(runs[0].config.target)
    shown = {name: of for name, of in options.items() if len(of) > 1}
    shown |= {n: of for n, of in options.items() if of[0] != getattr(defaults, n)}
    return " ".join(f"{name}={_list(of, SHOWN_VALUES)}" for name, of in shown.items())


def _find_options(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """The values of each option in the runs that it means something to."""
    found: dict[str, dict[Any, None]] = {}
    for run in runs:
        neutral = run.config.neutral
        for name, value in run.config.result_fields.items():
            if name not in neutral:
                found.setdefault(name, {})[value] = None
    return {n: [*found[n]] for n in sorted(found, key=lambda name: name == "seed")}


def list_params(runs: Sequence[Run]) -> dict[str, Any]:
    """The options of all runs of a study, those that vary as lists."""
    options = _find_options(runs)
    del options["workload"]  # by which runs are known, see View
    return {
        name: of[0] if len(of) == 1 else _list(of, len(of))
        for name, of in options.items()
    }


def choose_view(runs: Sequence[Run], group: str | None) -> View:
    """What one looks at of a study's runs, or of those like a single one."""
    config, workload = runs[0].config, runs[0].workload
    varied = [name for name, of in _find_options(runs).items() if len(of) > 1]
    if group is None:
        varied = ["width_mult", "sam", "rho", "seed"]
    lengths = [n for n in LENGTHS if getattr(config, n, None) is not None]
    others = [name for name in ("num_params", *lengths) if name not in varied]
    return View(
        workload=config.workload,
        group=group,
        varied=varied,
        params=others,
        monitor=workload.monitor,
        mode=workload.mode,
    )


def record_answer(
    parent: Record,
    found: Sequence[Result],
    results: Sequence[Result],
    has_figure: bool,
) -> None:
    """Records with a study's parent what came out of its runs: SAM's gains as metrics,
    the table and the runs as files, and, where no figure does, a picture.

    Args:
        parent: the record.
        found: the results that the command's table shows.
        results: of all runs, those that failed or are missing with a failure.
        has_figure: whether the study is one that draws pictures itself.

    Raises:
        OSError: it cannot be recorded.
    """
    mode = results[0].config.target.load().mode
    comparisons = compare(results, mode)
    _update(parent, measure_study(results, comparisons))
    parent.set_tag("mlflow.note.content", _describe_gains(found, len(results)))
    table = io.StringIO()
    with contextlib.redirect_stdout(table):
        tables.print_table([*found], len(results), verbose=2)
    path = parent.folder / "table.txt"
    path.write_text(table.getvalue())
    parent.log_file(path)
    parent.log_file(_write_runs(parent.folder / "runs.csv", results))
    sizes = {c.num_params for c in comparisons if c.gains()}
    if not has_figure and len(sizes) > 1:
        for path in _draw_gain(results, parent.folder):
            parent.log_file(path)


def measure_study(
    results: Sequence[Result], comparisons: Sequence[Comparison]
) -> dict[str, float]:
    """The numbers of a study: SAM's mean gain with its standard error, and the rho that
    is best, for each width and whatever else varies; how the gain changes from the
    smallest model to the largest, and its rank correlation with the size; the runs, and
    those that are finished."""
    monitor = results[0].config.target.load().monitor
    done = [result for result in results if result.failure is None]
    numbers: dict[str, float] = {
        "runs": len(results),
        "runs_finished": len(done),
        "runs_unfinished": len(results) - len(done),
    }
    for comparison, label in zip(comparisons, _label(comparisons), strict=True):
        for value in VALUES:
            gain, name = estimate(comparison.gains(value)), f"gain_{value}_{monitor}"
            if gain is not None:
                numbers[f"{name}/{label}"] = gain.mean
            if gain is not None and gain.error is not None:
                numbers[f"{name}/{label}_error"] = gain.error
        if comparison.rho is not None and len(comparison.by_rule) > 1:
            numbers[f"best_rho/{label}"] = comparison.rho
    for label, alike in _group_by_line(comparisons).items():
        for value in VALUES:
            found, name = correlate_gains(alike, value), f"gain_{value}_{monitor}"
            growth = compare_sizes(alike, value)
            if growth is not None:
                numbers[f"{name}_growth{label}"] = growth.change.mean
                numbers[f"{name}_growth_low{label}"] = growth.low
                numbers[f"{name}_growth_high{label}"] = growth.high
            if found is not None:
                for part, number in found._asdict().items():
                    end = "" if part == "value" else f"_{part}"
                    numbers[f"{name}_rank_correlation{end}{label}"] = number
    return numbers


def _describe_gains(found: Sequence[Result], num_runs: int) -> str:
    """What a command says of its runs, with the gains as a table, in Markdown, which
    MLflow shows on the parent's page."""
    if not found:
        return "No run is finished."
    workload = found[0].config.target.load()
    comparisons = compare(found, workload.mode)
    lines = tables.describe(found, num_runs, comparisons, workload.monitor)
    with_gains = [c for c in comparisons if c.gains()]
    if with_gains:
        fields = [_place(c) for c in with_gains]
        names = [*fields[0], "rho", "seeds", f"gain in best {workload.monitor}"]
        lines += ["", _row(names), _row(["---"] * len(names))]
    decimals = decimals_of(comparisons)
    for c in with_gains:
        gain = with_error(estimate(c.gains()), decimals, "+")
        options = map(cell, (*_place(c).values(), c.rho, len(c.gains())))
        lines.append(_row([*options, gain]))
    return "\n".join(lines)


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _place(comparison: Comparison) -> dict[str, Any]:
    """What sets a comparison apart from the others of a study."""
    size = {"num_params": comparison.num_params} if comparison.is_apart else {}
    return comparison.fields | size


def _update(parent: Record, numbers: dict[str, float]) -> None:
    """Records numbers in the place of those of before, which of a metric is the one of
    the last step; what there is no number of any more becomes none."""
    numbers = {**dict.fromkeys(parent.metrics, math.nan), **numbers}
    new = {
        name: value
        for name, value in numbers.items()
        if str(value) != str(parent.metrics.get(name))
    }
    if new:
        parent.log_metrics(new, parent.last_step + 1)


def _label(comparisons: Sequence[Comparison]) -> list[str]:
    """What metrics are called by, as width_mult_4, each another."""
    labels: list[str] = []
    for comparison in comparisons:
        label = _describe(_place(comparison))
        labels.append(f"{label} {len(labels)}" if label in labels else label)
    return labels


def _describe(fields: dict[str, Any]) -> str:
    text = " ".join(f"{name}_{cell(value)}" for name, value in fields.items())
    return re.sub(r"[^\w .:-]", "_", text)[:150]  # what MLflow takes


def _group_by_line(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    """Comparisons that differ in their size alone, by the end of their metrics."""
    lines: dict[str, list[Comparison]] = {}
    for c in comparisons:
        fields = {n: v for n, v in c.fields.items() if n not in SIZE_FIELDS}
        lines.setdefault(f"/{_describe(fields)}" if fields else "", []).append(c)
    return lines


def _list(values: Sequence[Any], shown: int) -> str:
    """Values as the command line has them, the middle of many left out."""
    texts = [cell(value) or "null" for value in values]
    if len(texts) > shown:
        texts = [*texts[:2], "...", texts[-1]]
    return ",".join(texts)


def _write_runs(path: Path, results: Sequence[Result]) -> Path:
    """Writes a row a run: what varies, and what came out."""
    varied = varied_fields(result.config for result in results)
    monitor = results[0].config.target.load().monitor
    numbers = [*SIZES, *(f"{kind}_{monitor}" for kind in VALUES), "seconds"]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow((*varied, *numbers, "failure"))
        for result in results:
            fields = result.config.result_fields
            options = [fields[name] for name in varied]
            found = [result.number(name) for name in numbers]
            writer.writerow((*options, *found, result.failure))
    return path


def _draw_gain(results: Sequence[Result], folder: Path) -> Sequence[Path]:
    """Draws a grid's gain over the number of parameters. Returns the picture's files
    and its points; none if it cannot be drawn."""
    target = results[0].config.target
    title = f"SAM's gain in {target.name}"
    picture = Picture("gain", title, "gain", "num_params")
    figure = Figure(folder / "gain", title, target, {}, [picture])
    try:
        return pictures.draw_picture(figure, picture, results, folder)[:3]
    except InputError:
        return ()
