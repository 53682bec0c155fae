"""The runs that a command line asks for, checked."""

import argparse
import ast
import dataclasses
import inspect
import itertools
import json
import math
import os
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, OpenUnitInterval

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.config import (
    EXECUTION_FIELDS,
    NEW_NAMES,
    Config,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    Norm,
    PositiveFloat,
    PositiveInt,
    PPOConfig,
    SmallInt,
    SupervisedConfig,
    config_type,
    default_file,
    option_types,
    read_config,
    result_fields,
    to_yaml,
    with_new_names,
)
from samkeras.experiment.options.methods import DEFAULTS, OPTIONS
from samkeras.experiment.options.targets import FIGURES, describe_targets
from samkeras.experiment.studies.figure import Figure, read_figure

# How messages name the values that a type allows, and help their place.
ALLOWED = {
    PositiveFloat: ("a number > 0 that float32 holds", "X"),
    NonNegativeFloat: ("a number >= 0 that float32 holds", "X"),
    PositiveInt: ("an integer >= 1 and < 2**31", "N"),
    NonNegativeInt: ("an integer >= 0 and < 2**32", "N"),
    Norm: ("a number > 1 that float32 holds, or inf", "X|inf"),
    SmallInt: ("an integer >= 1 and <= 100", "N"),
    ClosedUnitInterval: ("a number from 0 to 1", "X"),
    OpenUnitInterval: ("a number between 0 and 1", "X"),
    Fraction: ("a number >= 0 and < 1 that float32 holds", "X"),
    bool: ("true or false", "[true|false]"),
    str: ("text", "TEXT"),
}

_DIRECTIVES = ("config", "print_config", "help")
PATH_FIELDS = ("dataset", "data_dir", "run_dir", "tracking_uri")
MAX_RUNS = 10_000  # of one command: a list too many multiplies to billions

# Numbers as all write them, not as Python does: no 1_000, and no other script's digits.
NUMBERS = {
    int: re.compile(r"[-+]?\d+", re.ASCII),
    float: re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE),
}


def parse_runs(workload: str, arguments: list[str]) -> list[Config]:
    """The runs that a command line asks for: the product of its comma-separated lists.

    Defaults come from configs/<workload>.yaml, then `--config FILE`, then options.
    `--help` and `--print_config` print and exit.

    Raises:
        InputError: an option or value is wrong.
    """
    hints = option_types(workload)
    given = dict(_pair_options(arguments, workload, hints))
    return _expand(workload, hints, given)


def parse_figure(name: str, arguments: list[str]) -> tuple[Figure, list[Config]]:
    """A figure and its runs: those of its file, with `--preset small` and any other
    options in the place of what it says.

    Raises:
        InputError: the file, an option or a value is wrong.
    """
    figure = read_figure(name)
    hints = option_types(figure.workload)
    known = {**hints, "preset": str}
    given = dict(_pair_options(arguments, figure.workload, known))
    session = (*EXECUTION_FIELDS, *_DIRECTIVES)
    changes = {name: value for name, value in given.items() if name not in session}
    path = FIGURES / f"{name}.yaml"
    variants = [
        with_new_names(options, path)
        for options in figure.options(given.pop("preset", None))
    ]
    for options in variants:
        for option in options:
            if option not in hints:
                raise InputError(
                    f"{path}: workloads/{figure.workload} has no option "
                    f"{option}{nearest(option, hints)}"
                )
    texts = [{k: _text(v) for k, v in options.items()} for options in variants]
    runs = _expand(figure.workload, hints, given, texts, figure)
    return dataclasses.replace(figure, changes=changes), runs


def _text(value: object) -> str:
    """An option's value, or list of values, as the command line has it."""
    if isinstance(value, list):
        return ",".join(
            f"[{_text(item)}]" if isinstance(item, list) else _text(item)
            for item in value
        )
    return "null" if value is None else _shown(value)


