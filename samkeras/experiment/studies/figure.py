"""A figure of the paper: a grid of runs and the pictures that are drawn of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.config import (
    known_defaults,
    option_types,
    with_new_names,
)
from samkeras.experiment.options.fields import ALLOWED
from samkeras.experiment.options.parsing import (
    DIRECTIVES,
    SESSION_FIELDS,
    Command,
    Study,
    pair_options,
    parse_command,
)
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.options.targets import (
    Target,
    find_owner,
    list_pictures,
    resolve_target,
)
from samkeras.experiment.studies.comparison import COMPARED_FIELDS
from samkeras.experiment.studies.crosstab import Crosstab, read_crosstabs
from samkeras.experiment.studies.picture import (
    CURVES,
    ONLY_FIELDS,
    Options,
    Picture,
    X,
    check_fields,
    read_picture,
    read_pictures,
)


@dataclass(frozen=True)
class Figure:
    """What a study's file says.

    Attributes:
        path: the file.
        title: one line.
        target: the workload.
        grid: options of the runs, as YAML has them; a list is a dimension of the grid.
        pictures: what is drawn of them.
        tables: what is told of them in rows and columns.
        variants: options that win over the grid's; the runs are those of each of them.
        small: options that `--preset small` puts in the place of all those.
        changes: options, with their values, that were given in the place of the file's.
        replicas: `--replicas` on a GPU or TPU, unless it is given.
    """

    path: Path
    title: str
    target: Target
    grid: Options
    pictures: Sequence[Picture]
    variants: Sequence[Options] = ({},)
    small: Options = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)
    replicas: int = 1
    tables: Sequence[Crosstab] = ()

    @property
    def name(self) -> str:
        """The file's, without its ending."""
        return self.path.stem

    def options(self, preset: str | None) -> list[Options]:
        """The options of its runs, for each variant.

        Raises:
            InputError: there is no such preset.
        """
        if preset not in (None, "small"):
            raise InputError(f"--preset must be small. Received: {preset}")
        small = self.small if preset else {}
        return [{**self.grid, **variant, **small} for variant in self.variants]


FIGURE_FIELDS = (
    "title",
    "workload",
    "grid",
    "variants",
    "small",
    "pictures",
    "replicas",
    "tables",
)


def parse_figure(path: Path, arguments: list[str]) -> tuple[Figure, Command]:
    """A figure and its runs: those of its file, with `--preset small` and any other
    options in the place of what it says.

    Raises:
        InputError: the file, an option or a value is wrong.
    """
    figure = read_figure(path)
    target = figure.target
    known = {**option_types(target), "preset": str}
    given = dict(pair_options(arguments, target, known))
    of_runs = {
        name: value
        for name, value in given.items()
        if name == "config" or name not in (*SESSION_FIELDS, *DIRECTIVES)
    }
    variants = figure.options(given.pop("preset", None))
    variants = [with_new_names(options, figure.path) for options in variants]
    study = Study(figure.path, figure.title, variants)
    command = parse_command(target, arguments, given, study)
    return dataclasses.replace(figure, changes=of_runs), command


def read_figure(path: Path) -> Figure:
    """Reads a study's file; where it is not there, but a picture or table of its name
    is in another one of configs/figures/, that one with this alone.

    Raises:
        InputError: it is not one of a figure.
    """
    if path.exists() or path.stem not in (owners := list_pictures()):
        return _read(path)
    figure = _read(owners[path.stem])
    pictures = [picture for picture in figure.pictures if picture.name == path.stem]
    tables = tuple(table for table in figure.tables if table.name == path.stem)
    return dataclasses.replace(figure, pictures=pictures, tables=tables)


def _read(path: Path) -> Figure:
    values = read_yaml(path)
    if "title" not in values and (owner := find_owner(path)):
        raise InputError(
            f"{path} has a workload's options, and is no figure; did you mean {owner}?"
        )
    check_fields(path, values, (*FIGURE_FIELDS, *ONLY_FIELDS), FIGURE_FIELDS[:3])
    if not isinstance(values["title"], str):
        raise InputError(f"{path}: title must be text. Received: {values['title']}")
    only = {name: values.pop(name) for name in ONLY_FIELDS if name in values}
    if "pictures" in values and only:
        raise InputError(f"{path}: give pictures or {next(iter(only))}, not both")
    values["target"] = _find_target(path, values.pop("workload"))
    default = Picture(path.stem, values["title"], y="", x="")
    xs = (*X, *_find_own_numbers(values["target"]))
    if "tables" in values:
        hints = option_types(values["target"])
        values["tables"] = read_crosstabs(
            path, values["tables"], values["title"], hints
        )
    if "pictures" in values:
        values["pictures"] = read_pictures(path, values["pictures"], default, xs)
    elif "tables" in values and not only:
        values["pictures"] = []
    else:
        values["pictures"] = [read_picture(str(path), only, default, xs)]
    figure = Figure(path, **values)
    named = [each.name for each in (*figure.pictures, *figure.tables)]
    for name in named:
        if named.count(name) > 1:
            raise InputError(f"{path}: a picture and a table have the name {name}")
    _check_figure(figure)
    return figure


def _find_target(path: Path, name: object) -> Target:
    """A file's workload: as a target names one, or the path of a .py file from the
    file's own folder."""
    beside = path.parent / str(name)
    try:
        target = resolve_target(str(beside if beside.is_file() else name))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if not isinstance(target, Target):
        raise InputError(f"{path}: workload must be one. Received: {name}")
    return target


def _find_own_numbers(target: Target) -> list[str]:
    """The options that a workload alone has, of those that are numbers."""
    others = {*known_defaults(), *SESSION_FIELDS}
    return [
        name
        for name, hint in option_types(target).items()
        if name not in others and hint is not bool and hint in ALLOWED
        if issubclass(hint, int | float)
    ]


def _check_figure(figure: Figure) -> None:
    path = figure.path
    options = option_types(figure.target)
    for picture in figure.pictures:
        for name in (picture.x, picture.panels):
            if name not in (None, *CURVES, "num_params", *options):
                raise InputError(
                    f"{path}: {figure.target} has no option {name}"
                    f"{nearest(name, options)}"
                )
        if picture.panels in ("num_params", *COMPARED_FIELDS):
            raise InputError(
                f"{path}: panels must be an option that SAM and the base optimizer "
                f"share. Received: {picture.panels}"
            )
    if not isinstance(figure.variants, list | tuple):
        raise InputError(f"{path}: variants must be a list of options and their values")
    mappings = {"grid": figure.grid, "small": figure.small}
    mappings.update({f"variants[{i}]": v for i, v in enumerate(figure.variants)})
    for name, options in mappings.items():
        if not isinstance(options, dict):
            raise InputError(f"{path}: {name} must hold options and their values")
        for option, values in options.items():
            if values == []:
                raise InputError(f"{path}: {name} has no values for {option}: no runs")
    replicas: object = figure.replicas
    if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 1:
        raise InputError(
            f"{path}: replicas must be an integer >= 1. Received: {replicas}"
        )
    if not figure.variants:
        raise InputError(f"{path}: variants is empty: no runs")
