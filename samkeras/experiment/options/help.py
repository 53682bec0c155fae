"""What `--help` shows of a workload's options or a study's."""

import argparse
import ast
import inspect
import itertools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from samkeras.experiment.options.fields import allowed_values
from samkeras.experiment.options.groups import Config
from samkeras.experiment.options.session import Session
from samkeras.experiment.options.values import as_text
from samkeras.experiment.place import COMMAND

# What users set first, of what the workload has.
_FIRST = ("width_mult", "sam", "rho", "method", "dataset", "game", "epochs", "steps")
_FIRST += ("frames", "learning_rate", "batch_size", "seed", "workers")
_TRACKING = ("experiment", "tracking_uri", "run_dir")
HEADINGS = ("own", "SAM", "model", "data", "training", "measures")
HEADINGS += ("execution", "tracking")


def format_help(
    name: str,
    title: str,
    kind: type[Config],
    hints: Mapping[str, Any],
    defaults: Mapping[str, Any],
    taken: Sequence[tuple[str, str]],
    has_presets: bool,
) -> str:
    """The page that `--help` prints.

    Args:
        name: what is run.
        title: a line that says what that is.
        kind: the class of its runs.
        hints: its options and their types.
        defaults: the values of those that are not their class's default.
        taken: what its option `dataset` may be, each with what that is.
        has_presets: whether it is a study, which takes `--preset`.
    """
    preset = "[--preset small] " if has_presets else ""
    parser = argparse.ArgumentParser(
        prog=f"{COMMAND} {name}",
        usage=f"{COMMAND} {name} {preset}[--option value[,value...]] ...",
        description=title,
        epilog="Any option takes a comma-separated list: the runs are the product.",
        add_help=False,
    )
    texts = {**_describe_fields(kind), **_describe_fields(Session)}
    for heading, options in _arrange(kind, hints, defaults):
        group = parser.add_argument_group(heading)
        for option in options:
            of = kind if hasattr(kind, option) else Session
            default = defaults.get(option, getattr(of, option))
            shown = "" if default is None else f" (default: {as_list(default)})"
            group.add_argument(
                f"--{option}",
                metavar=allowed_values(hints[option])[1],
                help=f"{texts.get(option, '')}{shown}".replace("%", "%%"),
            )
    if taken:
        group = parser.add_argument_group("--dataset is one of")
        for value, text in taken:
            group.add_argument(value, help=text)
    group = parser.add_argument_group("this command")
    if has_presets:
        text = "the same study on a sample, in minutes"
        group.add_argument("--preset", metavar="small", help=text)
    group.add_argument("--config", metavar="FILE", help="read saved configs first")
    text = "print the options of all runs, as --config reads them, and stop"
    group.add_argument("--print_config", action="store_true", help=text)
    group.add_argument("-h", "--help", action="store_true", help="print this and stop")
    return parser.format_help()


def _arrange(
    kind: type[Config], hints: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[tuple[str, list[str]]]:
    """The options in the order of the page, under their headings."""
    one_of_two = "epochs" if defaults.get("steps") else "steps"
    first = [name for name in _FIRST if name in hints and name != one_of_two]
    yield "set first", first
    under: dict[str, list[str]] = {heading: [] for heading in HEADINGS}
    for name in hints:
        if name not in first:
            under[_find_heading(kind, name)].append(name)
    yield from ((heading, names) for heading, names in under.items() if names)


def _find_heading(kind: type[Config], name: str) -> str:
    for base in kind.__mro__:
        if name in vars(base).get("__annotations__", ()):
            return getattr(base, "heading", HEADINGS[0])
    return "tracking" if name in _TRACKING else "execution"


def as_list(value: object) -> str:
    """An option's value, or list of values, as the command line has it."""
    return ",".join(map(as_text, value if isinstance(value, list) else [value]))


def _describe_fields(kind: type) -> dict[str, str]:
    """The string under each field of a class of options."""
    descriptions = {}
    for base in reversed(kind.__mro__[:-1]):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue  # a class that is composed, or was typed in
        for statement in ast.parse(source).body:
            body = statement.body if isinstance(statement, ast.ClassDef) else []
            for field, text in itertools.pairwise(body):
                match field, text:
                    case (
                        ast.AnnAssign(target=ast.Name(id=name)),
                        ast.Expr(value=ast.Constant(value=str(found))),
                    ):
                        descriptions[name] = found
    return descriptions