def _expand(
    workload: str,
    hints: dict[str, Any],
    given: dict[str, str],
    variants: Sequence[dict[str, str]] = ({},),
    figure: Figure | None = None,
) -> list[Config]:
    """The runs of the options given, each the product of its lists, in the place of
    those of each of a figure's variants."""
    defaults = _read_config(default_file(workload), workload, hints)
    runs = {}
    for variant in variants:
        options = {**variant, **given}
        if "help" in options:
            _build_parser(workload, hints, defaults, figure).print_help()
            raise SystemExit(0)
        saved = {}
        if "config" in options:
            path = os.path.expanduser(options.pop("config"))
            saved = _read_config(path, workload, hints)
        print_config = options.pop("print_config", None) is not None
        if "epochs" in options:
            # Else the steps of the workload's defaults would count.
            options.setdefault("steps", "null")
        choices = {
            name: [
                _parse_option(f"--{name}", value, hints[name])
                for value in _split_option(name, text)
            ]
            for name, text in options.items()
        }
        num_runs = math.prod(map(len, choices.values()))
        if num_runs > MAX_RUNS:
            raise InputError(
                f"one command takes at most {MAX_RUNS:,} runs. Received: lists of "
                f"{num_runs:,} runs"
            )
        configs = [
            _build_config(
                workload, defaults, {**saved, **dict(zip(choices, values, strict=True))}
            )
            for values in itertools.product(*choices.values())
        ]
        _check_pruning(configs)
        _check_steps(options, configs)
        for config in configs:
            # Equal runs, such as the base optimizer at several rho, are one run.
            runs.setdefault(json.dumps(result_fields(config)), config)
    _check_method(given, list(runs.values()))
    if print_config:
        for config in runs.values():
            print(to_yaml(config, leave_out=()))
        raise SystemExit(0)
    return list(runs.values())


def _build_config(
    workload: str, defaults: dict[str, Any], asked: dict[str, Any]
) -> Config:
    """A run's config: what is asked for, in the place of its method's and its
    workload's defaults. Paths may start with ~, which no shell expands in
    --run_dir=~."""
    method = asked.get("method")
    is_workloads = method == defaults.get("method")  # whose defaults are tuned for it
    own = {} if is_workloads else DEFAULTS.get(method, {})
    values = {**defaults, **own, **asked}
    for name in PATH_FIELDS:
        if values.get(name) is not None:
            values[name] = os.path.expanduser(values[name])
    return config_type(workload)(workload=workload, **values)


def _check_method(given: dict[str, str], configs: list[Config]) -> None:
    """Checks SAM's options against each other.

    Args:
        given: the options of the command line, which must mean something to a run.
        configs: the runs.

    Raises:
        InputError: they contradict each other.
    """
    used = {config.method for config in configs if config.sam}
    for name, methods in OPTIONS.items():
        if name in given and used.isdisjoint(methods):
            shown = f"--method {given[name]}" if name == "method" else f"--{name}"
            needed = f"--method {' or '.join(methods)}" if used else "--sam"
            raise InputError(f"{shown} needs {needed}")
    for config in configs:
        if config.sam and config.method == "asam" and config.p not in (2, "inf"):
            raise InputError(
                f"--p must be 2 or inf with --method asam. Received: {config.p:g}"
            )


def _check_pruning(configs: list[Config]) -> None:
    """Checks the options of pruning against each other.

    Raises:
        InputError: they contradict each other.
    """
    for config in configs:
        amounts = (config.sparsity, config.match_width)
        if config.pruner == "none":
            continue
        if amounts == (None, None):
            raise InputError(
                f"--pruner {config.pruner} needs --sparsity S or --match_width W"
            )
        if None not in amounts:
            raise InputError("give one of --sparsity and --match_width, not both")
        if config.match_width and config.match_width > config.width_mult:
            raise InputError(
                f"--match_width must be at most --width_mult {config.width_mult:g}. "
                f"Received: {config.match_width:g}"
            )
    if all(config.pruner == "none" for config in configs):
        for name in ("sparsity", "match_width"):
            if any(getattr(config, name) is not None for config in configs):
                raise InputError(
                    f"--{name} needs --pruner, one of snip, random, magnitude"
                )


