"""The runs that a command line asks for, checked."""

import dataclasses
import itertools
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from samkeras.errors import InputError, nearest
from samkeras.experiment.options.compose import compose
from samkeras.experiment.options.config import (
    NEW_NAMES,
    dump,
    find_methods,
    known_defaults,
    option_types,
    parse_fields,
)
from samkeras.experiment.options.fields import parse_option, split_list
from samkeras.experiment.options.groups import Config, find_first
from samkeras.experiment.options.help import as_list, format_help
from samkeras.experiment.options.methods import CLASSES, DEFAULTS
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.strict_yaml import read_documents
from samkeras.experiment.options.taken import find_taken
from samkeras.experiment.options.targets import (
    Target,
    default_run_dir,
    describe_target,
)
from samkeras.experiment.options.values import as_text

SESSION_FIELDS = tuple(field.name for field in dataclasses.fields(Session))
DIRECTIVES = ("config", "print_config", "help")
PATH_FIELDS = ("dataset", "data_dir", "run_dir", "tracking_uri")
MAX_RUNS = 10_000  # of one command: a list too many multiplies to billions

Options = Mapping[str, Any]


class Command(NamedTuple):
    """What a command line asks for."""

    session: Session
    configs: list[Config]
    """of each run, all different"""


class Study(NamedTuple):
    """A file that asks for runs."""

    path: Path
    title: str
    variants: Sequence[Options]
    """options and their values; a list of values is a dimension of the grid"""


def parse_command(
    target: Target,
    arguments: Sequence[str],
    given: Mapping[str, str] | None = None,
    study: Study | None = None,
) -> Command:
    """The runs that a command line asks for: the product of its comma-separated lists.

    Defaults come from the workload's YAML file, then `--config FILE`, each of whose
    documents makes runs, then the study, then the options of the command line. `--help`
    and `--print_config` print and exit.

    Args:
        target: the workload.
        arguments: of the command line.
        given: the same, if it is paired already, see pair_options.
        study: the file whose runs these are, each of its variants with the options
            given in the place of its own. None (default): the workload's run.

    Raises:
        InputError: an option or value is wrong.
    """
    hints = option_types(target)
    given = dict(pair_options(arguments, target, hints) if given is None else given)
    variants = [{}] if study is None else study.variants
    has_config = "config" in given and "help" not in given
    path = Path(os.path.expanduser(given.pop("config", "")))
    saved = read_documents(path) if has_config else [{}]
    _know_methods(target, hints, (given, target.values, *variants, *saved))
    defaults = parse_fields(target.values, target.defaults, target, hints)
    if "help" in given:
        _print_help(target, hints, defaults, study)
        raise SystemExit(0)
    bases = [parse_fields(values, path, target, hints) for values in saved]
    print_config = given.pop("print_config", None) is not None
    choices = {
        name: [
            parse_option(f"--{name}", value, hints[name])
            for value in _split_option(name, text, hints)
        ]
        for name, text in given.items()
    }
    if "epochs" in choices:
        # Else the steps of a study or of the workload's defaults would count.
        choices.setdefault("steps", [None])
    asked = [_read_choices(study, v, target, hints) | choices for v in variants]
    command = _find_runs(target, defaults, bases, asked)
    for config in command.configs:
        config.check()
    _check_effects(given, "", command)
    if study is not None and not given.keys() - SESSION_FIELDS:
        # Else what is given may be what leaves the file's own without effect.
        _check_effects(_find_dimensions(study), f"{study.path}: ", command)
    if print_config:
        _print_configs(command)
        raise SystemExit(0)
    if "run_dir" not in given and command.session.run_dir == Session.run_dir:
        session = dataclasses.replace(command.session, run_dir=default_run_dir())
        return command._replace(session=session)
    return command


def _find_dimensions(study: Study) -> list[str]:
    """The options of which a study has several values."""
    values = itertools.chain(*(variant.items() for variant in study.variants))
    return [name for name, of in values if isinstance(of, list) and len(of) > 1]


def _check_effects(names: Iterable[str], where: str, command: Command) -> None:
    """Checks that what is asked for means something to one of the runs.

    Raises:
        InputError: an option does not.
    """
    for name in names:
        is_sessions = name in SESSION_FIELDS
        needs = [
            each.unused.get(name)
            for each in ([command.session] if is_sessions else command.configs)
        ]
        missing = [needed for needed in needs if needed is not None]
        if len(missing) == len(needs):
            # The run that comes nearest to it.
            raise InputError(f"{where}--{name} needs {min(missing, key=len)}")


def _find_runs(
    target: Target,
    defaults: Options,
    bases: Sequence[Options],
    choices: Sequence[dict[str, list[Any]]],
) -> Command:
    """The runs of all choices of values, each in the place of each base's."""
    configs: dict[str, Config] = {}
    sessions: list[Session] = []
    for asked, base in itertools.product(choices, bases):
        if "epochs" in asked:  # of a study
            asked.setdefault("steps", [None])
        shared = {**defaults, **base, **{n: v[0] for n, v in asked.items()}}
        sessions.append(Session(**_expanded(_only(shared, SESSION_FIELDS))))
        for config in _multiply(target, defaults, base, asked):
            first = find_first(config)
            # Equal runs, such as the base optimizer at several rho, are one run.
            for each in (config,) if first is None else (first, config):
                configs.setdefault(json.dumps(each.result_fields), each)
    return Command(_only_session(sessions), [*configs.values()])


