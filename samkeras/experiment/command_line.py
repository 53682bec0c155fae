"""The runs that a command line asks for, checked."""

import argparse
import ast
import dataclasses
import inspect
import itertools
import json
import re
import typing
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentParser
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveInt,
)

from samkeras.errors import InputError, nearest
from samkeras.experiment.config import (
    EXECUTION_FIELDS,
    Config,
    Fraction,
    NonNegativeFloat,
    PositiveFloat,
    PPOConfig,
    config_type,
    read_yaml,
    result_fields,
    to_yaml,
)
from samkeras.experiment.figure import Figure, read_figure
from samkeras.experiment.targets import FIGURES, ROOT, describe_targets

# How messages name the values that a type allows, and help their place.
ALLOWED = {
    PositiveFloat: ("a number > 0 that float32 holds", "X"),
    NonNegativeFloat: ("a number >= 0 that float32 holds", "X"),
    PositiveInt: ("an integer >= 1", "N"),
    NonNegativeInt: ("an integer >= 0", "N"),
    ClosedUnitInterval: ("a number from 0 to 1", "X"),
    OpenUnitInterval: ("a number between 0 and 1", "X"),
    Fraction: ("a number >= 0 and < 1 that float32 holds", "X"),
    bool: ("true or false", "[true|false]"),
    str: ("text", "TEXT"),
}

_DIRECTIVES = ("config", "print_config", "help")


def parse_runs(workload: str, arguments: list[str]) -> list[Config]:
    """The runs that a command line asks for: the product of its comma-separated lists.

    Defaults come from configs/<workload>.yaml, then `--config FILE`, then options.
    `--help` and `--print_config` print and exit.

    Raises:
        InputError: an option or value is wrong.
    """
    given = dict(_pair_options(arguments, _hints(workload)))
    return _expand(_build_parser(workload), workload, [given])


def parse_figure(name: str, arguments: list[str]) -> tuple[Figure, list[Config]]:
    """A figure and its runs: those of its file, with `--preset small` and any other
    options in the place of what it says.

    Raises:
        InputError: the file, an option or a value is wrong.
    """
    figure = read_figure(name)
    hints = _hints(figure.workload)
    given = dict(_pair_options(arguments, {**hints, "preset": str}))
    session = (*EXECUTION_FIELDS, *_DIRECTIVES)
    changes = {name: value for name, value in given.items() if name not in session}
    variants = figure.options(given.pop("preset", None))
    for options in variants:
        for option in options:
            if option not in hints:
                raise InputError(
                    f"{FIGURES / name}.yaml: workloads/{figure.workload} has no option "
                    f"{option}{nearest(option, hints)}"
                )
    parser = _build_parser(figure.workload, figure)
    texts = [{k: _text(v) for k, v in options.items()} for options in variants]
    runs = _expand(parser, figure.workload, [{**text, **given} for text in texts])
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
    parser: ArgumentParser, workload: str, variants: list[dict[str, str]]
) -> list[Config]:
    """The runs of several sets of options, each the product of its lists."""
    runs = {}
    for variant in variants:
        given = dict(variant)
        if "help" in given:
            parser.print_help()
            raise SystemExit(0)
        if "config" in given:
            _check_file(given["config"], workload)
        print_config = given.pop("print_config", None) is not None
        if "epochs" in given:
            # Else the steps of the workload's defaults would count.
            given.setdefault("steps", "null")
        choices = {
            name: [value]
            if name in (*EXECUTION_FIELDS, "config")
            else split_list(value)
            for name, value in given.items()
        }
        configs = [
            _parse_one(parser, workload, dict(zip(choices, values, strict=True)))
            for values in itertools.product(*choices.values())
        ]
        _check_pruning(configs)
        _check_steps(given, configs)
        for config in configs:
            # Equal runs, such as the base optimizer at several rho, are one run.
            runs.setdefault(json.dumps(result_fields(config)), config)
    if print_config:
        for config in runs.values():
            print(to_yaml(config, leave_out=()))
        raise SystemExit(0)
    return list(runs.values())


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