def _check_steps(given: dict[str, str], configs: list[Config]) -> None:
    """Checks the options of how long to train.

    Raises:
        InputError: they contradict each other.
    """
    for config in configs:
        if config.total_epochs >= 2**31:
            raise InputError(
                "--epochs_mult must leave less than 2**31 epochs. Received: "
                f"{config.epochs_mult:g}"
            )
        if isinstance(config, PPOConfig):
            if config.rollout_size % config.batch_size:
                raise InputError(
                    "--batch_size must divide --num_actors times --rollout_steps, "
                    f"{config.rollout_size}. Received: {config.batch_size}"
                )
            continue
        if config.steps and "epochs" in given:
            raise InputError("give one of --epochs and --steps, not both")
        if config.steps and config.steps % config.steps_a_round:
            raise InputError(
                f"--steps must be a multiple of --eval_every {config.eval_every}. "
                f"Received: {config.steps}"
            )


def split_list(text: str) -> list[str]:
    """Splits at commas outside brackets: "1,2" is two values, "[1,2]" is one."""
    values = re.split(r",(?![^\[]*\])", text)
    return [value.strip() for value in values]


def _split_option(name: str, text: str) -> list[str]:
    """The values of an option that may be a list."""
    # The path of a data set may have commas.
    is_path = name == "dataset" and os.path.exists(os.path.expanduser(text))
    return [text] if is_path or name in EXECUTION_FIELDS else split_list(text)


def _parse_option(name: str, value: Any, hint: Any) -> Any:
    """An option's value, given as text or as YAML has it.

    Raises:
        InputError: it is none that the option takes.
    """
    try:
        return _parse_value(value, hint)
    except (ValueError, KeyError):
        shown = "null" if value is None else _shown(value)
        is_choice = typing.get_origin(hint) is Literal
        choices = map(str, typing.get_args(hint) if is_choice else ())
        raise InputError(
            f"{name} must be {_allowed_values(hint)[0]}. Received: "
            f"{shown}{nearest(shown, choices)}"
        ) from None


def _parse_value(value: Any, hint: Any) -> Any:
    arguments = typing.get_args(hint)
    if type(None) in arguments:
        return None if value in (None, "null") else _parse_value(value, arguments[0])
    if Literal["inf"] in arguments:
        return value if value == "inf" else _parse_value(value, arguments[0])
    if typing.get_origin(hint) is tuple:
        return tuple(_parse_value(v, arguments[0]) for v in _list_values(value))
    if value is None or isinstance(value, list | dict):
        raise ValueError
    return _parse_text(_shown(value), hint)


def _parse_text(text: str, hint: Any) -> Any:
    if typing.get_origin(hint) is Literal:
        return {str(value): value for value in typing.get_args(hint)}[text]
    if hint is bool:
        return {"true": True, "false": False}[text.lower()]
    if hint is str:
        if not text or text == "null" or not text.isprintable():
            raise ValueError
        return text
    kind = int if issubclass(hint, int) else float
    if not NUMBERS[kind].fullmatch(text):
        raise ValueError
    return kind(hint(text)) + 0  # -0.0 is the same run as 0.0


def _list_values(value: Any) -> list:
    """The values of a list, of YAML or of text such as [0.5,0.75]."""
    if isinstance(value, list):
        return value
    found = re.fullmatch(r"\[(.*)\]", str(value))
    if found is None:
        raise ValueError
    return split_list(found[1]) if found[1].strip() else []


