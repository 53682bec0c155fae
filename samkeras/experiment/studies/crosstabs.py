"""Tells a study's tables, of its runs."""

import dataclasses
import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.config import varied_fields
from samkeras.experiment.options.values import (
    as_text,
    count_decimals,
    with_decimals,
)
from samkeras.experiment.runs.result import SIZES, Result
from samkeras.experiment.studies.comparison import Estimate, estimate, find_interval
from samkeras.experiment.studies.conclusion import join, with_spread
from samkeras.experiment.studies.crosstab import (
    DATA,
    ERROR,
    METRIC,
    Crosstab,
    Place,
    find_data,
)
from samkeras.experiment.studies.figure import Figure
from samkeras.experiment.studies.pictures import (
    describe_results,
    name_folder,
    write_csv,
    write_results,
)
from samkeras.experiment.studies.tables import cell, format_columns

ERROR_DECIMALS = 2  # of percent
NONE = "-"


@dataclass(frozen=True)
class Cell:
    """What the runs of a row and a column came to.

    Attributes:
        row: its row.
        column: its column.
        found: their mean over seeds; None: none is finished.
        chosen: the values of what else varies among them, where the mean is best.
        tried: how many choices of these there are.
        unfinished: runs that failed or are missing.
        paper: what the paper has, if it does.
    """

    row: Place
    column: Place
    found: Estimate | None
    chosen: Mapping[str, Any]
    tried: int
    unfinished: int
    paper: float | None

    @property
    def half_width(self) -> float | None:
        """Of Student's 95 % interval; None for one seed."""
        interval = None if self.found is None else find_interval(self.found)
        return None if interval is None else (interval[1] - interval[0]) / 2


def name_columns(table: Crosstab, results: Sequence[Result]) -> tuple[str, ...]:
    """The options of a table's columns: what no mean is chosen among, data sets, SAM
    and the base optimizer, are the last of them where they vary and the table does not
    say."""
    varied = varied_fields(result.config for result in results)
    named = (*table.rows, *table.columns)
    own = [n for n in (*DATA, "sam") if n in varied and n not in named]
    return (*table.columns, *own)


def find_cells(table: Crosstab, results: Sequence[Result]) -> list[Cell]:
    """A table's cells, row by row.

    Where more varies than rows, columns and seeds, as rho, or the epochs of a base
    optimizer, a cell is of the choice whose mean of the reported metric is best, of
    those with the most finished seeds. The paper's numbers are beside runs of its own
    data alone.
    """
    columns = name_columns(table, results)
    if "sam" in columns[len(table.columns) :]:  # whose the paper's are is not said
        table = dataclasses.replace(table, paper={})
    placed = (*table.rows, *columns, "seed")
    free = [n for n in varied_fields(r.config for r in results) if n not in placed]
    groups: dict[tuple[Place, Place], list[Result]] = {}
    for result in results:
        values = result.config.result_fields
        place = tuple(table.find_place(each, values) for each in (table.rows, columns))
        groups.setdefault((place[0], place[1]), []).append(result)
    grouped = [name for name in table.groups if table.groups[name]]
    rows = _in_order(row for row, _ in groups)
    names = _in_order(column for _, column in groups)
    return [
        _fill(table, row, column, groups.get((row, column), []), [*free, *grouped])
        for row in rows
        for column in names
    ]


def _in_order(places: Iterable[Place]) -> list[Place]:
    """Places by the order in which each option's values come first."""
    known = list(dict.fromkeys(places))
    orders = [list(dict.fromkeys(values)) for values in zip(*known, strict=True)]
    return sorted(
        known, key=lambda p: [o.index(v) for o, v in zip(orders, p, strict=True)]
    )