def _hints(workload: str) -> dict[str, Any]:
    """A workload's options and their types."""
    kind = config_type(workload)
    hints = typing.get_type_hints(kind)
    names = (field.name for field in dataclasses.fields(kind))
    return {name: hints[name] for name in names if name != "workload"}


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


def _build_parser(workload: str, figure: Figure | None = None) -> ArgumentParser:
    """The parser of a workload's options, with its defaults, or with a figure's."""
    kind = config_type(workload)
    given = _check_file(_default_file(workload), workload)
    target, preset = f"workloads/{workload}", ""
    if figure is not None:
        target, preset = f"configs/figures/{figure.name}.yaml", "[--preset small] "
        given.update(figure.grid)
    parser = ArgumentParser(
        prog=f"run.py {target}",
        usage=f"python run.py {target} {preset}[--option value[,value...]] ...",
        description=describe_targets()[target],
        epilog="Any option takes a comma-separated list: the runs are the product.",
        exit_on_error=False,
        print_config=None,
        allow_abbrev=False,
        formatter_class=argparse.HelpFormatter,
    )
    parser.add_argument(
        "--config", action="config", metavar="FILE", help="read a saved config first"
    )
    parser.add_argument(
        "--print_config", action="store_true", help="print the config and stop"
    )
    if figure is not None:
        parser.add_argument(
            "--preset", metavar="small", help="the same study on a sample, in minutes"
        )
    parser.add_argument("--workload", default=workload, help=argparse.SUPPRESS)
    descriptions = _descriptions(kind)
    for name, hint in _hints(workload).items():
        default = given.get(name, getattr(kind, name))
        shown = "" if default is None else f" (default: {_text(default)})"
        parser.add_argument(
            f"--{name}",
            type=hint,
            default=getattr(kind, name),
            metavar=_allowed_values(hint)[1],
            help=f"{descriptions[name]}{shown}",
        )
    return parser


def _default_file(workload: str) -> Path:
    return ROOT / "configs" / f"{workload}.yaml"


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


def _plain(value: object) -> object:
    """The built-in value of one of jsonargparse's restricted numbers."""
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def _pair_options(arguments: list[str], hints: dict[str, Any]) -> list[tuple[str, str]]:
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
            hint = nearest(name, names).replace("mean ", "mean --")
            raise InputError(f"unknown option --{name}{hint or '; see --help'}")
        if not equals:
            follows = remaining and not remaining[0].startswith("--")
            if name in ("help", "print_config"):
                value = ""
            elif follows:
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


def _parse_one(parser: ArgumentParser, workload: str, values: dict[str, str]) -> Config:
    hints = _hints(workload)
    # Later ones win: the workload's own config, a saved one, the options.
    files = [str(_default_file(workload))]
    if "config" in values:
        files.append(values["config"])
    options = [f"--{name}={v}" for name, v in values.items() if name != "config"]
    arguments = [f"--config={path}" for path in files] + options
    try:
        parsed = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise _one_line(str(error), values, hints) from None
    names = ("workload", *hints)
    return config_type(workload)(**{n: _plain(getattr(parsed, n)) for n in names})


def _one_line(
    message: str, values: dict[str, str], hints: dict[str, Any]
) -> InputError:
    """The one line for what jsonargparse says in several."""
    found = re.search(r'Parser key "(\w+)"', message)
    if found and found[1] in hints:
        name = found[1]
        allowed = _allowed_values(hints[name])[0]
        if name in values:
            hint = nearest(values[name], map(str, typing.get_args(hints[name])))
            return InputError(
                f"--{name} must be {allowed}. Received: {values[name]}{hint}"
            )
        return InputError(f"{name} in the config must be {allowed}")
    return InputError(" ".join(message.split()))


def _check_file(path: str | Path, workload: str) -> dict:
    """The values in a config file, if it is one of this workload.

    Raises:
        InputError: it cannot be read, has an unknown field or is of another workload.
    """
    values, hints = read_yaml(Path(path)), _hints(workload)
    for name in values:
        if name not in (*hints, "workload"):
            raise InputError(f"{path}: unknown field {name}{nearest(name, hints)}")
    if values.get("workload", workload) != workload:
        raise InputError(
            f"{path} is a config of workloads/{values['workload']}, "
            f"not of workloads/{workload}"
        )
    return values