def _allowed_values(hint: Any) -> tuple[str, str]:
    """What options of a type take: in words, and in short for their place in the
    help."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        choices = [str(argument) for argument in arguments]
        return f"one of {', '.join(choices)}", f"{{{'|'.join(choices)}}}"
    if typing.get_origin(hint) is tuple:
        return f"a list like [0.5,0.75], each {ALLOWED[arguments[0]][0]}", "[X,X]"
    return ALLOWED[arguments[0] if arguments else hint]


def _build_parser(
    workload: str,
    hints: dict[str, Any],
    defaults: dict[str, Any],
    figure: Figure | None = None,
) -> argparse.ArgumentParser:
    """The parser that prints a workload's options, with its defaults or a figure's."""
    target, preset = f"workloads/{workload}", ""
    if figure is not None:
        target, preset = f"configs/figures/{figure.name}.yaml", "[--preset small] "
        defaults = {**defaults, **figure.grid}
    parser = argparse.ArgumentParser(
        prog=f"run.py {target}",
        usage=f"python run.py {target} {preset}[--option value[,value...]] ...",
        description=describe_targets()[target],
        epilog="Any option takes a comma-separated list: the runs are the product.",
    )
    parser.add_argument("--config", metavar="FILE", help="read a saved config first")
    parser.add_argument(
        "--print_config", action="store_true", help="print the config and stop"
    )
    if figure is not None:
        parser.add_argument(
            "--preset", metavar="small", help="the same study on a sample, in minutes"
        )
    kind = config_type(workload)
    descriptions = _descriptions(kind)
    for name, hint in hints.items():
        default = defaults.get(name, getattr(kind, name))
        shown = "" if default is None else f" (default: {_text(default)})"
        parser.add_argument(
            f"--{name}",
            metavar=_allowed_values(hint)[1],
            help=f"{descriptions[name]}{shown}".replace("%", "%%"),
        )
    return parser


def _descriptions(kind: type[Config]) -> dict[str, str]:
    """The string under each field of a class of configs."""
    descriptions = {}
    for base in kind.__mro__[:-1]:
        (body,) = ast.parse(inspect.getsource(base)).body
        descriptions.update(
            {
                field.target.id: text.value.value
                for field, text in itertools.pairwise(body.body)
                if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
            }
        )
    return descriptions


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def _pair_options(
    arguments: list[str], workload: str, hints: dict[str, Any]
) -> list[tuple[str, str]]:
    """Pairs each option with its value; `--sam` alone is `--sam true`."""
    names = (*hints, *_DIRECTIVES)
    pairs = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--"):
            raise InputError(f"options start with --. Received: {argument}")
        name, equals, value = argument[2:].partition("=")
        if name not in names:
            raise InputError(_explain_unknown(name, names, workload))
        if name in ("help", "print_config"):
            if equals:
                raise InputError(f"--{name} takes no value. Received: {value}")
        elif not equals:
            follows = remaining and not remaining[0].startswith("--")
            if follows:
                value = remaining.pop(0)
            elif hints.get(name) is bool:
                value = "true"
            else:
                raise InputError(f"--{name} needs a value")
        if name in dict(pairs):
            raise InputError(
                f"--{name} is given twice; several values are a list: --{name} a,b"
            )
        pairs.append((name, value))
    return pairs


def _explain_unknown(name: str, names: Sequence[str], workload: str) -> str:
    """What is wrong with an option that is none of `names`, and a remedy."""
    if name in NEW_NAMES:
        return f"--{name} is called --{NEW_NAMES[name]} now"
    hint = nearest(name, names).replace("mean ", "mean --") or "; see --help"
    if name in _all_fields():
        return f"workloads/{workload} has no option --{name}{hint}"
    return f"unknown option --{name}{hint}"


def _all_fields() -> dict[str, Any]:
    """The names and defaults of what is an option of some workload."""
    return {
        field.name: field.default
        for kind in (PPOConfig, SupervisedConfig)
        for field in dataclasses.fields(kind)
    }


def _read_config(
    path: str | Path, workload: str, hints: dict[str, Any]
) -> dict[str, Any]:
    """The options in a config file, if it is one of this workload.

    Raises:
        InputError: it cannot be read, has a field or a value that the workload does not
            take or is of another workload.
    """
    values = read_config(Path(path))
    owner = values.pop("workload", workload)
    if owner != workload:
        raise InputError(
            f"{path} is a config of workloads/{owner}, not of workloads/{workload}"
        )
    absent = _all_fields()
    options = {}
    for name, value in values.items():
        if name in hints:
            options[name] = _parse_option(f"{path}: {name}", value, hints[name])
        elif name not in absent:
            raise InputError(f"{path}: unknown field {name}{nearest(name, hints)}")
        elif value != absent[name]:
            # Configs that were saved hold what their workloads make no use of.
            raise InputError(
                f"{path}: workloads/{workload} has no option {name}"
                f"{nearest(name, hints)}"
            )
    return options