def _fill(
    table: Crosstab,
    row: Place,
    column: Place,
    results: Sequence[Result],
    free: Sequence[str],
) -> Cell:
    choices: dict[Place, list[Result]] = {}
    for result in results:
        values = result.config.result_fields
        key = tuple(values[name] for name in free)
        known = choices.setdefault(key, [])
        if result.failure is None:
            known.append(result)
    names = [
        n
        for n, of in zip(free, zip(*choices, strict=True), strict=False)
        if len({*of}) > 1
    ]
    most = max(map(len, choices.values()), default=0)
    found, chosen = None, {}
    if most:
        workload = results[0].config.target.load()
        sign = 1 if workload.mode == "max" else -1

        def score(key: Place) -> float:
            means = [sign * getattr(r, table.value) for r in choices[key]]
            return sum(means) / len(means)

        full = [key for key, of in choices.items() if len(of) == most]
        key = max(full, key=score)
        found = estimate(_list_values(table, choices[key]))
        values = dict(zip(free, key, strict=True))
        chosen = {name: values[name] for name in names}
    paper = None
    if _is_of_papers_data(table, results):
        paper = table.paper.get((row, column[: len(table.columns)]))
    failed = sum(result.failure is not None for result in results)
    return Cell(row, column, found, chosen, len(choices), failed, paper)


def _is_of_papers_data(table: Crosstab, results: Iterable[Result]) -> bool:
    """Whether runs are of the data set, or game, that the paper's numbers are of."""
    if table.paper_data is None:
        return True  # rows or columns say it
    fields = [result.config.result_fields for result in results]
    return {each[find_data(each) or ""] for each in fields} == {table.paper_data}


def _list_values(table: Crosstab, results: Iterable[Result]) -> list[float]:
    name = find_number(table, results := [*results])
    known = [value for r in results if (value := r.number(name)) is not None]
    return [100 * (1 - value) for value in known] if table.y == ERROR else known


def find_number(table: Crosstab, results: Sequence[Result]) -> str:
    """The name of the number of each run that a table tells."""
    if table.y not in (ERROR, METRIC):
        return table.y
    return f"{table.value}_{results[0].config.target.load().monitor}"


def tell(
    table: Crosstab, cells: Sequence[Cell], results: Sequence[Result]
) -> dict[str, list[str]]:
    """A table as text: its columns by their heads, the options of the rows first, and
    the paper's numbers beside ours where it has any."""
    optimizer = results[0].config.optimizer.upper()
    options = name_columns(table, results)
    columns: dict[str, list[str]] = {name: [] for name in table.rows}
    decimals = ERROR_DECIMALS
    if table.y != ERROR:
        decimals = count_decimals(c.found.mean for c in cells if c.found)
    with_paper = {c.column for c in cells if c.paper is not None}
    for row in dict.fromkeys(c.row for c in cells):
        for name, value in zip(table.rows, row, strict=True):
            columns[name].append(_name(name, value, optimizer))
        for c in (c for c in cells if c.row == row):
            head = ", ".join(
                _head(n, v, optimizer) for n, v in zip(options, c.column, strict=True)
            )
            columns.setdefault(f"{head}\nours", []).append(_show(c, decimals))
            if c.column in with_paper:
                text = NONE if c.paper is None else as_text(c.paper)
                columns.setdefault(f"{head}\npaper", []).append(text)
    return columns


def _show(c: Cell, decimals: int) -> str:
    """A mean, and the half width of its interval."""
    if c.found is None:
        return NONE
    text = with_decimals(c.found.mean, decimals)
    return text if c.half_width is None else with_spread(text, c.half_width, decimals)


def _name(option: str, value: Any, optimizer: str) -> str:
    if option == "sam":
        return "SAM" if value else optimizer
    return cell(value)


def _head(option: str, value: Any, optimizer: str) -> str:
    """What a column is called by an option."""
    name = _name(option, value, optimizer)
    is_plain = option == "sam" or isinstance(value, str)
    return name if is_plain else f"{option.replace('_', ' ')} {name}"