def _only_session(sessions: list[Session]) -> Session:
    """The session of a command, which all its runs have.

    Raises:
        InputError: they have different ones.
    """
    for name in SESSION_FIELDS:
        values = dict.fromkeys(as_text(getattr(session, name)) for session in sessions)
        if len(values) > 1:
            raise InputError(
                f"{name} must be the same for all runs of a command. Received: "
                f"{', '.join(values)}"
            )
    return sessions[0]


def _print_configs(command: Command) -> None:
    """Prints the options of runs, as `--config` reads them."""
    for config in command.configs:
        values = config.plain_values | dataclasses.asdict(command.session)
        print(("---\n" if len(command.configs) > 1 else "") + dump(values))


def _only(values: Options, names: Sequence[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name in names}


def _know_methods(
    target: Target, hints: dict[str, Any], sources: Iterable[Options]
) -> None:
    """Adds the workload's own methods to the hints, where one of the sources asks for
    another than the known ones: its module takes seconds to import."""
    values = [source["method"] for source in sources if "method" in source]
    asked = ",".join(map(as_list, values)).split(",")
    if not {*asked} <= {"", *CLASSES}:
        hints["method"] = Literal[*CLASSES, *find_methods(target)]


def _read_choices(
    study: Study | None, variant: Options, target: Target, hints: dict[str, Any]
) -> dict[str, list[Any]]:
    """The values of each of a study's options."""
    if study is None:
        return {}
    for name in variant:
        if name not in hints:
            raise InputError(
                f"{study.path}: {target} has no option {name}{nearest(name, hints)}"
            )
    return {
        name: [
            parse_option(f"{study.path}: {name}", value, hints[name])
            for value in _list_choices(name, values)
        ]
        for name, values in variant.items()
    }


def _list_choices(name: str, values: Any) -> list[Any]:
    is_list = isinstance(values, list) and name != "measure"
    return values if is_list else [values]


def _multiply(
    target: Target, defaults: Options, saved: Options, asked: dict[str, list[Any]]
) -> list[Config]:
    """The runs of all combinations of the values that are asked for."""
    num_runs = math.prod(map(len, asked.values()))
    if num_runs > MAX_RUNS:
        raise InputError(
            f"one command takes at most {MAX_RUNS:,} runs. Received: lists of "
            f"{num_runs:,} runs"
        )
    return [
        _build_config(
            target, defaults, {**saved, **dict(zip(asked, values, strict=True))}
        )
        for values in itertools.product(*asked.values())
    ]


def _build_config(target: Target, defaults: Options, asked: Options) -> Config:
    """A run's config: what is asked for, in the place of its method's and its
    workload's defaults."""
    method = asked.get("method", defaults.get("method"))
    is_workloads = method == defaults.get("method")  # whose defaults are tuned for it
    own = {} if is_workloads else DEFAULTS.get(str(method), {})
    values = {**defaults, **own, **asked}
    kept = {name: v for name, v in values.items() if name not in SESSION_FIELDS}
    return compose(target)(**_expanded(kept))


def _expanded(values: dict[str, Any]) -> dict[str, Any]:
    """Paths may start with ~, which no shell expands in --run_dir=~."""
    for name in PATH_FIELDS:
        if values.get(name) is not None:
            values[name] = os.path.expanduser(values[name])
    return values


def _split_option(name: str, text: str, hints: dict[str, Any]) -> list[str]:
    """The values of an option that may be a list."""
    # The path of a data set may have commas.
    is_path = name == "dataset" and os.path.exists(os.path.expanduser(text))
    is_one = is_path or name in (*SESSION_FIELDS, "data_dir", "measure")
    return [text] if is_one else split_list(text)


def _print_help(
    target: Target, hints: dict[str, Any], defaults: Options, study: Study | None
) -> None:
    """Prints a workload's options, with its defaults or a study's."""
    name, title = str(target), describe_target(target)
    if study is not None:
        name, title = f"configs/figures/{study.path.name}", study.title
        defaults = {**defaults, **study.variants[0]}
    kind, taken = (
        compose(target),
        find_taken(target.values.get("data"), target.defaults),
    )
    has_presets = study is not None
    print(format_help(name, title, kind, hints, defaults, taken, has_presets), end="")


def pair_options(
    arguments: Sequence[str], target: Target, hints: Mapping[str, Any]
) -> list[tuple[str, str]]:
    """Pairs each option with its value; `--sam` alone is `--sam true`.

    Raises:
        InputError: an option is unknown, has no value or is given twice.
    """
    names = (*hints, *DIRECTIVES)
    pairs: list[tuple[str, str]] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "-h":
            argument = "--help"
        if not argument.startswith("--"):
            raise InputError(f"options start with --. Received: {argument}")
        name, equals, value = argument[2:].partition("=")
        if name not in names:
            raise InputError(_explain_unknown(name, names, target))
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


def _explain_unknown(name: str, names: Sequence[str], target: Target) -> str:
    """What is wrong with an option that is none of `names`, and a remedy."""
    if name in NEW_NAMES:
        return f"--{name} is called --{NEW_NAMES[name]} now"
    hint = nearest(name, names).replace("mean ", "mean --") or "; see --help"
    if name in known_defaults():
        return f"{target} has no option --{name}{hint}"
    return f"unknown option --{name}{hint}"
