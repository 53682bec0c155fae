"""Draws the pictures of a figure from its runs."""

import csv
import hashlib
import itertools
import json
import re
import tempfile
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.machine import describe_machine, find_versions, name_backend
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.groups import Config, Epochs
from samkeras.experiment.runs.result import (
    SIZES,
    Result,
    list_epoch_numbers,
    list_numbers,
)
from samkeras.experiment.studies.bounds import Bound, check_bounds, find_bounds
from samkeras.experiment.studies.comparison import (
    Comparison,
    compare,
    correlate_gains,
)
from samkeras.experiment.studies.conclusion import caution, conclude, join
from samkeras.experiment.studies.crosstab import Crosstab, check_crosstab
from samkeras.experiment.studies.drawing import draw
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.studies.functions import (
    NUMBERS,
    draw_functions,
    find_panels,
    list_points,
    list_spectra,
    read_examples,
)
from samkeras.experiment.studies.picture import (
    CURVES,
    EIGENVALUE,
    EPOCH,
    INPUT,
    MEASURED,
    PLANE,
    VALUES,
    Picture,
    Y,
)
from samkeras.experiment.studies.points import (
    Fit,
    Point,
    find_number,
    find_points,
    fit_curves,
)
from samkeras.experiment.studies.spectra import draw_spectra
from samkeras.workload import Workload

MAX_CHANGES = 80  # characters of a folder's name


def check_numbers(
    figure: Figure, workload: Workload, configs: Sequence[Config]
) -> None:
    """Checks that runs will have the numbers that a study's pictures and tables show,
    as far as that is known before they are trained, and that there is what theory says
    of them.

    Raises:
        InputError: there is no number, or no rule, of a name, or the rule is of other
            runs.
    """
    check_bounds(figure.pictures, workload, configs)
    names, are_all = list_numbers(workload)
    for table in figure.tables:
        check_crosstab(table, workload, names if are_all else ())
    for picture in figure.pictures:
        known = (*Y, *names)
        if picture.x in (*MEASURED, PLANE):
            continue
        if picture.x == EPOCH:
            known, _ = list_epoch_numbers(workload)
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
    points = _find_points(picture, results, comparisons)
    names = [f"{picture.name}.{kind}" for kind in ("png", "svg", "csv")]
    names += ["runs.csv", "summary.json"]
    # In place together: what is interrupted leaves the files that were there.
    with tempfile.TemporaryDirectory(dir=folder) as new:
        paths = [Path(new) / name for name in names]
        bounds = find_bounds(picture, results)
        summary = summarize(figure, picture, results, comparisons, bounds)
        if picture.x == PLANE:
            from samkeras.experiment.studies import planes  # it imports keras

            pairs = planes.find_pairs(picture, comparisons)
            points = planes.draw_pairs(pairs, summary, run_dir, folder, paths[:2])
        else:
            _draw(picture, comparisons, points, bounds, summary, paths[:2])
        _write_points(picture, points, paths[2])
        _write_runs(picture, results, paths[3])
        paths[4].write_text(json.dumps(summary, indent=1))
        files = [path.rename(folder / path.name) for path in paths]
    return [*files, *sorted(folder.glob("plane_*.npz"))]


def _draw(
    picture: Picture,
    comparisons: Sequence[Comparison],
    points: list[Point],
    bounds: Sequence[Bound],
    summary: dict[str, Any],
    paths: Sequence[Path],
) -> None:
    if picture.x not in MEASURED:
        draw(picture, points, bounds, summary, paths)
        return
    panels = find_panels(picture, comparisons)
    if picture.x == INPUT:
        examples = read_examples(comparisons[0].config)
        draw_functions(panels, points, examples, summary, paths)
        return
    title = " ".join(filter(None, (summary["title"], summary["changes"])))
    notes = " ".join(summary["notes"])
    draw_spectra(list_spectra(picture, panels), paths, title, notes)


def _find_points(
    picture: Picture, results: Sequence[Result], comparisons: Sequence[Comparison]
) -> list[Point]:
    if picture.x in MEASURED:
        return list_points(picture, find_panels(picture, comparisons))
    if picture.x == PLANE:
        return []
    return find_points(picture, results, comparisons)