def explain(
    figure: Figure, table: Crosstab, cells: Sequence[Cell], results: Sequence[Result]
) -> list[str]:
    """What is to be known of a table before it is believed."""
    counts = sorted({c.found.num_seeds for c in cells if c.found is not None})
    name = find_number(table, results)
    what = f"100 (1 - {name}), in percent" if table.y == ERROR else name
    said = [f"Told is {what}."]
    if counts:
        several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        if counts == [1]:
            said.append("Of one seed, which may be chance.")
        else:
            said.append(f"Means over {several} seeds ± Student's 95 % interval.")
    names = list(dict.fromkeys(name for c in cells for name in c.chosen))
    if names:
        monitor = results[0].config.target.load().monitor
        said.append(
            f"A cell is at its best {join(names)}, chosen in {table.value} {monitor} "
            "itself, which favours those with more choices; the CSV file says which."
        )
    has_paper = any(c.paper is not None for c in cells)
    if has_paper and figure.changes:
        said.append("The paper's numbers are of its own setting, not of this one.")
    unfinished = sum(c.unfinished for c in cells)
    if unfinished:
        what = "run failed or is" if unfinished == 1 else "runs failed or are"
        said.append(f"{unfinished} {what} missing.")
    return said


def draw_crosstab(
    figure: Figure, table: Crosstab, results: Sequence[Result], run_dir: Path
) -> tuple[list[str], list[Path]]:
    """Tells one of a study's tables, and writes every number of it.

    Args:
        figure: the study.
        table: what to tell.
        results: all its runs, those that failed or are missing with a failure.
        run_dir: of the runs; the files go to figures/NAME/ in it.

    Returns:
        The lines to print; and its files: the same as text, the cells and the runs as
        CSV, and a summary.

    Raises:
        InputError: no finished run has the number that it tells.
    """
    _check_number(table, results)
    cells = find_cells(table, results)
    columns, notes = tell(table, cells, results), explain(figure, table, cells, results)
    summary = describe_results(figure, table, results)
    summary |= {"correlation": None, "notes": notes, "table": columns}
    title = " ".join(filter(None, (summary["title"], summary["changes"])))
    lines = [title, *format_columns(columns), *notes]
    folder = run_dir / "figures" / name_folder(figure, table, results)
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{table.name}.txt", f"{table.name}.csv", "runs.csv", "summary.json"]
    # In place together: what is interrupted leaves the files that were there.
    with tempfile.TemporaryDirectory(dir=folder) as new:
        paths = [Path(new) / name for name in names]
        paths[0].write_text("\n".join((*lines, "")))
        _write_cells(table, cells, name_columns(table, results), paths[1])
        write_results(results, [find_number(table, results)], paths[2])
        paths[3].write_text(json.dumps(summary, indent=1))
        return lines, [path.rename(folder / path.name) for path in paths]


def _check_number(table: Crosstab, results: Sequence[Result]) -> None:
    finished = [result for result in results if result.failure is None]
    name = find_number(table, results)
    if finished and all(result.number(name) is None for result in finished):
        known = (*dict.fromkeys(n for r in finished for n in r.numbers), *SIZES)
        raise InputError(
            f"{table.name}: no finished run has a number {name}; they have "
            f"{', '.join(known)}{nearest(name, known)}"
        )


def _write_cells(
    table: Crosstab, cells: Sequence[Cell], columns: Sequence[str], path: Path
) -> None:
    chosen = list(dict.fromkeys(name for c in cells for name in c.chosen))
    numbers = (table.y, "low", "high", "seeds", "paper", "unfinished_runs", "choices")
    rows = []
    for c in cells:
        found, interval = c.found, c.found and find_interval(c.found)
        ends = interval or ("", "")
        mean, seeds = ("", 0) if found is None else (found.mean, found.num_seeds)
        paper = "" if c.paper is None else c.paper
        known = (mean, *ends, seeds, paper, c.unfinished, c.tried)
        rows.append((*c.row, *c.column, *known, *(c.chosen.get(n, "") for n in chosen)))
    write_csv(path, (*table.rows, *columns, *numbers, *chosen), rows)
