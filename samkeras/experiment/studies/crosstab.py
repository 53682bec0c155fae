"""A table of a study: what its runs came to, by the values of some options, beside what
a paper has."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.fields import parse_option
from samkeras.experiment.studies.picture import (
    VALUES,
    Value,
    check_fields,
    read_named,
)
from samkeras.workload import Workload

ERROR, METRIC = "error", "metric"
Place = tuple[Any, ...]
"""What a line or a column is of: the value of each of its options, or the name of a
group of them."""


@dataclass(frozen=True)
class Crosstab:
    """What is told of a study's runs in rows and columns.

    Attributes:
        name: the table's name, of its files.
        title: one line.
        y: "metric", the metric that is reported; "error", of an accuracy in percent
            what is missing; or a number of the runs by its name.
        rows: the options whose values have a row each.
        columns: those whose values have a column each.
        value: the "best" of a run's epochs or the "final", of metric and error.
        groups: of options, names of values that share a row or column.
        paper: what the paper has, by the places of the row and of the column.
        paper_data: the data set, or game, that this is of, where none of rows and
            columns says it.
    """

    name: str
    title: str
    y: str
    rows: tuple[str, ...]
    columns: tuple[str, ...] = ()
    value: Value = "best"
    groups: Mapping[str, Mapping[str, Sequence[Any]]] = field(default_factory=dict)
    paper: Mapping[tuple[Place, Place], float] = field(default_factory=dict)
    paper_data: str | None = None

    def find_place(self, options: Sequence[str], values: Mapping[str, Any]) -> Place:
        """The place of a run's values among rows or columns."""
        return tuple(self._find_group(name, values[name]) for name in options)

    def _find_group(self, name: str, value: Any) -> Any:
        groups = self.groups.get(name, {})
        return next((label for label, of in groups.items() if value in of), value)


FIELDS = tuple(f.name for f in dataclasses.fields(Crosstab) if f.name != "paper_data")
DATA = ("dataset", "game")


def find_data(options: Iterable[str]) -> str | None:
    """Which of a workload's options says what its runs are trained on."""
    return next((name for name in DATA if name in options), None)


def read_crosstabs(
    path: Path, given: object, title: str, hints: Mapping[str, Any]
) -> list[Crosstab]:
    """A file's tables.

    Args:
        path: the file.
        given: what it says of them.
        title: theirs, if they have none.
        hints: the workload's options and their types.

    Raises:
        InputError: something is wrong.
    """

    def read(where: str, fields: object) -> Crosstab:
        return _read(where, fields, path.stem, title, hints)

    return read_named(path, "tables", "told", given, read)


def _read(
    where: str, fields: object, name: str, title: str, hints: Mapping[str, Any]
) -> Crosstab:
    if not isinstance(fields, dict):
        raise InputError(f"{where} must hold fields and values, such as `y: metric`")
    check_fields(where, fields, FIELDS, ("y", "rows"))
    values = {"name": name, "title": title, "value": "best", **fields}
    for each in ("title", "y"):
        if not isinstance(values[each], str):
            raise InputError(f"{where}: {each} must be text. Received: {values[each]}")
    if not re.fullmatch(r"\w[\w.-]*", str(values["name"])):  # it names files
        raise InputError(
            f"{where}: name must be letters, digits, _, . and -. Received: "
            f"{values['name']}"
        )
    if "value" in fields and values["y"] not in (METRIC, ERROR):
        raise InputError(f"{where}: value needs y: {METRIC} or {ERROR}")
    if values["value"] not in VALUES:
        raise InputError(
            f"{where}: value must be one of {', '.join(VALUES)}. Received: "
            f"{values['value']}{nearest(str(values['value']), VALUES)}"
        )
    sides = {
        side: _read_options(f"{where}: {side}", values.get(side, []), hints)
        for side in ("rows", "columns")
    }
    for option in {*sides["rows"]} & {*sides["columns"]}:
        raise InputError(f"{where}: {option} is in rows and in columns")
    groups = _read_groups(f"{where}: groups", values.get("groups", {}), sides, hints)
    table = Crosstab(**{**values, **sides, "groups": groups, "paper": {}})
    paper = values.get("paper")
    if paper is None:
        return table
    found: dict[tuple[Place, Place], float] = {}
    for places, value in _read_paper(f"{where}: paper", paper, table, hints):
        if places in found:
            raise InputError(f"{where}: paper has {places} twice")
        found[places] = value
    data = paper.get(find_data(hints) or "")
    return dataclasses.replace(table, paper=found, paper_data=data)


