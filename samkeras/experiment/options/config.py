"""The options of a workload's runs, and what a run's values are read from and written
to."""

import dataclasses
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import yaml

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.compose import compose
from samkeras.experiment.options.fields import parse_option
from samkeras.experiment.options.groups import GROUPS, Config, Options
from samkeras.experiment.options.methods import CLASSES
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.strict_yaml import read_yaml
from samkeras.experiment.options.taken import find_taken
from samkeras.experiment.options.targets import Target

# What options are called since 0.1.
NEW_NAMES = {"perturbation": "method"}
# What a workload's own file says beside values.
_OF_TARGETS = ("workload", "options", "data")


def varied_fields(configs: Iterable[Options]) -> dict[str, list[Any]]:
    """The fields that differ between runs, each with its values in order."""
    values: dict[str, dict[Any, None]] = {}
    for config in configs:
        for name, value in config.result_fields.items():
            values.setdefault(name, {})[value] = None
    return {name: [*known] for name, known in values.items() if len(known) > 1}


def list_changes(path: Path, values: dict[str, Any]) -> list[str]:
    """How a run's plain values differ from saved ones, each as "momentum 0.9 -> 0.5".

    Raises:
        InputError: the file cannot be read.
    """
    saved = with_new_names(read_yaml(path), path)
    return [
        f"{name} {value} -> {values.get(name)}"
        for name, value in saved.items()
        if value != values.get(name)
    ]


def dump(values: dict[str, Any]) -> str:
    """Options as YAML that `--config` reads, but for texts that there are none of."""
    kept = {name: value for name, value in values.items() if value != ""}
    return yaml.safe_dump(kept, sort_keys=False)


def option_types(target: Target) -> dict[str, Any]:
    """A workload's options and their types, those of the session included.

    Raises:
        InputError: its YAML file cannot be read.
    """
    hints = _hints(compose(target))
    # An own method is known where the module is imported for its own options anyway.
    own = () if set(target.groups) <= set(GROUPS) else find_methods(target)
    hints["method"] = Literal[*CLASSES, *own]
    del hints["workload"]
    return {**hints, **_hints(Session)}


def find_methods(target: Target) -> tuple[str, ...]:
    """The names of a workload's own methods.

    Raises:
        InputError: one has the name of another.
    """
    names = tuple(target.load().methods)
    for name in names:
        if name in CLASSES:
            raise InputError(
                f"{target.path}: a method of its own cannot be called {name}, as one "
                "of samkeras is"
            )
    return names


def _hints(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def known_defaults() -> dict[str, Any]:
    """The names and defaults of what is an option of some workload of the house."""
    kinds = (Config, *(group for groups in GROUPS.values() for group in groups))
    return {f.name: f.default for kind in kinds for f in dataclasses.fields(kind)}


def parse_fields(
    values: dict[str, Any], path: Path, target: Target, hints: dict[str, Any]
) -> dict[str, Any]:
    """The options that a file's values are, under the names that they have now.

    Raises:
        InputError: there is a field or a value that the workload does not take, or they
            are of another workload.
    """
    values = with_new_names(values, path)
    owner = values.get("workload", target.name)
    if owner != target.name:
        raise InputError(f"{path} is a config of workloads/{owner}, not of {target}")
    absent = known_defaults()
    options = {}
    for name, value in values.items():
        if name in hints:
            options[name] = parse_option(f"{path}: {name}", value, hints[name])
        elif name == "data":
            find_taken(value, path)
        elif name in _OF_TARGETS:
            continue
        elif name not in absent:
            known = (*hints, *_OF_TARGETS)
            raise InputError(f"{path}: unknown field {name}{nearest(name, known)}")
        elif value != absent[name]:
            # Configs that were saved hold what their workloads make no use of.
            raise InputError(
                f"{path}: {target} has no option {name}{nearest(name, hints)}"
            )
    return options


def with_new_names(values: dict[str, Any], path: Path) -> dict[str, Any]:
    """A file's options under the names that they have now.

    Raises:
        InputError: one has its old name and its new one.
    """
    for old, new in NEW_NAMES.items():
        if old in values and new in values:
            raise InputError(f"{path}: {old} is called {new} now; it is given twice")
    return {NEW_NAMES.get(name, name): value for name, value in values.items()}