def name_folder(
    figure: Figure, drawn: Picture | Crosstab, results: Sequence[Result]
) -> str:
    """The name of a picture's or table's folder: its own and what was changed, so that
    each study has its own. A digest of its runs stands for what the changes' text does
    not tell, or is too long for."""
    if not figure.changes:
        return drawn.name
    changes = [f"{name}={value}" for name, value in figure.changes.items()]
    parts = [re.sub(r"[^\w.,=+-]+", "-", text, flags=re.ASCII) for text in changes]
    ends = itertools.accumulate(len(part) + 2 for part in parts)
    kept = [part for part, end in zip(parts, ends, strict=True) if end <= MAX_CHANGES]
    if kept != changes or "config" in figure.changes:
        runs = sorted(json.dumps(result.config.result_fields) for result in results)
        digest = hashlib.sha256("\n".join(runs).encode()).hexdigest()[:8]
        kept = [*(kept or [parts[0][:MAX_CHANGES]]), digest]
    name = "__".join(kept)
    return f"{drawn.name}__{name}"


def describe_title(drawn: Picture | Crosstab, results: Sequence[Result]) -> str:
    """A picture's or table's title, with the data sets, or games, that it is of."""
    configs = [result.config for result in results]
    names = [getattr(c, "dataset", "") or getattr(c, "game", "") for c in configs]
    # Of a file, without its folder.
    shown = {Path(name).name if Path(name).exists() else name for name in names if name}
    if not shown or all(_letters(name) in _letters(drawn.title) for name in shown):
        return drawn.title
    text = join(sorted(shown)) if len(shown) <= 3 else f"{len(shown)} data sets"
    return f"{drawn.title} on {text}"


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text.lower())


def explain(
    picture: Picture,
    points: Sequence[Point],
    comparisons: Sequence[Comparison],
    bounds: Sequence[Bound] = (),
) -> list[str]:
    """What a picture's marks mean, and what is to be known before it is believed."""
    known = [point.y for point in points if point.y is not None]
    counts = sorted({estimate.num_seeds for estimate in known})
    said: list[str] = []
    if counts:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        means = "geometric means" if picture.log_y else "means"
        of = "one seed" if counts == [1] else f"{means} over {several} seeds"
        said.append(f"by {of}" if picture.y == "best_rho" else of)
    if any(estimate.error for estimate in known):
        said.append("band: ± one standard error")
    if bounds:
        values = dict.fromkeys(f"{bound.value:.4g}" for bound in bounds)
        said.append(f"dashed: {bounds[0].name}, {join([*values])}")
    if picture.x in MEASURED:
        said = {
            INPUT: ["a line for each seed; dots: the examples"],
            EIGENVALUE: ["of the first seed; the numbers are means over all"],
        }[picture.x]
    elif picture.x == PLANE:
        said = ["dot: the start; stars: the ends; the paths are projected"]
    elif picture.x == "rho":
        said.append("ring: the best rho")
    elif picture.x != EPOCH and picture.y != "best_rho":
        most = max((len(c.by_rule) for c in comparisons), default=0)
        said += [f"SAM at its best of {most} rho"] if most > 1 else []
    text = "; ".join(said)
    marks = [f"{text[0].upper()}{text[1:]}."] if text else []
    if picture.x not in CURVES:
        return [*marks, *caution(comparisons)]
    unfinished = sum(len(c.unfinished) for c in comparisons)
    marks += [_say_unfinished(unfinished)] if unfinished else []
    return [*marks, *map(_describe_fit, fit_curves(picture, points))]


def _say_unfinished(count: int) -> str:
    what = "run failed or is" if count == 1 else "runs failed or are"
    return f"{count} {what} missing."


def _describe_fit(fit: Fit) -> str:
    name = ", ".join(filter(None, (fit.line, fit.panel)))
    return f"{name}: a factor of {fit.factor:.3g} an epoch (R^2 {fit.r2:.4f})."