def _read_options(
    where: str, given: object, hints: Mapping[str, Any]
) -> tuple[str, ...]:
    if not isinstance(given, list):
        raise InputError(f"{where} must be a list of options. Received: {given}")
    for name in given:
        if name not in hints:
            raise InputError(
                f"{where}: there is no option {name}{nearest(str(name), hints)}"
            )
        if name == "seed" or given.count(name) > 1:
            why = "means are over seeds" if name == "seed" else "it is there twice"
            raise InputError(f"{where} cannot have {name}: {why}")
    return tuple(given)


def _read_groups(
    where: str,
    given: object,
    sides: Mapping[str, Sequence[str]],
    hints: Mapping[str, Any],
) -> dict[str, dict[str, list[Any]]]:
    known = [*sides["rows"], *sides["columns"]]
    if not isinstance(given, dict):
        raise InputError(f"{where} must hold options of rows and columns")
    groups: dict[str, dict[str, list[Any]]] = {}
    for name, of in given.items():
        if name not in known:
            raise InputError(
                f"{where}: {name} is not in rows or columns{nearest(str(name), known)}"
            )
        lists = [*of.values()] if isinstance(of, dict) else [None]
        if not all(isinstance(values, list) for values in lists):
            raise InputError(f"{where}: {name} must hold names, and values of each")
        groups[name] = {
            str(label): [
                parse_option(f"{where}: {name}", value, hints[name]) for value in values
            ]
            for label, values in of.items()
        }
    return groups


def _read_paper(
    where: str, given: object, table: Crosstab, hints: Mapping[str, Any]
) -> Iterable[tuple[tuple[Place, Place], float]]:
    """What the paper has, each number with its row and its column."""
    if not isinstance(given, dict):
        raise InputError(f"{where} must hold columns and rows")
    data = find_data(hints)
    own = (data,) if data and data not in (*table.rows, *table.columns) else ()
    check_fields(where, given, (*own, "columns", "rows"), (*own, "rows"))
    for each in own:
        parse_option(f"{where}: {each}", given[each], hints[each])
    columns, rows = given.get("columns", {}), given["rows"]
    if not isinstance(columns, dict) or [*columns] != [*table.columns]:
        raise InputError(
            f"{where}: columns must hold values of {', '.join(table.columns)}"
        )
    lists = [of if isinstance(of, list) else [of] for of in columns.values()]
    places = [
        _parse_place(where, dict(zip(columns, each, strict=True)), table, hints)
        for each in itertools.product(*lists)
    ]
    if not isinstance(rows, list):
        raise InputError(f"{where}: rows must be a list of options and their values")
    for i, row in enumerate(rows):
        check_fields(f"{where}: rows[{i}]", row, *[(*table.rows, "values")] * 2)
        values = row["values"]
        if not isinstance(values, list) or len(values) != len(places):
            raise InputError(
                f"{where}: rows[{i}] needs {len(places)} values, one a column. "
                f"Received: {values}"
            )
        options = {name: row[name] for name in table.rows}
        place = _parse_place(where, options, table, hints)
        for column, value in zip(places, values, strict=True):
            if value is None:
                continue
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not math.isfinite(value):
                raise InputError(
                    f"{where}: rows[{i}] must have numbers. Received: {value}"
                )
            yield (place, column), float(value)


def _parse_place(
    where: str, given: Mapping[str, Any], table: Crosstab, hints: Mapping[str, Any]
) -> Place:
    """The place of values, or of groups of them, as a file has them."""
    return tuple(
        value
        if isinstance(value, str) and value in table.groups.get(name, ())
        else parse_option(f"{where}: {name}", value, hints[name])
        for name, value in given.items()
    )


def check_crosstab(table: Crosstab, workload: Workload, names: Sequence[str]) -> None:
    """Checks that runs will have the number that a table tells.

    Args:
        table: the table.
        workload: theirs.
        names: of the numbers that they have; none: that is not known.

    Raises:
        InputError: they will not.
    """
    if table.y == ERROR and "accuracy" not in workload.monitor:
        raise InputError(
            f"{table.name}: y: {ERROR} needs an accuracy, and {workload.monitor} is "
            "none"
        )
    known = (METRIC, ERROR, *names)
    if names and table.y not in known:
        raise InputError(
            f"{table.name}: y must be one of {', '.join(known)}. Received: {table.y}"
            f"{nearest(table.y, known)}"
        )
