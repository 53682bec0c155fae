"""A figure of the paper: a grid of runs and what is drawn of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.config import option_types, with_new_names
from samkeras.experiment.options.parsing import (
    DIRECTIVES,
    SESSION_FIELDS,
    Command,
    Study,
    pair_options,
    parse_command,
)
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.options.targets import FIGURES, find_target, list_workloads

X = (
    "num_params",
    "width_mult",
    "depth",
    "sparsity",
    "rho",
    "label_noise",
    "weight_decay",
)
Y = ("gain", "metric", "best_rho")
VALUES = ("best", "final")
RUN_FIELDS = ("workload", "grid", "variants", "small")
NOT_IN_FILE = ("name", "changes")

Options = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """What a file in configs/figures/ says.

    Attributes:
        name: the file's, without its ending.
        title: one line.
        workload: the task.
        grid: options of the runs; a list is a dimension of the grid.
        variants: options that win over the grid's; the runs are those of each of them.
        small: options that `--preset small` puts in the place of all those.
        y: "gain", SAM minus base at SAM's best rho; "metric", of both; "best_rho".
        x: what it is drawn over, one of X; other options that vary become lines.
        value: the "best" of a run's epochs, the paper's early stopping, or the "final".
        paper: the paper's own curve, {"x": [...], "y": [...]}, if it has one.
        changes: options, with their values, that were given in the place of the file's.
    """

    name: str
    title: str
    workload: str
    y: str
    x: str
    grid: Options
    variants: Sequence[Options] = ({},)
    small: Options = field(default_factory=dict)
    value: str = "best"
    paper: dict[str, list[float]] | None = None
    changes: dict[str, str] = field(default_factory=dict)

    def options(self, preset: str | None) -> list[Options]:
        """The options of its runs, for each variant.

        Raises:
            InputError: there is no such preset.
        """
        if preset not in (None, "small"):
            raise InputError(f"--preset must be small. Received: {preset}")
        small = self.small if preset else {}
        return [{**self.grid, **variant, **small} for variant in self.variants]


def parse_figure(path: Path, arguments: list[str]) -> tuple[Figure, Command]:
    """A figure and its runs: those of its file, with `--preset small` and any other
    options in the place of what it says.

    Raises:
        InputError: the file, an option or a value is wrong.
    """
    figure = read_figure(path.stem)
    target = find_target(figure.workload)
    known = {**option_types(target), "preset": str}
    given = dict(pair_options(arguments, target, known))
    others = (*SESSION_FIELDS, *DIRECTIVES)
    of_runs = {name: v for name, v in given.items() if name not in others}
    variants = figure.options(given.pop("preset", None))
    variants = [with_new_names(options, path) for options in variants]
    study = Study(path, figure.title, variants)
    command = parse_command(target, arguments, given, study)
    return dataclasses.replace(figure, changes=of_runs), command


def read_figure(name: str) -> Figure:
    """Reads configs/figures/<name>.yaml.

    Raises:
        InputError: it is not one of a figure.
    """
    path = FIGURES / f"{name}.yaml"
    values = _read(path)
    if "runs_of" in values:
        given = [field for field in RUN_FIELDS if field in values]
        if given:
            raise InputError(f"{path}: give runs_of or {given[0]}, not both")
        other = values.pop("runs_of")
        if not (FIGURES / f"{other}.yaml").exists():
            names = [p.stem for p in FIGURES.glob("*.yaml")]
            raise InputError(
                f"{path}: runs_of: unknown figure {other}{nearest(str(other), names)}"
            )
        runs = _read(FIGURES / f"{other}.yaml")
        values.update({name: runs[name] for name in RUN_FIELDS if name in runs})
    for required in ("title", "workload", "grid", "x", "y"):
        if required not in values:
            raise InputError(f"{path} needs the field {required}")
    figure = Figure(name, **values)
    _check(path, figure)
    return figure


def _read(path: Path) -> dict:
    values = read_yaml(path)
    names = [f.name for f in dataclasses.fields(Figure) if f.name not in NOT_IN_FILE]
    for name in values:
        if name not in (*names, "runs_of"):
            raise InputError(f"{path}: unknown field {name}{nearest(str(name), names)}")
    return values


def _check(path: Path, figure: Figure) -> None:
    choices = {"workload": list_workloads(), "x": X, "y": Y, "value": VALUES}
    for name, allowed in choices.items():
        value = getattr(figure, name)
        if value not in allowed:
            raise InputError(
                f"{path}: {name} must be one of {', '.join(allowed)}. Received: "
                f"{value}{nearest(str(value), allowed)}"
            )
    if figure.x not in ("num_params", *option_types(find_target(figure.workload))):
        raise InputError(
            f"{path}: workloads/{figure.workload} has no option {figure.x}"
        )
    if not isinstance(figure.title, str):
        raise InputError(f"{path}: title must be text. Received: {figure.title}")
    if figure.x == "rho" and figure.y != "metric":
        raise InputError(f"{path}: x: rho needs y: metric. Received: y: {figure.y}")
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
    if not figure.variants:
        raise InputError(f"{path}: variants is empty: no runs")
    if figure.paper is not None and not _is_curve(figure.paper):
        raise InputError(
            f"{path}: paper must hold x and y, lists of numbers of one length"
        )


def _is_curve(curve: object) -> bool:
    if not isinstance(curve, dict) or curve.keys() != {"x", "y"}:
        return False
    lists = curve.values()
    return (
        all(isinstance(values, list) for values in lists)
        and len(curve["x"]) == len(curve["y"])
        # YAML takes 1e6, without a point, for text.
        and all(isinstance(v, int | float) for values in lists for v in values)
    )