def _check_number(picture: Picture, results: Sequence[Result]) -> None:
    if picture.x == PLANE:
        return
    name = find_number(picture, results[0].config)
    finished = [result for result in results if result.failure is None]
    if picture.x in CURVES:
        are_there = any(result.curves.get(name) for result in finished)
    else:
        are_there = any(result.number(name) is not None for result in finished)
    if finished and not are_there:
        known = dict.fromkeys(name for result in finished for name in result.numbers)
        raise InputError(
            f"{picture.name}: no finished run has a number {name}; they have "
            f"{', '.join((*known, *SIZES))}{nearest(name, (*known, *SIZES))}"
        )


def describe_changes(figure: Figure) -> str:
    """The options that were given in the place of the file's, as they were."""
    return " ".join(f"--{name} {value}" for name, value in figure.changes.items())


def summarize(
    figure: Figure,
    picture: Picture,
    results: Sequence[Result],
    comparisons: Sequence[Comparison],
    bounds: Sequence[Bound] = (),
) -> dict[str, Any]:
    """What a report says of a picture beside its numbers."""
    monitor = results[0].config.target.load().monitor
    points = _find_points(picture, results, comparisons)
    correlation, conclusion = None, []
    if picture.y == "gain":
        conclusion = conclude(comparisons, monitor, picture.value)
    if picture.y == "gain" and picture.x == "num_params":
        correlation = correlate_gains(comparisons, picture.value)
    return {
        **describe_results(figure, picture, results),
        "unit": _name_unit(results[0].config),
        "correlation": correlation and correlation._asdict(),
        "notes": explain(picture, points, comparisons, bounds),
        "bounds": [bound._asdict() for bound in bounds],
        "fits": [fit._asdict() for fit in fit_curves(picture, points)],
        "conclusion": conclusion,
    }


def describe_results(
    figure: Figure, drawn: Picture | Crosstab, results: Sequence[Result]
) -> dict[str, Any]:
    """What a report says of the runs of a picture or table."""
    varied = varied_fields(result.config for result in results)
    common = {
        name: value
        for name, value in results[0].config.plain_values.items()
        if name not in varied
    }
    done = [result for result in results if result.failure is None]
    return {
        "name": drawn.name,
        "title": describe_title(drawn, results),
        "changes": describe_changes(figure),
        "workload": results[0].config.workload,
        "monitor": results[0].config.target.load().monitor,
        "drawn_at": datetime.now().astimezone().isoformat(timespec="seconds"),
        "runs": len(results),
        "finished": len(done),
        "failures": sorted({r.failure for r in results if r.failure}),
        "training_seconds": sum(result.seconds for result in done),
        "varied": varied,
        "config": common,
        "backend": name_backend(),
        "versions": find_versions(),
        "machine": describe_machine(),
    }


def _name_unit(config: Config) -> str:
    """What a run's epochs are counted in."""
    if config.log_step(0, 1) == 0:
        return "epoch"
    return "step" if Epochs.of(config).steps else "observation"


def _write_points(picture: Picture, points: Iterable[Point], path: Path) -> None:
    columns = ["standard_error", "seeds", "rho", "is_best_rho", "unfinished_runs"]
    columns += [picture.panels] if picture.panels else []
    rows = [
        (p.line, p.x, *(p.y or ("", "", 0)), p.rho, p.is_best, p.unfinished, p.panel)
        for p in points
    ]
    header = ("line", picture.x, picture.y, *columns)
    write_csv(path, header, (row[: len(header)] for row in rows))


def _write_runs(picture: Picture, results: Sequence[Result], path: Path) -> None:
    own = NUMBERS if picture.x in MEASURED else (picture.y,)
    write_results(results, [name for name in own if name not in Y], path)


def write_results(results: Sequence[Result], shown: Iterable[str], path: Path) -> None:
    """Writes a row a run: what varies, the reported metric and what else is shown."""
    varied = varied_fields(result.config for result in results)
    monitor = results[0].config.target.load().monitor
    numbers = {kind: f"{kind}_{monitor}" for kind in VALUES}
    numbers["seconds"] = "seconds"
    known = (*numbers.values(), *SIZES)
    numbers.update({name: name for name in shown if name not in known})
    rows = [
        (
            *(result.config.result_fields[name] for name in varied),
            *(getattr(result, name) or None for name in SIZES),
            *(result.number(name) for name in numbers.values()),
            result.failure,
        )
        for result in results
    ]
    write_csv(path, (*varied, *SIZES, *numbers, "failure"), rows)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Writes a table."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
