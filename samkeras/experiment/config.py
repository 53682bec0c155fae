"""What a run is: its options, their defaults and their ranges."""

import argparse
import ast
import dataclasses
import hashlib
import itertools
import json
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml
from jsonargparse import ArgumentParser
from jsonargparse.typing import (
    ClosedUnitInterval,
    NonNegativeInt,
    OpenUnitInterval,
    PositiveInt,
    restricted_number_type,
)

from samkeras.errors import InputError, nearest

ROOT = Path(__file__).resolve().parents[2]

_FINITE = ("<", float("inf"))
PositiveFloat = restricted_number_type("Positive", float, [(">", 0), _FINITE])
NonNegativeFloat = restricted_number_type("NonNegative", float, [(">=", 0), _FINITE])
Fraction = restricted_number_type("Fraction", float, [(">=", 0), ("<", 1)])

# How messages name the values that a type allows, and help their place.
ALLOWED = {
    PositiveFloat: ("a number > 0", "X"),
    NonNegativeFloat: ("a number >= 0", "X"),
    PositiveInt: ("an integer >= 1", "N"),
    NonNegativeInt: ("an integer >= 0", "N"),
    ClosedUnitInterval: ("a number from 0 to 1", "X"),
    OpenUnitInterval: ("a number between 0 and 1", "X"),
    Fraction: ("a number >= 0 and < 1", "X"),
    bool: ("true or false", "[true|false]"),
    str: ("text", "TEXT"),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run. Each field is an option of the command line under its own name."""

    workload: str
    """name of the workload, set by the target"""

    width_mult: PositiveFloat = 1.0
    """width of the model, as a multiple of the standard model's"""
    depth: PositiveInt | None = None
    """hidden layers, or blocks a stage (default: the standard model's)"""
    sam: bool = False
    """train with sharpness-aware minimization"""
    perturbation: Literal["sam", "unnormalized", "random"] = "sam"
    """with sam: the rule for the perturbation"""
    rho: NonNegativeFloat = 0.05
    """with sam: radius of the perturbation"""
    m_sharpness: PositiveInt | None = None
    """with sam: examples that share a perturbation (default: the whole batch)"""
    seed: NonNegativeInt = 0
    """seed of initialization, data order and every other draw"""

    dataset: str = ""
    """data set: a TFDS name, an .npz file or the workload's sample"""
    data_dir: str | None = None
    """directory of prepared TFDS data sets (default: TFDS's own)"""
    train_examples: PositiveInt | None = None
    """train on the first N examples"""
    validation_examples: PositiveInt | None = None
    """validate on the first N examples"""
    max_length: PositiveInt | None = None
    """cut sentences to N words"""
    image_size: PositiveInt | None = None
    """height and width that images are brought to"""
    augment: bool = False
    """train on random crops of the images, mirrored or not"""
    label_noise: ClosedUnitInterval = 0.0
    """fraction of training labels replaced by another class"""
    holdout: Fraction = 0.0
    """validate on this fraction of the training set, not on the test split"""

    pruner: Literal["none", "snip", "random", "magnitude"] = "none"
    """how to choose the weights that stay zero from the start"""
    sparsity: Fraction | None = None
    """with a pruner: fraction of the kernels' weights to prune"""
    match_width: PositiveFloat | None = None
    """with a pruner: prune to the size of the dense model of this width_mult"""
    allow_empty_layers: bool = False
    """with a pruner: let a layer lose all its weights"""

    epochs: PositiveInt = 1
    """passes over the training set"""
    steps: PositiveInt | None = None
    """train by steps, not by epochs: this many"""
    eval_every: PositiveInt = 1000
    """with steps: validate every N steps, which then count as an epoch"""
    epochs_mult: PositiveFloat = 1.0
    """factor of epochs and steps; the learning rate's schedule stretches with them"""
    batch_size: PositiveInt = 128
    """examples per step"""
    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    """base optimizer"""
    momentum: ClosedUnitInterval = 0.0
    """momentum of sgd"""
    beta_1: Fraction = 0.9
    """decay of adam's and adamw's mean of the gradients"""
    beta_2: Fraction = 0.999
    """decay of adam's and adamw's mean of their squares"""
    epsilon: PositiveFloat = 1e-8
    """adam's and adamw's number that keeps them from dividing by zero"""
    learning_rate: NonNegativeFloat = 0.1
    """initial learning rate, after the warm-up"""
    lr_schedule: Literal["step", "cosine", "rsqrt"] = "step"
    """how the learning rate falls"""
    warmup_steps: NonNegativeInt = 0
    """with cosine and rsqrt: steps in which the learning rate rises from 0"""
    lr_milestones: tuple[OpenUnitInterval, ...] = ()
    """with step: fractions of the epochs after which the learning rate drops"""
    lr_decay: PositiveFloat = 0.1
    """with step: factor of each drop"""
    weight_decay: NonNegativeFloat = 0.0
    """coupled L2 with sgd and adam, decoupled with adamw"""

    alpha: PositiveFloat | None = None
    """train the centred model scaled by alpha with a squared loss: linear if large"""

    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """keras dtype policy"""
    steps_per_execution: PositiveInt = 32
    """steps in one compiled call"""

    experiment: str | None = None
    """MLflow experiment (default: the workload's name)"""
    tracking_uri: str | None = None
    """MLflow store or server (default: $MLFLOW_TRACKING_URI, else mlflow/mlflow.db)"""
    run_dir: str = "runs"
    """directory of the runs' files"""
    rerun: bool = False
    """train again what is already finished"""
    dry_run: bool = False
    """say what would run, and stop"""
    verbose: Literal[0, 1, 2] = 1
    """0: the table alone; 1: progress; 2: a line an epoch"""

    @property
    def total_epochs(self) -> int:
        """Passes over the training set, or rounds of steps that end with a validation,
        with their factor applied."""
        rounds = self.steps / self.steps_a_round if self.steps else self.epochs
        return max(1, round(rounds * self.epochs_mult))

    @property
    def steps_a_round(self) -> int | None:
        """Steps from one validation to the next; None where epochs decide."""
        return self.steps and min(self.steps, self.eval_every)

    @property
    def is_pruned(self) -> bool:
        """Whether any weight is pruned."""
        is_dense = self.match_width == self.width_mult or self.sparsity == 0
        return self.pruner != "none" and not is_dense


# Fields that change where and how a run is done, not what comes out of it.
EXECUTION_FIELDS = (
    "data_dir",
    "experiment",
    "tracking_uri",
    "run_dir",
    "rerun",
    "dry_run",
    "verbose",
)
_HINTS = typing.get_type_hints(Config)
_OPTIONS = tuple(f.name for f in dataclasses.fields(Config) if f.name != "workload")
_DIRECTIVES = ("config", "print_config", "help")


def result_fields(config: Config) -> dict:
    """The fields that define the result, those without effect at a neutral value."""
    values = dataclasses.asdict(config)
    if not config.sam:
        values.update(perturbation="sam", rho=0.0, m_sharpness=None)
    if not config.is_pruned:
        values.update(
            pruner="none", sparsity=None, match_width=None, allow_empty_layers=False
        )
    # One of them says how long to train.
    values.update({"epochs": 1} if config.steps else {"eval_every": 1000})
    return {k: v for k, v in values.items() if k not in EXECUTION_FIELDS}


def fingerprint(config: Config, backend: str) -> str:
    """Hash of what defines a run's result: equal runs are trained once."""
    text = json.dumps([backend, result_fields(config)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def count_work(config: Config, steps: int) -> float:
    """The work of a number of a run's steps, in gradients."""
    return steps * (2 if config.sam else 1)


def save_config(config: Config, path: Path) -> None:
    """Writes the config that `--config` reads back."""
    session = [name for name in EXECUTION_FIELDS if name != "data_dir"]
    path.write_text(_to_yaml(config, leave_out=session))


def describe_targets() -> dict[str, str]:
    """The workloads, each with the first line of its docstring."""
    paths = sorted((ROOT / "workloads").glob("[!_]*.py"))
    return {
        f"workloads/{p.stem}": ast.get_docstring(ast.parse(p.read_text())).split("\n")[
            0
        ]
        for p in paths
    }


def resolve_target(target: str) -> str:
    """The workload that a target such as `workloads/mnist_mlp.py` names.

    Raises:
        InputError: there is no such workload.
    """
    name = Path(target).with_suffix("").name
    names = [Path(known).name for known in describe_targets()]
    folder = str(Path(target).parent)
    if name in names and folder.endswith(("workloads", ".")):
        return name
    raise InputError(
        f"unknown workload {target}: there are "
        f"{', '.join(f'workloads/{n}' for n in names)}{nearest(name, names)}"
    )


def parse_runs(workload: str, arguments: list[str]) -> list[Config]:
    """The runs that a command line asks for: the product of its comma-separated lists.

    Defaults come from configs/<workload>.yaml, then `--config FILE`, then options.
    `--help` and `--print_config` print and exit.

    Raises:
        InputError: an option or value is wrong.
    """
    parser = _build_parser(workload)
    given = dict(_pair_options(arguments))
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
        name: [value] if name in (*EXECUTION_FIELDS, "config") else split_list(value)
        for name, value in given.items()
    }
    runs = {}
    for values in itertools.product(*choices.values()):
        options = dict(zip(choices, values, strict=True))
        config = _parse_one(parser, _default_file(workload), options)
        # Equal runs, such as the base optimizer at several rho, are one run.
        runs.setdefault(json.dumps(result_fields(config)), config)
    _check_pruning(list(runs.values()))
    _check_steps(given, list(runs.values()))
    if print_config:
        for config in runs.values():
            print(_to_yaml(config, leave_out=()))
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


def allowed_values(name: str) -> tuple[str, str]:
    """What an option takes: in words, and in short for its place in the help."""
    hint = _HINTS[name]
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is Literal:
        choices = [str(argument) for argument in arguments]
        return f"one of {', '.join(choices)}", f"{{{'|'.join(choices)}}}"
    if typing.get_origin(hint) is tuple:
        return f"a list like [0.5,0.75], each {ALLOWED[arguments[0]][0]}", "[X,X]"
    return ALLOWED[arguments[0] if arguments else hint]


def _build_parser(workload: str) -> ArgumentParser:
    defaults = {**_defaults(), **_check_file(_default_file(workload), workload)}
    parser = ArgumentParser(
        prog=f"run.py workloads/{workload}",
        usage=f"python run.py workloads/{workload} [--option value[,value...]] ...",
        description=describe_targets()[f"workloads/{workload}"],
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
    parser.add_argument("--workload", default=workload, help=argparse.SUPPRESS)
    descriptions = _descriptions()
    for name in _OPTIONS:
        default = defaults[name]
        shown = "" if default is None else f" (default: {_shown(default)})"
        parser.add_argument(
            f"--{name}",
            type=_HINTS[name],
            default=_defaults()[name],
            metavar=allowed_values(name)[1],
            help=f"{descriptions[name]}{shown}",
        )
    return parser


def _default_file(workload: str) -> Path:
    return ROOT / "configs" / f"{workload}.yaml"


def _defaults() -> dict:
    fields = dataclasses.fields(Config)
    return {f.name: f.default for f in fields if f.name != "workload"}


def _descriptions() -> dict[str, str]:
    """The string under each field of Config."""
    tree = ast.parse(Path(__file__).read_text())
    (body,) = (n.body for n in tree.body if getattr(n, "name", None) == "Config")
    return {
        field.target.id: text.value.value
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _plain(value: object) -> object:
    """The built-in value of one of jsonargparse's restricted numbers."""
    if isinstance(value, tuple):
        return tuple(_plain(v) for v in value)
    for kind in (bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    return value


def plain_values(config: Config) -> dict:
    """The fields as YAML has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(config).items()
    }


def _to_yaml(config: Config, leave_out: Sequence[str]) -> str:
    values = plain_values(config)
    kept = {name: value for name, value in values.items() if name not in leave_out}
    return yaml.safe_dump(kept, sort_keys=False)


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value) if isinstance(value, tuple) else value)


def _pair_options(arguments: list[str]) -> list[tuple[str, str]]:
    """Pairs each option with its value; `--sam` alone is `--sam true`."""
    pairs = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--"):
            raise InputError(f"options start with --. Received: {argument}")
        name, equals, value = argument[2:].partition("=")
        if name not in (*_OPTIONS, *_DIRECTIVES):
            hint = nearest(name, (*_OPTIONS, *_DIRECTIVES)).replace("mean ", "mean --")
            raise InputError(f"unknown option --{name}{hint or '; see --help'}")
        if not equals:
            follows = remaining and not remaining[0].startswith("--")
            if name in ("help", "print_config"):
                value = ""
            elif follows:
                value = remaining.pop(0)
            elif _HINTS.get(name) is bool:
                value = "true"
            else:
                raise InputError(f"--{name} needs a value")
        if name in dict(pairs):
            raise InputError(
                f"--{name} is given twice; several values are a list: --{name} a,b"
            )
        pairs.append((name, value))
    return pairs


def _parse_one(parser: ArgumentParser, file: Path, values: dict[str, str]) -> Config:
    # Later ones win: the workload's own config, a saved one, the options.
    files = [str(file), *([values["config"]] if "config" in values else [])]
    options = [f"--{name}={v}" for name, v in values.items() if name != "config"]
    arguments = [f"--config={path}" for path in files] + options
    try:
        parsed = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        raise _one_line(str(error), values) from None
    fields = dataclasses.fields(Config)
    return Config(**{f.name: _plain(getattr(parsed, f.name)) for f in fields})


def _one_line(message: str, values: dict[str, str]) -> InputError:
    """The one line for what jsonargparse says in several."""
    found = re.search(r'Parser key "(\w+)"', message)
    if found and found[1] in _OPTIONS:
        name = found[1]
        if name in values:
            hint = nearest(values[name], map(str, typing.get_args(_HINTS[name])))
            return InputError(
                f"--{name} must be {allowed_values(name)[0]}. "
                f"Received: {values[name]}{hint}"
            )
        return InputError(f"{name} in the config must be {allowed_values(name)[0]}")
    return InputError(" ".join(message.split()))


def _check_file(path: str | Path, workload: str) -> dict:
    """The values in a config file, if it is one of this workload.

    Raises:
        InputError: it cannot be read, has an unknown field or is of another workload.
    """
    values = _read_yaml(Path(path))
    for name in values:
        if name not in (*_OPTIONS, "workload"):
            raise InputError(f"{path}: unknown field {name}{nearest(name, _OPTIONS)}")
    if values.get("workload", workload) != workload:
        raise InputError(
            f"{path} is a config of workloads/{values['workload']}, "
            f"not of workloads/{workload}"
        )
    return values


def _read_yaml(path: Path) -> dict:
    try:
        values = yaml.safe_load(path.read_text())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {reason}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold fields and values, such as `rho: 0.1`")
    return values
